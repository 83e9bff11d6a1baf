import os
import signal
from functools import partial

import lightning
import pytest
import torch
from torch import nn

from famseg import schedules
from famseg.callbacks import (
    KernelCompilation,
    NanGuard,
    OptimizerPhases,
    Preemption,
    RunRecord,
    StepSeed,
    ValidationOverlays,
)
from famseg.data.phantom import datamodule
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg
from famseg.phases import OptimizerOption, Switch
from famseg.schedules import RateLimits
from famseg.task import SegmentationTask
from famseg.trainer import build

SGD = OptimizerOption("sgd", partial(torch.optim.SGD, lr=1e-3, momentum=0.9), RateLimits())
ADAMW = OptimizerOption("adamw", partial(torch.optim.AdamW, weight_decay=0.01), RateLimits())


class Net(nn.Module):
    """Small, with what makes a resume hard: batch statistics and random numbers in every step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)
        )

    def forward(self, image):
        noise = torch.rand(1, 6, 1, 1) if self.training else 1.0
        maps = self.layers[:3](image) * noise
        return self.layers[3](maps)


@pytest.fixture
def fit(tmp_path):
    """Train a small network on a tiny phantom; returns trainer and task."""

    def run(
        folder="run",
        epochs=4,
        ckpt_path=None,
        switch="default",
        decay=schedules.adadelta,
        stop_after=None,
        callbacks=(),
        network=Net,
        optimizer=ADAMW,
        data=None,
        **trainer_options,
    ):
        lightning.seed_everything(0, workers=True, verbose=False)
        data = datamodule(**{"n": 30, "size": (32, 32), "batch_size": 4, "seed": 0} | (data or {}))
        if switch == "default":
            switch = Switch(SGD, at=0.5)
        task = SegmentationTask(network(), CrossEntropyDice(), data.classes, optimizer, decay, switch)
        task.metadata = {"model": {"_target_": "none"}}
        output = str(tmp_path / folder)
        own = [
            OptimizerPhases(),
            StepSeed(0),
            RunRecord(output, 3),
            ValidationOverlays(output, 2, 2),
            Preemption(output),
        ]
        stop = [StopAfter(stop_after)] if stop_after else []
        if trainer_options.get("accelerator") == "gpu":
            own.append(KernelCompilation())  # else kernel by kernel, each process for itself
        every = [*stop, *own, *callbacks]
        options = {"max_epochs": epochs, "accelerator": "cpu", "devices": 1, "progress": False, "save_every_s": 0}
        options |= trainer_options
        trainer = build(output=output, callbacks=every, **options)
        trainer.fit(task, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return trainer, task

    run.sgd, run.Stopped, run.SignalAt, run.NanGuard, run.small = SGD, Stopped, SignalAt, NanGuard, small
    return run


def small(**options):
    """The smallest FAMSeg, for a GPU's kernels and graphs."""
    return FAMSeg(**{**SIZES["N"], "depths": (1, 1, 1, 1)}, **options)


class SignalAt(lightning.pytorch.callbacks.Callback):
    """Asks a run to stop, as a cluster does, before a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class StopAfter(lightning.pytorch.callbacks.Callback):
    """Ends a run as a kill between two epochs would: without telling the other callbacks."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch == self.epochs:
            raise Stopped


class Stopped(Exception):
    pass
