"""Changes the optimizer during a run and sets the learning rate once per epoch (paper, section 3.4)."""

import logging

import lightning
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from famseg.errors import UserError
from famseg.phases import index_at
from famseg.task import SegmentationTask

log = logging.getLogger(__name__)


class OptimizerPhases(Callback):
    """Moves a SegmentationTask from phase to phase.

    The phase and the losses live in the task and its checkpoints, so that `configure_optimizers` builds the optimizer
    whose state a checkpoint holds. The phase of an epoch is found by range, in the batches too: a checkpoint of an
    epoch's last batch resumes without `on_train_epoch_start`.
    """

    def setup(self, trainer: lightning.Trainer, task: lightning.LightningModule, stage: str) -> None:
        """Refuse strategies that own the optimizer; say which switches will not be reached."""
        if stage != "fit" or not isinstance(task, SegmentationTask) or task.switch is None:
            return
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
            name = type(trainer.strategy).__name__
            raise UserError(f"trainer.strategy={name} owns the optimizer and cannot switch it: use ddp or switch=none.")
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError("StochasticWeightAveraging sets the rates itself: leave it out, or use switch=none.")
        for phase in task.plan_phases()[1:]:
            if phase.start >= (trainer.max_epochs or 0):
                log.info(
                    "The switch to %s at epoch %d is not reached: the run ends after %d epochs.",
                    phase.optimizer.name,
                    phase.start,
                    trainer.max_epochs,
                )

    def on_train_epoch_start(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Enter the epoch's phase and set its rate."""
        self._enter(trainer, task)
        rate = task.plan_phases()[task.phase].rate(task.losses)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        task.log("lr", rate)

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: SegmentationTask, batch: object, batch_idx: int
    ) -> None:
        """Enter the phase of a run that resumed within an epoch."""
        if batch_idx and index_at(task.plan_phases(), trainer.current_epoch) != task.phase:
            self.on_train_epoch_start(trainer, task)

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Close the epoch: its mean loss joins the history that the decays read."""
        task.losses.append(float(task.train_loss.compute()))
        task.train_loss.reset()
        task.log("train/loss", task.losses[-1])

    def _enter(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:
        phases = task.plan_phases()
        due = index_at(phases, trainer.current_epoch)
        if due == task.phase:
            return
        task.phase = due
        # Assigning strategy.optimizers alone would leave precision plugins and checkpoints with the old optimizer.
        trainer.strategy.setup_optimizers(trainer)
        phase = phases[due]
        rate = phase.rate(task.losses)
        log.info("Epoch %d: %s from here on, learning rate %.3g.", trainer.current_epoch, phase.optimizer.name, rate)
