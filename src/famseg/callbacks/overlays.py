"""Overlays of a fixed set of validation images while a run trains."""

from pathlib import Path

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from famseg.data.datamodule import SegmentationDataModule
from famseg.errors import UserError
from famseg.evaluation.results import panels
from famseg.loggers import log_panels
from famseg.overlays import sheet, write
from famseg.task import SegmentationTask


class ValidationOverlays(Callback):
    """Draws the same validation images again and again, so that a person can watch the network learn.

    Args:
        folder: the run's folder; pictures go to `overlays/`.
        images: how many images, spread over the validation split.
        every: epochs between two pictures; the last epoch is always drawn.

    Raises:
        UserError: a number that is none of images or epochs.
    """

    def __init__(self, folder: str, images: int = 8, every: int = 10) -> None:
        if images < 0 or every < 1:
            raise UserError(f"callbacks.overlays: images={images}, every={every}: give 0 or more, and 1 or more.")
        self.folder = Path(folder)
        self.images, self.every = images, every

    def on_validation_epoch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: SegmentationTask
    ) -> None:
        """Draw, if this epoch is due; at `on_validation_end` an average of the weights has left the network again."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every == 0 or epoch == trainer.max_epochs
        if trainer.sanity_checking or not trainer.is_global_zero or not due or not self.images:
            return
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        names = data.splits["val"]
        chosen = np.unique(np.linspace(0, len(names) - 1, self.images).round().astype(int))
        captions = [(names[i], names[i]) for i in chosen]
        with trainer.precision_plugin.forward_context():  # as validated, and in another precision kernels are others
            drawn = panels(task.predictor(), data.source, captions, data.batch_size)
        write(self.folder / "overlays" / f"val_epoch_{epoch:03d}.png", sheet(drawn, data.source.classes))
        log_panels(trainer.loggers, "val/overlays", drawn, data.source.classes)
