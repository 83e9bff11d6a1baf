"""Keeps the checkpoint that a run goes on from."""

import logging
import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

from famseg.callbacks.preemption import Preemption
from famseg.checkpoint_io import LAST
from famseg.checkpoint_writer import beside_training, settle
from famseg.errors import UserError

log = logging.getLogger(__name__)


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt`: after the first and the last epoch, when the run is asked to stop, and between them now and then.

    A short epoch takes no longer than writing a checkpoint does.

    Args:
        folder: of the checkpoints.
        every_s: least seconds from one to the next; 0: after every epoch.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        # not save_last: that is a copy of the best whenever there is a new one
        super().__init__(folder, filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)
        self.every_s = every_s
        self._written: float | None = None  # seconds of a clock

    @property
    def state_key(self) -> str:
        """Lightning's own, which is in the checkpoints of runs that began before this class was there."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save, if it is time on any device: all of them take part, and their clocks differ."""
        wanted = self._is_time() or _is_last_epoch(trainer) or _is_asked_to_stop(trainer)
        if trainer.strategy.reduce_boolean_decision(wanted, all=False):
            with beside_training(trainer):
                super().on_train_epoch_end(trainer, pl_module)
            self._written = time.monotonic()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Wait for what was saved before; that it could not be written does not hide why the run ends."""
        super().on_exception(trainer, pl_module, exception)
        try:
            settle(trainer)
        except UserError as error:
            log.error("%s", error)

    def _is_time(self) -> bool:
        return self._written is None or time.monotonic() - self._written >= self.every_s


def _is_last_epoch(trainer: lightning.Trainer) -> bool:
    """Whether training ends with the epoch that ends now."""
    epochs, steps = trainer.current_epoch + 1, trainer.global_step
    return trainer.should_stop or epochs == trainer.max_epochs or steps == trainer.max_steps


def _is_asked_to_stop(trainer: lightning.Trainer) -> bool:
    """Whether a cluster takes this machine away."""
    return any(isinstance(callback, Preemption) and callback.asked for callback in trainer.callbacks)  # type: ignore[attr-defined]
