"""A moving average of the weights that is what a run keeps, tests and exports."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn


class MovingAverage(EMAWeightAveraging):
    """Lightning's average of the weights, tested, too.

    A checkpoint holds the average as `state_dict`, and the weights that training goes on with beside it. Lightning's
    own callback puts the latter into the network whenever it loads a checkpoint after training, so that a test scores
    weights that were neither validated nor chosen.
    """

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up training where it was; a test keeps the average, which is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
