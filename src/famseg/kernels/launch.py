"""How kernels start."""

from typing import Any

import torch
from torch import Tensor


def start(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a Triton kernel on the GPU of its first argument, a tensor."""
    x: Tensor = arguments[0]
    with torch.cuda.device_of(x):
        kernel[grid](*arguments, **options)
