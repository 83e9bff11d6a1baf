"""What a run writes into its folder while it trains and tests."""

import csv
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from famseg import nvml
from famseg.callbacks.data_time import DataTime
from famseg.errors import UserError
from famseg.evaluation.results import table, write_results
from famseg.files import write_table
from famseg.loggers import log_classes, log_panels
from famseg.task import SegmentationTask

log = logging.getLogger(__name__)

LOADER_SHARE = 0.25  # of the training time; above it a run is told that it waits for images


class RunRecord(Callback):
    """Writes metrics.csv and timing.csv (a row per epoch), split.csv, test.csv (a row per image) and test overlays.

    The scores of an epoch without validation (trainer.check_val_every_n_epoch) are blank.
    Lightning's own CSV logger deletes its file on a restart; these rows are cut back to the checkpoint instead.
    timing.csv has the part of an epoch in which the device waits for batches or makes them (`DataTime`). On a GPU it
    also has the energy of an epoch with its validation, where the driver counts it, and the most memory that tensors
    took so far. The energy is that of the devices: of all runs that share them, and of the first machine's alone if
    there are several.

    Args:
        folder: the run's folder.
        overlays: images of the test split drawn at the end: best, median and worst.

    Raises:
        UserError: a negative number of images.
    """

    def __init__(self, folder: str, overlays: int = 8) -> None:
        if overlays < 0:
            raise UserError(f"callbacks.record.overlays={overlays}: give 0 or more.")
        self.folder = Path(folder)
        self.overlays = overlays
        self.metrics = EpochTable(self.folder / "metrics.csv")
        self.timing = EpochTable(self.folder / "timing.csv")
        self._hinted = False
        self._start = time.perf_counter()
        self._gpus: list[nvml.Gpu] = []

    def on_fit_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Write the split; cut the tables back to the epoch that a resumed run starts with."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            trainer.datamodule.write_split(self.folder / "split.csv")  # type: ignore[attr-defined]
            for table in (self.metrics, self.timing):
                table.cut(len(task.losses) if isinstance(task, SegmentationTask) else 0)

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Start the clocks; a run that resumes within an epoch has no start of an epoch."""
        self._gpus = _gpus_of(trainer)
        self._data_time = DataTime(trainer.strategy.root_device)
        self.on_train_epoch_start(trainer, task)

    def on_train_epoch_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Start the clocks."""
        self._start, self._images = time.perf_counter(), 0
        self._data_time.begin()
        self._train_seconds: float | None = None  # until validation starts
        self._joules = self._read_joules()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Count the time that the step waited for its batch."""
        self._data_time.batch_is_there()
        self._images += len(batch["image"]) * trainer.world_size

    def on_train_batch_end(self, *args: object) -> None:
        """From here on the loop waits for data."""
        self._data_time.step_ends()

    def on_validation_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Training ends where validation starts."""
        self._train_seconds = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Append the epoch's rows."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch
        optimizer = task.plan_phases()[task.phase].optimizer.name
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": epoch, "optimizer": optimizer, "lr": rate, "train/loss": task.losses[-1]}
        if self._train_seconds is not None:  # else Lightning still has the scores of an earlier epoch
            row |= {k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("val/")}
        self.metrics.append(row)
        seconds = self._train_seconds or time.perf_counter() - self._start
        waiting = self._data_time.seconds()
        speed = {"train_seconds": seconds, "data_seconds": waiting, "images_per_s": self._images / seconds}
        measured = speed | self._of_gpus(trainer)
        self.timing.append({"epoch": epoch, **{k: round(v, 4) for k, v in measured.items()}})
        self._hint(trainer, waiting / seconds)

    def _read_joules(self) -> float:
        return sum((gpu.joules() for gpu in self._gpus), 0.0) if self._gpus else math.nan

    def _of_gpus(self, trainer: lightning.Trainer) -> dict[str, float]:
        """The epoch's columns that a CPU does not have."""
        if trainer.strategy.root_device.type != "cuda":
            return {}
        joules = self._read_joules() - self._joules
        energy = {} if math.isnan(joules) else {"energy_wh": joules / 3600}
        return energy | {"peak_gib": torch.cuda.max_memory_allocated() / nvml.GIB}

    def _hint(self, trainer: lightning.Trainer, share: float) -> None:
        """Say once that the loader is the bottleneck; the first epoch also starts the workers and does not count."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if share < LOADER_SHARE or self._hinted or len(self.timing.rows) < 2 or data.lies_on_device:
            return
        self._hinted = True
        on_gpu = trainer.strategy.root_device.type == "cuda"
        mend = "data.cache=gpu if the set fits, else ram" if on_gpu else "data.cache=ram or disk, if it is none"
        log.warning(
            "%.0f %% of the training time is waiting for images (timing.csv has the times). Give more data.num_workers "
            "than %d, or %s.",
            100 * share,
            data.num_workers,
            mend,
        )

    def on_test_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Write the table of images, the scores of the split, and overlays of the best, median and worst images."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with trainer.precision_plugin.forward_context():  # for the overlays: as tested
            drawn = write_results(
                self.folder,
                task.test_rows,
                task.test_totals,
                task.predictor(),
                data.source,
                self.overlays,
                data.batch_size,
            )
        Console().print(table(task.test_totals, f"{len(task.test_rows)} test images"))
        log_panels(trainer.loggers, "test/extremes", drawn, data.source.classes)
        log_classes(trainer.loggers, "test/classes", task.test_totals)


def _gpus_of(trainer: lightning.Trainer) -> list[nvml.Gpu]:
    """The GPUs of the run on this machine, if the driver can be asked."""
    if trainer.strategy.root_device.type != "cuda":
        return []
    visible = nvml.visible_gpus()
    return [visible[i] for i in trainer.device_ids] if len(visible) > max(trainer.device_ids) else []


class EpochTable:
    """A CSV file with one row per epoch, rewritten whole and atomically: a kill leaves the old file or the new one.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def cut(self, epochs: int) -> None:
        """Keep the rows of the first epochs of what the file holds."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epochs]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append(dict(row))
        write_table(self.path, self.rows)
