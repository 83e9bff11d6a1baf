"""A short run across a switch on one or two processes, with the loss of every step. For test_ddp.py.

On the CPU: float64 and frozen batch statistics, so that only the order of sums is left to differ. On GPUs: a small
FAMSeg with synchronised batch statistics, by plain PyTorch in float64 or by the kernels in float32.
"""

import json
import sys
from functools import partial
from pathlib import Path

import lightning
import torch
from torch import nn

from famseg import schedules
from famseg.callbacks import KernelCompilation, OptimizerPhases, StepSeed
from famseg.data.phantom import datamodule
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg
from famseg.phases import OptimizerOption, Switch
from famseg.task import SegmentationTask
from famseg.trainer import build


class Losses(lightning.pytorch.callbacks.Callback):
    """The loss of the whole batch at every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.values.append(float(trainer.strategy.reduce(outputs["loss"], reduce_op="mean")))


def network():
    layers = [nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1)]
    layers[1].eval().train = lambda mode: layers[1]  # frozen: its statistics would be those of each device's part
    return nn.Sequential(*layers)


def small():
    return FAMSeg(**{**SIZES["N"], "depths": (1, 1, 1, 1)}, drop_path=0.0)


SYNCHRONISED = {"accelerator": "gpu", "sync_batchnorm": True, "deterministic": True}
SETTINGS = {
    "cpu": (network, {"accelerator": "cpu", "precision": "64-true"}),
    "gpu": (small, SYNCHRONISED | {"precision": "64-true"}),
    "kernels": (small, SYNCHRONISED | {"precision": "32-true"}),
}


def adamw():
    return OptimizerOption("adamw", partial(torch.optim.AdamW, weight_decay=0.01))


def main(devices, folder, setting="cpu"):
    lightning.seed_everything(0, verbose=False)
    torch.backends.cudnn.allow_tf32 = False  # which convolutions round to 10 bits is a matter of the batch's size
    data = datamodule(n=40, size=(32, 32), batch_size=4 // devices, seed=0)
    sgd = OptimizerOption("sgd", partial(torch.optim.SGD, lr=1e-3, momentum=0.9))
    switch = Switch(sgd, at=0.5)
    build_network, settings = SETTINGS[setting]
    task = SegmentationTask(build_network(), CrossEntropyDice(), data.classes, adamw(), schedules.adadelta, switch)
    losses = Losses()
    strategy = {"strategy": "ddp"} if devices > 1 else {}
    options = {"max_epochs": 4, "devices": devices, "progress": False, **settings}
    callbacks = [OptimizerPhases(), StepSeed(0), KernelCompilation(), losses]  # on GPUs: else kernel by kernel
    trainer = build(output=str(folder), callbacks=callbacks, **options, **strategy)
    trainer.fit(task, datamodule=data)
    if trainer.is_global_zero:
        (folder / "losses.json").write_text(json.dumps({"losses": losses.values, "epochs": task.losses}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
