"""What a step before the first one takes: a batch, and that nothing of it stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor

from famseg.task import SegmentationTask


def sample(trainer: lightning.Trainer, task: SegmentationTask) -> tuple[Tensor, Tensor, Tensor]:
    """Image, mask and known classes as a training batch has them."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    shape = (data.batch_size, *data.size)
    image = torch.rand(shape, device=task.device)[:, None]
    mask = torch.zeros(shape, dtype=torch.long, device=task.device)
    known = torch.ones(data.batch_size, len(task.classes), dtype=torch.bool, device=task.device)
    batch: tuple[Tensor, Tensor, Tensor] = trainer.precision_plugin.convert_input((image, mask, known))
    return batch


def trained(task: SegmentationTask) -> list[Tensor]:
    """Parameters whose gradients a step takes."""
    return [p for p in task.parameters() if p.requires_grad]


@contextmanager
def unchanged(task: SegmentationTask) -> Iterator[None]:
    """Batch statistics, random numbers and who trains and who does not are afterwards what they were before."""
    buffers = [(buffer, buffer.clone()) for buffer in task.buffers()]
    modes = [(module, module.training) for module in task.modules()]
    try:
        with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
            yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, training in modes:
            module.training = training
