"""The kernels of training and validation, compiled before the first step: side by side instead of one by one."""

import logging

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from famseg.callbacks.rehearsal import sample, trained, unchanged
from famseg.kernels.launch import compiling
from famseg.task import SegmentationTask

log = logging.getLogger(__name__)


class KernelCompilation(Callback):
    """Has a GPU's kernels and their launchers built by all cores; a machine's first run would wait for each in turn.

    A step and a validation on a batch of noise show which they are; weights, batch statistics and random numbers stay
    as they are. What autocast casts is known from then on (`famseg.casts`), which depends on the network alone.
    """

    def on_fit_start(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """The network is on its device, in its final form; nothing has validated or captured it yet."""
        if task.device.type != "cuda":
            return
        try:
            rehearse(trainer, task)
        except RuntimeError as error:  # no memory, or a network that minds what its numbers are; a step will tell
            log.info("GPU kernels are compiled one by one: %s", str(error).splitlines()[0])


def rehearse(trainer: lightning.Trainer, task: SegmentationTask) -> None:
    """Compile what a step and a validation launch."""
    precision = trainer.precision_plugin
    with unchanged(task), compiling():
        image, mask, known = sample(trainer, task)
        with precision.forward_context():
            loss = task.batch_loss(image, mask, known)
        # not `backward`, of which gradients would stay, and in which DDP would add those of all processes
        torch.autograd.grad(loss, trained(task), allow_unused=True)
        task.eval()
        with torch.no_grad(), precision.forward_context():
            task.batch_evaluation(image, mask, known)
