"""Triton kernels of the network's own blocks. Each has a plain twin in `famseg.layers`, its reference and CPU path."""

import functools
import importlib.util
import os

import torch
from torch import Tensor

from famseg.errors import UserError

BACKENDS = ("auto", "torch", "triton")


def use_triton(backend: str, x: Tensor) -> bool:
    """Whether a layer with this backend runs its Triton kernel on `x`.

    `auto` does wherever the kernel runs, and takes the plain form elsewhere: on the CPU, in float64, in an exported
    graph.

    Raises:
        UserError: `triton` is asked for and cannot run; the message says why.
    """
    if backend == "torch" or _is_exporting():
        return False
    why = _obstacle(x.device, x.dtype)
    if why and backend == "triton":
        raise UserError(f"model.kernels=triton cannot be used: {why}. Use model.kernels=auto or torch.")
    return not why


def _is_exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _obstacle(device: torch.device, dtype: torch.dtype) -> str:
    if dtype == torch.float64:
        return "its kernels have no float64"
    if device.type == "cuda":
        return _obstacle_of_gpu(device.index or 0)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # how tests run the kernels without a GPU
    return "" if interpreted and _has_triton() else f"it needs an NVIDIA GPU, the input is on {device}"


@functools.cache
def _obstacle_of_gpu(index: int) -> str:
    if not _has_triton():
        return "Triton is not installed"
    if torch.version.hip or torch.cuda.get_device_capability(index) < (8, 0):
        return f"{torch.cuda.get_device_name(index)} is no NVIDIA GPU of the Ampere generation or newer"
    return ""


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
