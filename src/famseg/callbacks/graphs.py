"""Training and validation replayed as CUDA graphs: the GPU no longer waits for Python to launch a thousand kernels."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, StochasticWeightAveraging
from torch import Tensor
from torch.optim import Optimizer

from famseg.callbacks.rehearsal import sample, trained, unchanged
from famseg.casts import recomputes
from famseg.errors import UserError
from famseg.recurring import Recurring
from famseg.replay import ReplayedStep
from famseg.task import SegmentationTask
from famseg.update import ReplayedUpdate, suits

log = logging.getLogger(__name__)

# The first adds gradients of several batches up from some epoch on; the second has torch wrap the optimizer's step in
# the middle of a training, and puts other tensors into the place of batch statistics.
REFUSED = (GradientAccumulationScheduler, StochasticWeightAveraging)


class CUDAGraphs(Callback):
    """Captures forward, loss and backward once, before the first step, and a fused optimizer's step at each new rate.

    Each step then is three launches, and a batch of validation is one. The same kernels run with the same arguments and
    random numbers: nothing changes but the time. The test is not captured.

    Args:
        enabled: `auto`: where it is possible; False; True: an error where it is not. It takes one GPU, steps of one
            batch, no gradient checkpointing, no stochastic weight averaging, and a network that never waits for a value
            from the GPU.

    Raises:
        UserError: at the start of training, `enabled` is True and the run cannot be captured; the message says why.
    """

    def __init__(self, enabled: bool | Literal["auto"] = "auto") -> None:
        if enabled not in ("auto", True, False):
            raise UserError(f"callbacks.graphs.enabled={enabled}: give auto, true or false.")
        self.enabled = enabled
        self._optimizer: Optimizer | None = None  # the last one

    def on_train_start(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Capture, if the run allows it."""
        if not self.enabled:
            return
        why = _obstacle(trainer, task)
        if why and self.enabled is True:
            raise UserError(f"callbacks.graphs.enabled=true cannot be: {why}. Use auto or false.")
        if why:
            return
        try:
            task.batch_loss = replayed(trainer, task)  # type: ignore[method-assign, assignment]
            task.batch_evaluation = evaluation(task)  # type: ignore[method-assign, assignment]
        except RuntimeError as error:  # whatever a network does that a capture forbids
            if self.enabled is True:
                raise UserError(f"callbacks.graphs.enabled=true: the network cannot be captured ({error}).") from error
            log.info("Training steps are not captured as a CUDA graph: %s", str(error).splitlines()[0])

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: SegmentationTask, batch: object, batch_idx: int
    ) -> None:
        """Have the optimizer's step replayed, too; a switch brings a new optimizer."""
        optimizer, step = trainer.optimizers[0], task.batch_loss
        if optimizer is self._optimizer or not isinstance(step, ReplayedStep):
            return
        self._release()
        self._optimizer = optimizer
        if suits(optimizer) and trainer.precision != "16-mixed":  # whose scaler decides whether there is a step
            optimizer.step = ReplayedUpdate(optimizer, step.gradients)  # type: ignore[method-assign, assignment]
        else:
            name = type(optimizer).__name__
            why = "it is not fused or has hooks, or gradients are scaled"
            log.info("Updates by %s are not captured as a CUDA graph: %s.", name, why)

    def on_train_end(self, trainer: lightning.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        """Give the graphs' memory back, and the gradients that lie in it."""
        self._give_back(task)

    def on_exception(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: SegmentationTask, exception: BaseException
    ) -> None:
        """Do so, too: in a notebook the same task is trained again, and a capture cannot be captured."""
        self._give_back(task)

    def _give_back(self, task: SegmentationTask) -> None:
        task.__dict__.pop("batch_evaluation", None)
        if task.__dict__.pop("batch_loss", None) is not None:
            task.zero_grad()
        self._release()

    def _release(self) -> None:
        """An optimizer that holds its own update would hold its state until Python looks for cycles."""
        if self._optimizer is not None:
            self._optimizer.__dict__.pop("step", None)
            self._optimizer = None


def _obstacle(trainer: lightning.Trainer, task: SegmentationTask) -> str:
    if task.device.type != "cuda":
        return f"training runs on {task.device}"
    if trainer.world_size > 1:
        return f"trainer.devices={trainer.world_size}"
    if trainer.accumulate_grad_batches > 1:  # the second backward would overwrite the gradients of the first
        return f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, REFUSED):
            return f"{type(callback).__name__} is among the callbacks"
    if recomputes(task.model):
        return "model.checkpointing=true"
    return ""


def replayed(trainer: lightning.Trainer, task: SegmentationTask) -> ReplayedStep:
    """The task's function (image, mask, known) -> loss; batch statistics and random numbers stay as they are."""
    plain = task.batch_loss

    def loss(*batch: Tensor) -> Tensor:
        with trainer.precision_plugin.forward_context():  # not around gradients, whose products autocast would round
            return plain(*batch)

    with unchanged(task):
        return ReplayedStep(loss, trained(task), sample(trainer, task))


def evaluation(task: SegmentationTask) -> Recurring:
    """The task's function (image, mask, known) -> loss and classes; a split's last batch has a graph of its own."""
    plain = task.batch_evaluation

    def evaluate(image: Tensor, mask: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        with _renewed_casts():
            return plain(image, mask, known)

    return Recurring(evaluate, "validated")


@contextmanager
def _renewed_casts() -> Iterator[None]:
    """Autocast as it is, but for its cache: a weight that was cast before a capture would not be cast in a replay."""
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype, enabled, cache_enabled=False):
        yield
