"""A moving average of the weights that is what a run keeps, tests and exports."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from famseg.errors import UserError


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
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Make the average where the network will be trained; Lightning moves the network only after this."""
        if stage == "fit":
            pl_module.to(trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up training where it was; a test keeps the average, which is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
