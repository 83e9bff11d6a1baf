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
        """Seed the CPU and the device; `torch.manual_seed` keeps a stack trace for each GPU library not yet in use."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx  # counts micro-batches, also across epochs
        seed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0])
        if pl_module.device.type not in ("cpu", "cuda"):
            torch.manual_seed(seed)
            return
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
