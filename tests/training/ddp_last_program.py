"""Two processes on the CPU that disagree on the time and on whether to stop, for test_last.py.

The first one's clock stands still; the second one's says once, after the second epoch, that it is time, and only the
second one is asked to stop, while the fourth epoch is validated.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
from ddp_program import adamw, network

from famseg import schedules
from famseg.callbacks import OptimizerPhases, Preemption, StepSeed, last
from famseg.checkpoint_io import LAST, DurableCheckpointIO
from famseg.data.phantom import datamodule
from famseg.losses import CrossEntropyDice
from famseg.task import SegmentationTask
from famseg.trainer import build


class Disagreement(lightning.pytorch.callbacks.Callback):
    now = 0.0

    def on_validation_start(self, trainer, task):
        if trainer.global_rank == 1:
            self.now += 10 * (trainer.current_epoch == 1)
            if trainer.current_epoch == 3:
                os.kill(os.getpid(), signal.SIGTERM)


def main(folder):
    lightning.seed_everything(0, verbose=False)
    data = datamodule(n=40, size=(32, 32), batch_size=2, seed=0)
    task = SegmentationTask(network(), CrossEntropyDice(), data.classes, adamw(), schedules.cosine)
    disagreement, written, save = Disagreement(), [], DurableCheckpointIO.save_checkpoint
    last.time = SimpleNamespace(monotonic=lambda: disagreement.now)

    def recorded(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if Path(path).name == LAST:
            written.append(checkpoint["epoch"] + 1)
            (folder / "written.json").write_text(json.dumps(written))

    DurableCheckpointIO.save_checkpoint = recorded
    callbacks = [OptimizerPhases(), StepSeed(0), disagreement, Preemption(str(folder))]
    options = {"max_epochs": 9, "accelerator": "cpu", "devices": 2, "strategy": "ddp", "progress": False}
    build(output=str(folder), callbacks=callbacks, **options).fit(task, datamodule=data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
