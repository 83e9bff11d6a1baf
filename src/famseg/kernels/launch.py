"""How kernels start: set up while the one before ends, where the GPU can (programmatic dependent launch, sm_90).

A kernel that `start` launches is set up as soon as all programs of the one before have passed `follow`, and not only
when they have ended. So it begins with `follow` itself, ahead of any access to memory: there it waits until the kernel
before has ended, which waited for the one before it, and all that they wrote is in memory.
"""

import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import cuda_capability_geq

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
OVERLAP = True  # False, to compare: no kernel is set up before the one before it has ended


@triton.jit
def follow():
    """Wait for the kernel before, then let the next one be set up: the first statement of every kernel.

    In this order no more than one is set up ahead. In a launch without the option neither does anything.
    """
    if not INTERPRETED and cuda_capability_geq(9, 0):
        gdc_wait()
        gdc_launch_dependents()


def start(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel, whose first argument is a tensor, on that tensor's GPU."""
    x: Tensor = arguments[0]
    with torch.cuda.device_of(x):
        kernel[grid](*arguments, **options, **(_overlapping(x.device) if OVERLAP else {}))


@functools.cache
def _overlapping(device: torch.device) -> dict[str, bool]:
    """The option of launches on this GPU, the current one; older ones and the interpreter have none."""
    return {"launch_pdl": True} if not INTERPRETED and cuda_capability_geq(9, 0) else {}
