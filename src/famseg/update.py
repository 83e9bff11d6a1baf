"""An optimizer's step as a CUDA graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from famseg.replay import captured
from famseg.streams import side_by_side

AT_ONCE = 36  # parameters that a launch of torch's fused AdamW takes; of SGD it takes more


class ReplayedUpdate:
    """Stands in for the `step` of an optimizer whose gradients are always the same tensors.

    An optimizer goes through its parameters in Python, for 600 of them as long as the GPU takes for many layers. The
    first step is plain, for it makes the state, and so is the first with a state that was loaded since. The rate and
    all other numbers of Python are part of a graph, which is captured anew when one has changed; so an epoch may have a
    rate of its own, a step should not.

    Args:
        optimizer: one that `suits`.
        gradients: parameters, each with the tensor that its gradient is written to.
    """

    def __init__(self, optimizer: Optimizer, gradients: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._optimizer, self._gradients = optimizer, gradients
        self._plain: Callable[[], Any] = optimizer.step
        self._state: object = None  # whose tensors the graph writes
        self._numbers: list[dict[str, Any]] | None = None  # of the graph
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, closure: Callable[[], Any]) -> Any:
        """What `optimizer.step(closure)` does: the closure computes the gradients."""
        loss = closure()
        if any(parameter.grad is not gradient for parameter, gradient in self._gradients):  # skipped: there are none
            self._plain()
        elif self._optimizer.state is not self._state:
            self._plain()
            self._state, self._numbers = self._optimizer.state, None
        else:
            self._update()
        return loss

    def _update(self) -> None:
        numbers = [{k: v for k, v in group.items() if k != "params"} for group in self._optimizer.param_groups]
        if numbers != self._numbers:
            with _capturable(self._optimizer), SideBySide():  # type: ignore[no-untyped-call]
                self._graph, self._numbers = captured(self._plain), numbers
        self._graph.replay()  # type: ignore[union-attr]


def suits(optimizer: Optimizer) -> bool:
    """Whether all that a step reads and writes lies on the GPU, as torch's fused forms have it; others count there.

    Hooks of a step would run at its captures only.
    """
    hooks = {**optimizer._optimizer_step_pre_hooks, **optimizer._optimizer_step_post_hooks}
    return not hooks and all(group.get("fused") for group in optimizer.param_groups)


class SideBySide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A fused update within it runs a launch's worth of parameters beside another.

    A launch gives one program 65,536 numbers, so that it takes as long as its largest parameter, and leaves most of the
    GPU alone: FAMSeg-T's update is seven launches one after the other, and four more of small parameters.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func.name().startswith("aten::_fused_"):
            return func(*args, **kwargs)
        starts = range(0, len(args[0]), AT_ONCE)  # lists of tensors: parameters, gradients and what the optimizer keeps
        side_by_side([partial(func, *(each[i : i + AT_ONCE] for each in args), **kwargs) for i in starts])


@contextmanager
def _capturable(optimizer: Optimizer) -> Iterator[None]:
    """Under the flag that torch wants for a capture: a fused step is the same with it, but a plain one warns of it."""
    groups = [(group, group["capturable"]) for group in optimizer.param_groups if "capturable" in group]
    try:
        for group, _ in groups:
            group["capturable"] = True
        yield
    finally:
        for group, before in groups:
            group["capturable"] = before
