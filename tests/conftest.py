"""Shared by all tests: one thread per process, since pytest runs several."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def repository():
    """The root of the checkout."""
    from pathlib import Path

    return Path(__file__).parents[1]
