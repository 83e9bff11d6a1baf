"""On a GPU no step of training waits for what the GPU has yet to do, so that the GPU always has something to do."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from famseg.callbacks import CUDAGraphs, MovingAverage
from famseg.data.transforms import Augmentation
from famseg.models import SIZES, FAMSeg


class Impatient(Callback):
    """From the third batch of an epoch to its last, whatever waits is an error."""

    steps = 0

    def on_train_start(self, trainer, task):
        trainer.log_every_n_steps = 0  # a step that is logged is read

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        last = trainer.is_last_batch
        torch.cuda.set_sync_debug_mode("default" if batch_idx < 2 or last else "error")
        self.steps += batch_idx > 2 and not last

    def on_exception(self, *_):
        torch.cuda.set_sync_debug_mode("default")


def network():
    return FAMSeg(**{**SIZES["N"], "depths": (1, 1, 1, 1)}, drop_path=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["gpu", "ram"])
def test_no_step_waits(fit, tmp_path, cache):
    impatient = Impatient()
    data = {"n": 60, "cache": cache, "augment": Augmentation(engine="gpu", ultrasound=0.5), "num_workers": 1}
    callbacks = [CUDAGraphs(True), MovingAverage(0.9), fit.NanGuard(str(tmp_path)), impatient]
    fit(epochs=3, network=network, accelerator="gpu", callbacks=callbacks, data=data)
    assert impatient.steps > 3
