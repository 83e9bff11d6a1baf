"""The mean of a loss over an epoch, for which no step waits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class FiniteMean(Metric):  # type: ignore[misc]
    """Mean of what has come so far, without what is NaN or Inf, on the device and over all processes.

    torchmetrics' MeanMetric looks into each value from Python, so that the GPU finishes all it has been given, and then
    has nothing to do while the next launches are prepared.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: float | Tensor) -> None:
        """Add values by their sum, a scalar on the metric's device, and their number."""
        total = total.to(self.total.dtype)
        finite = total.isfinite()
        self.total += torch.where(finite, total, 0.0)
        self.count += finite * count

    def compute(self) -> Tensor:
        """The mean; NaN of nothing."""
        return self.total / self.count

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        """Go where the network goes, but not to its precision: sums of an epoch soon stand still in bfloat16."""
        module: nn.Module = super()._apply(lambda state: state.to(fn(state).device), exclude_state)
        return module
