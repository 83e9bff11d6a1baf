"""The Lightning trainer of a run."""

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger

from famseg.callbacks.best import BestCheckpoints
from famseg.callbacks.last import LastCheckpoint
from famseg.callbacks.preemption import Preemption
from famseg.checkpoint_writer import BackgroundCheckpointIO
from famseg.errors import UserError

REDRAW_SECONDS = 0.25


class ProgressBar(RichProgressBar):
    """Lightning's bar, drawn a few times a second: to show the loss it waits for all that the GPU has yet to do."""

    _drawn = 0.0

    def get_metrics(
        self, trainer: lightning.Trainer, task: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """With the loss of the last step; without the name of a logger's run, which pushes it off the line."""
        metrics = {key: value for key, value in super().get_metrics(trainer, task).items() if key != "v_num"}
        loss = trainer.callback_metrics.get("train/loss_step")
        return metrics if loss is None else metrics | {"train/loss_step": loss.item()}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, if it is time."""
        now = time.monotonic()
        if trainer.is_last_batch or now - self._drawn > REDRAW_SECONDS:
            self._drawn = now
            super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")


def build(
    *,
    output: str,
    monitor: str = "val/miou",
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
    precision: str = "auto",
    progress: bool = True,
    keep_best: int = 1,
    save_every_s: float = 10,
    **options: Any,
) -> lightning.Trainer:
    """A trainer with checkpoints and a progress bar.

    Args:
        output: the run's folder; checkpoints go to `checkpoints/best.ckpt` and `last.ckpt`.
        monitor: validation score that chooses the best checkpoint.
        callbacks: further callbacks.
        logger: where metrics are mirrored, if anywhere.
        precision: `auto` is bf16-mixed on a GPU that has bfloat16, else 32-true; or any of Lightning's.
        progress: whether to show a progress bar.
        keep_best: how many of the best checkpoints are kept; several also as `best-epoch=EPOCH.ckpt`.
        save_every_s: least seconds from one `last.ckpt` to the next; 0: after every epoch. The last epoch's is written
            in any case.
        **options: Lightning's own.

    Raises:
        UserError: a number of epochs, batches or seconds that is none, several devices in a multirun, or no such
            device on this machine.
    """
    _refuse_ddp_in_multirun(options)
    _require_numbers(options | {"keep_best": keep_best, "save_every_s": save_every_s})
    if precision == "auto":
        precision = _precision(options.get("accelerator", "auto"))
    elif precision not in PRECISIONS:
        raise UserError(f"trainer.precision={precision}: give auto or one of {', '.join(map(str, PRECISIONS))}.")
    _hush()
    if options.get("deterministic"):  # filled tensors would make mistakes alike, at the price of a pass over each
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    folder, every = Path(output) / "checkpoints", options.get("check_val_every_n_epoch", 1)
    checkpoints = [BestCheckpoints(folder, monitor, keep_best, every), LastCheckpoint(folder, save_every_s)]
    bar = [ProgressBar(leave=True)] if progress else []
    callbacks = sorted(callbacks, key=lambda each: isinstance(each, Preemption))  # it leaves when all have seen a step
    try:
        return lightning.Trainer(
            default_root_dir=output,
            callbacks=[*callbacks, *checkpoints, *bar],
            logger=[logger] if logger else False,
            plugins=[BackgroundCheckpointIO()],
            precision=precision,  # type: ignore[arg-type]
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the datamodule shards by itself, so that a run resumes exactly
            num_sanity_val_steps=0,  # it would draw from the validation before a resume is in place
            log_every_n_steps=10,
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:  # accelerator, devices or strategy, as it says
        raise UserError(f"trainer: {error}") from error


def _hush() -> None:
    for chatty in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # tips and device lists; environment.json has the devices
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # it does in a resume
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # of last.ckpt, which needs no scores
    # of the cores it knows of; famseg says when images are waited for, and with data.cache=gpu nothing is done by more
    warnings.filterwarnings("ignore", message="The '.*_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")


def _precision(accelerator: str) -> str:
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def _require_numbers(options: dict[str, Any]) -> None:
    for key in ("max_epochs", "accumulate_grad_batches", "check_val_every_n_epoch", "keep_best"):
        number = options.get(key, 1)
        if not isinstance(number, int) or number < 1:
            raise UserError(f"trainer.{key}={number}: give a whole number, 1 or more.")
    epochs, every = options.get("max_epochs", 1000), options.get("check_val_every_n_epoch", 1)
    if every > epochs:
        raise UserError(f"trainer.check_val_every_n_epoch={every}: of {epochs} epochs none would be validated.")
    limit = options.get("gradient_clip_val")
    if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
        raise UserError(f"trainer.gradient_clip_val={limit}: give a number above 0, or null for none.")
    seconds = options["save_every_s"]
    if not (isinstance(seconds, (int, float)) and seconds >= 0):
        raise UserError(f"trainer.save_every_s={seconds}: give a number of seconds, 0 or more.")


def _refuse_ddp_in_multirun(options: dict[str, Any]) -> None:
    several = options.get("devices", 1) not in (1, "1")
    if several and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices={options['devices']} in a multirun: a sweep runs one job per device. "
            "Leave out -m, or use trainer=gpu or trainer=cpu."
        )
