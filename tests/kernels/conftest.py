"""Kernels run on the GPU where there is one, else in Triton's interpreter.

The interpreter is chosen by the environment when Triton and the kernels are imported, and when a layer asks for its
kernel: so they are imported here, and other folders' tests do not see the choice.
"""

import importlib
import pkgutil

import pytest
import torch

INTERPRET = not torch.cuda.is_available()

with pytest.MonkeyPatch.context() as patch:
    if INTERPRET:
        patch.setenv("TRITON_INTERPRET", "1")
    import famseg.kernels

    for module in pkgutil.iter_modules(famseg.kernels.__path__, "famseg.kernels."):
        importlib.import_module(module.name)


@pytest.fixture(autouse=True)
def interpret(monkeypatch):
    if INTERPRET:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return torch.device("cpu" if INTERPRET else "cuda")
