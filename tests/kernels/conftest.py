"""Kernels run on the GPU where there is one, else in Triton's interpreter (tests/conftest.py)."""

import pytest
import torch

INTERPRET = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def interpret(monkeypatch):
    if INTERPRET:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return torch.device("cpu" if INTERPRET else "cuda")
