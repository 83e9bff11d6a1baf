"""Stops or skips when a loss or a gradient is no number, and keeps the evidence."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from famseg.errors import UserError
from famseg.files import write_atomically
from famseg.gradients import largest_of
from famseg.replay import ReplayedStep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """A step whose gradients were measured.

    Attributes:
        epoch: of the step.
        step: its number.
        indices: of its images in the source, batch by batch.
        names: parameters with a gradient.
        largest: absolute value of each gradient, (names,); NaN where one is NaN.
        ready: when `largest` has arrived from the GPU; None: it is here.
    """

    epoch: int
    step: int
    indices: Sequence[Any]
    names: Sequence[str]
    largest: torch.Tensor
    ready: torch.cuda.Event | None = None

    def is_finite(self) -> bool:
        """Waits for the numbers, if need be."""
        if self.ready is not None:
            self.ready.synchronize()
        return bool(torch.isfinite(self.largest).all())


class NanGuard(Callback):
    """Watches every step for NaN and Inf.

    `stop` writes `nan.json` (files of the step's batches, epoch, step, largest gradients) and ends the run before the
    weights change; on a GPU, one step later, so that no step waits for the numbers of the one before, but before the
    weights are validated or saved. `skip` drops the step, weights and batch statistics as they were, and counts it in
    `skipped`.

    Args:
        folder: the run's folder.
        on_nan: what to do.

    Raises:
        UserError: `on_nan` is neither.
    """

    def __init__(self, folder: str, on_nan: Literal["stop", "skip"] = "stop") -> None:
        if on_nan not in ("stop", "skip"):
            raise UserError(f"callbacks.nan.on_nan={on_nan}: give stop or skip.")
        self.report = Path(folder) / "nan.json"
        self.on_nan = on_nan
        self.skipped = 0

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """List the parameters once: going through a large network takes as long as launching a step."""
        self._parameters = list(task.named_parameters())
        self._pending: Watched | None = None
        self._step = -1

    def on_train_batch_start(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Remember the batches of a step, and the statistics that their forward passes will change."""
        if trainer.global_step != self._step:  # else gradients are accumulated, and this batch is not the step's first
            self._step, self._indices = trainer.global_step, []
            if self.on_nan == "skip":
                self._buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
        self._indices += [batch["index"]]

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients, which no bad loss leaves finite, before they reach the weights."""
        if trainer.precision == "16-mixed":  # its scaler meets Inf by design, skips the step and lowers the scale
            return
        self._judge(trainer)
        gradients = {name: p.grad for name, p in self._parameters if p.grad is not None}
        if not gradients:
            return
        step = getattr(task, "batch_loss", None)  # captured, it has measured them
        largest = step.largest if isinstance(step, ReplayedStep) else largest_of(list(gradients.values()))
        where = (trainer.current_epoch, trainer.global_step, self._indices, list(gradients))
        if self.on_nan == "stop":
            self._pending = Watched(*where, *(on_its_way(largest) if is_late(task) else (largest, None)))
            if not is_late(task):
                self._judge(trainer)
        elif not Watched(*where, largest).is_finite():
            self._skip(trainer, task, optimizer)

    def on_validation_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Judge the last step before its weights are validated."""
        self._judge(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        """Judge the last step where there is no validation."""
        self._judge(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Judge the last step before its weights are saved."""
        self._judge(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The count, for checkpoints."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of a checkpoint."""
        self.skipped = state_dict["skipped"]

    def _skip(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.skipped += 1
        log.warning("Step %d skipped: no finite gradient (%d skipped so far).", trainer.global_step, self.skipped)
        optimizer.zero_grad(set_to_none=True)  # an optimizer leaves a parameter without gradient alone
        for name, buffer in task.named_buffers():
            buffer.copy_(self._buffers[name])

    def _judge(self, trainer: lightning.Trainer) -> None:
        """Stop if the step that was measured last is bad."""
        watched, self._pending = getattr(self, "_pending", None), None  # none before training and in a test
        if watched is None or watched.is_finite():
            return
        names = trainer.datamodule.source.names  # type: ignore[attr-defined]
        files = [names[int(index)] for batch in watched.indices for index in batch]
        largest = dict(zip(watched.names, watched.largest.tolist(), strict=True))
        ranked = sorted(largest.items(), key=lambda item: (item[1] == item[1], -item[1]))[:20]  # NaN first
        content = {"epoch": watched.epoch, "step": watched.step, "files": files}
        with write_atomically(self.report) as file:
            json.dump(content | {"largest_gradients": dict(ranked)}, file, indent=2)
        raise UserError(
            f"The gradient of step {watched.step} is not finite; files and gradients are in {self.report}. "
            "Look at the files, lower optimizer.rates.limit_max, clip (trainer.gradient_clip_val=1), or go on without "
            f"such steps: callbacks.nan.on_nan=skip resume=true hydra.run.dir={self.report.parent}"
        )


def is_late(task: lightning.LightningModule) -> bool:
    """Whether gradients are judged a step later: where reading one number waits for all that was launched."""
    return task.device.type == "cuda"


def on_its_way(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A copy in the computer's memory and the event of its arrival; nobody waits for it here."""
    if numbers.device.type != "cuda":
        return numbers, None
    there = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    there.copy_(numbers, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return there, event
