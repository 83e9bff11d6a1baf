"""Keeps the checkpoints of the best epochs."""

import logging
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

from famseg.checkpoint_io import BEST
from famseg.checkpoint_writer import beside_training
from famseg.monitor import require, sign
from famseg.task import SegmentationTask

log = logging.getLogger(__name__)


class BestCheckpoints(ModelCheckpoint):
    """The best of the epochs that are validated; `best.ckpt` is always the best of all, as a file of its own.

    Lightning names several by their epochs, and of a folder that was moved it forgets the scores: the next epoch would
    count as the best.

    Args:
        folder: of the checkpoints.
        monitor: validation score that is compared.
        keep: how many are kept.
        every: epochs from one validation to the next; the others have the scores of an earlier epoch.
    """

    def __init__(self, folder: Path, monitor: str, keep: int, every: int) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem if keep == 1 else "best-{epoch:03d}",
            monitor=monitor,
            mode="max" if sign(monitor) > 0 else "min",
            save_top_k=keep,
            every_n_epochs=every,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def score(self) -> float:
        """The best so far, negated where lower is better."""
        return sign(str(self.monitor)) * float(self.best_model_score)  # type: ignore[arg-type]

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Before the first epoch, see whether there is such a score.

        Raises:
            UserError: there is none.
        """
        if isinstance(pl_module, SegmentationTask):
            require(str(self.monitor), pl_module.validation_scores)
        super().setup(trainer, pl_module, stage)

    @property
    def state_key(self) -> str:
        """Lightning's own, which is in the checkpoints of runs that began before this class was there."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save what is among the best, and once more by its own name what is the best."""
        before = self.best_model_path
        with beside_training(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            if self.save_top_k > 1 and self.best_model_path != before:
                trainer.save_checkpoint(Path(str(self.dirpath)) / BEST)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the scores, with the files where the folder lies now; without the best of them they are void."""
        best = self._here(state_dict["best_model_path"])  # "" before the first validation
        if best and not Path(best).is_file():
            log.warning("%s is gone: the best epoch is chosen among those that follow.", best)
            return
        moved = {key: self._here(value) for key, value in state_dict.items() if key.endswith("_path")}
        kept = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": kept, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name) if path else path
