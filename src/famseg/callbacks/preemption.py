"""Leaves in good order when the machine is taken away."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from famseg.checkpoint_io import LAST, damage, step_of
from famseg.checkpoint_writer import settle
from famseg.signals import Preempted, give_back, take

log = logging.getLogger(__name__)


class Preemption(Callback):
    """On SIGTERM or SIGUSR1 (Slurm's `--signal`): finishes the step, saves, leaves with the status "resumable".

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str) -> None:
        self.last = Path(folder) / "checkpoints" / LAST
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Take the signals over from whoever would leave without saving; Lightning has set its own by now."""
        self._before = take(self._ask)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave, except after the last batch: the epoch's validation then still belongs to it.

        And except within a step: no checkpoint holds the gradients of its first batches.
        """
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole_step and not trainer.is_last_batch and self._asked_anywhere(trainer):
            trainer.save_checkpoint(self.last)
            self._leave(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Leave between two epochs, if the last checkpoint is that of the epoch before.

        `LastCheckpoint` has seen to that, unless the signal came just now: the end of a step or of the epoch is next.
        """
        if self._asked_anywhere(trainer) and self._is_saved(trainer):
            self._leave(trainer)

    def on_train_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Give the signals back, before Lightning does; after an error, Lightning alone does."""
        give_back(self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _asked_anywhere(self, trainer: lightning.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def _is_saved(self, trainer: lightning.Trainer) -> bool:
        """As the first device sees the file, which writes it: all must leave, or none."""
        settle(trainer)
        saved = trainer.is_global_zero and damage(self.last) is None and step_of(self.last) == trainer.global_step
        return trainer.strategy.broadcast(saved)

    def _leave(self, trainer: lightning.Trainer) -> None:
        log.warning("Asked to stop in epoch %d: saved %s; resume=true goes on.", trainer.current_epoch, self.last)
        raise Preempted(saved=True)
