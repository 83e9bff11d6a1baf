"""A moving average of the weights that is what a run keeps, tests and exports."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.replay import ReplayedStep, captured


class MovingAverage(WeightAveraging):
    """Lightning's average of the weights after each step, in a few launches, on the network's device; tested, too.

    A checkpoint holds the average as `state_dict`, and the weights that training goes on with beside it. Lightning's
    own callback puts the latter into the network whenever it loads a checkpoint after training, so that a test scores
    weights that were neither validated nor chosen.

    Args:
        decay: weight of the average so far in each step.

    Raises:
        UserError: the average would never move, or not be one.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.ema.decay={decay}: give a number from 0 to below 1.")
        super().__init__(use_buffers=True)
        self.decay = decay

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Make the average where, and in what precision, the network will be trained; Lightning sees to it only later.

        Raises:
            UserError: the precision is too coarse.
        """
        if stage == "fit":
            if trainer.precision in ("bf16-true", "16-true"):  # a thousandth of a difference is rounded away
                raise UserError(
                    f"callbacks=ema: in trainer.precision={trainer.precision} the average would never move. Use "
                    "bf16-mixed, 16-mixed, 32-true or 64-true."
                )
            trainer.precision_plugin.convert_module(pl_module.to(trainer.strategy.root_device))
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """List what is averaged once: going through a large network takes as long as launching a step."""
        average: Any = self._average_model
        pairs = list(zip(_tensors(average.module), _tensors(pl_module), strict=True))
        self._numbers = _lists([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters = _lists([pair for pair in pairs if not pair[0].is_floating_point()])
        self._is_first = not average.n_averaged
        self._graph: torch.cuda.CUDAGraph | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a step's weights into the average; torch's would wait for the GPU to ask it whether they are the first.

        Where steps are captured as CUDA graphs, so is this from the second on.
        """
        if trainer.global_step <= self._latest_update_step:  # gradients are accumulated
            return
        self._latest_update_step = trainer.global_step
        if self._is_first or not isinstance(getattr(pl_module, "batch_loss", None), ReplayedStep):
            self._take()
            self._is_first = False
            return
        self._graph = self._graph or captured(self._take)
        self._graph.replay()

    @torch.no_grad()
    def _take(self) -> None:
        """Counters, which have no mean, are taken as they are."""
        torch._foreach_lerp_(*self._numbers, 1.0 if self._is_first else 1 - self.decay)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)
        self._average_model.n_averaged += 1  # type: ignore[union-attr]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the average into the network; give the graph's memory back."""
        super().on_train_end(trainer, pl_module)
        self._graph = None

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up training where it was; a test keeps the average, which is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _lists(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [average for average, _ in pairs], [current for _, current in pairs]
