"""Random numbers of a training step that depend on the seed and the step alone."""

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seeds torch before every training step with f(seed, step), so that a resumed run draws what it would have drawn.

    It covers the NMF bases (one per step, shared by batch and ranks) and drop path. A generator of their own would
    break torch.compile.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Seed all devices."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx  # counts micro-batches, also across epochs
        torch.manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0]))
