"""On a GPU no step of training waits for what the GPU has yet to do, so that the GPU always has something to do."""

import traceback
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from famseg.callbacks import CUDAGraphs, MovingAverage
from famseg.data.transforms import Augmentation


class Impatient(Callback):
    """From the third batch of an epoch to its last, whatever waits is an error."""

    steps = 0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.steps += batch_idx > 2
        self.forbid(batch_idx >= 2 and not trainer.is_last_batch)

    def on_exception(self, *_):
        self.forbid(False)

    def forbid(self, forbidden):
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")


class Reads(TorchDispatchMode):
    """Where Python asks for a tensor's value, which on a GPU is a wait."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.places.append("".join(traceback.format_stack(limit=12)))
        return func(*args, **(kwargs or {}))


class Reader(Impatient):
    """The same on a CPU, as far as it shows there."""

    def __init__(self):
        self.reads, self._entered = Reads(), False

    def forbid(self, forbidden):
        if forbidden != self._entered:
            self._entered = forbidden
            self.reads.__enter__() if forbidden else self.reads.__exit__(None, None, None)


def test_no_step_reads_a_value(fit):
    reader = Reader()
    fit(epochs=3, callbacks=[MovingAverage(0.9), reader])
    assert reader.steps == 6
    assert not reader.reads.places, reader.reads.places[0]


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["gpu", "ram"])
def test_no_step_waits(fit, tmp_path, cache):
    impatient = Impatient()
    data = {"n": 60, "cache": cache, "augment": Augmentation(engine="gpu", ultrasound=0.5), "num_workers": 1}
    callbacks = [CUDAGraphs(True), MovingAverage(0.9), fit.NanGuard(str(tmp_path)), impatient]
    fit(epochs=3, network=partial(fit.small, drop_path=0.1), accelerator="gpu", callbacks=callbacks, data=data)
    assert impatient.steps > 3
