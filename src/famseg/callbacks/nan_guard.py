"""Stops or skips when a loss or a gradient is no number, and keeps the evidence."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from famseg.errors import UserError
from famseg.files import write_atomically

log = logging.getLogger(__name__)


class NanGuard(Callback):
    """Watches every step for NaN and Inf.

    `stop` writes `nan.json` (files of the batch, epoch, step, largest gradients) and ends the run before the weights
    change. `skip` drops the step, weights and batch statistics as they were, and counts it in `skipped`.

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

    def on_train_batch_start(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Remember the batch, and the statistics that its forward pass will change."""
        self._indices = batch["index"]
        if self.on_nan == "skip":
            self._buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, task: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradients, which no bad loss leaves finite, before they reach the weights."""
        gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        if not gradients or torch.isfinite(torch.nn.utils.get_total_norm(gradients.values())):
            return
        if trainer.precision == "16-mixed":  # its scaler meets Inf by design, skips the step and lowers the scale
            return
        if self.on_nan == "stop":
            self._stop(trainer, gradients)
        self.skipped += 1
        log.warning("Step %d skipped: no finite gradient (%d skipped so far).", trainer.global_step, self.skipped)
        optimizer.zero_grad(set_to_none=True)  # an optimizer leaves a parameter without gradient alone
        for name, buffer in task.named_buffers():
            buffer.copy_(self._buffers[name])

    def state_dict(self) -> dict[str, Any]:
        """The count, for checkpoints."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of a checkpoint."""
        self.skipped = state_dict["skipped"]

    def _stop(self, trainer: lightning.Trainer, gradients: dict[str, torch.Tensor]) -> None:
        names = trainer.datamodule.source.names  # type: ignore[attr-defined]
        files = [names[int(index)] for index in self._indices]
        largest = {name: float(gradient.float().abs().max()) for name, gradient in gradients.items()}
        ranked = sorted(largest.items(), key=lambda item: (item[1] == item[1], -item[1]))[:20]  # NaN first
        content = {"epoch": trainer.current_epoch, "step": trainer.global_step, "files": files}
        with write_atomically(self.report) as file:
            json.dump(content | {"largest_gradients": dict(ranked)}, file, indent=2)
        raise UserError(
            f"The gradient of step {trainer.global_step} is not finite; files and gradients are in {self.report}. "
            "Look at the files, lower optimizer.rates.limit_max, clip (trainer.gradient_clip_val=1), or go on without "
            "such steps: callbacks.nan.on_nan=skip resume=true."
        )
