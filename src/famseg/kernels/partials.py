"""Partial sums of a map's chunks added up: the same order in every run, on every machine."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.tiles import block_of, over

AT_ONCE, WIDTH = 1024, 8  # partial sums and columns that a program loads at once; 8 numbers are a sector of memory
MANY, FEW_AT_ONCE, WIDE = 16384, 32, 256  # so many columns fill the machine with wider programs: weights, few partials
# A launch is one wait for memory, if all loads are started before the first sum: the compiler does so with registers
# granted, else it saves them, and waits eight times.
LAUNCH = {"num_warps": 8, "maxnreg": 128}


@triton.jit(do_not_specialize=["chunks"])
def merging_kernel(
    partials, taps, others, chunks, N, C, TAPS: tl.constexpr, AT_ONCE: tl.constexpr, WIDTH: tl.constexpr
):
    """Sums over the chunks of one kind's partials (kinds, chunks, N), of which N = rows of C numbers.

    The first TAPS rows go to taps (C, TAPS), the rest to others (kinds, N - TAPS C).
    """
    kind = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((AT_ONCE, WIDTH), tl.float32)
    for first in range(0, chunks, AT_ONCE):
        i = first + tl.arange(0, AT_ONCE)
        at = partials + (kind * chunks + i)[:, None] * N + n[None, :]
        total += block_of(at, over(i < chunks, n < N, False))
    result = tl.sum(total, 0)
    if TAPS > 0:
        tl.store(taps + n % C * TAPS + n // C, result, mask=n < TAPS * C)
    tl.store(others + kind * (N - TAPS * C) + n - TAPS * C, result, mask=(n >= TAPS * C) & (n < N))


def merged(partials: Tensor, dim: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sums over dimension `dim` of contiguous float32 partials, rounded once to `dtype`."""
    before, chunks, after = partials.shape[:dim], partials.shape[dim], partials.shape[dim + 1 :]
    sums = partials.new_empty(*before, *after, dtype=dtype)
    _launch(partials, sums, sums, math.prod(before), chunks, math.prod(after), 1, taps=0)
    return sums


def merged_taps(partials: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Sums over the chunks of partials (chunks, rows, C): the rows of the taps, and the other ones, for biases.

    The taps (taps, C) are a view of (C, taps), as parameters lie in memory: their gradient needs no copy.
    """
    chunks, rows, c = partials.shape
    own, others = partials.new_empty(c, taps), partials.new_empty(rows - taps, c)
    _launch(partials, own, others, 1, chunks, rows * c, c, taps)
    return own.t(), others


def _launch(
    partials: Tensor, own: Tensor, others: Tensor, kinds: int, chunks: int, numbers: int, c: int, taps: int
) -> None:
    at_once, width = (AT_ONCE, WIDTH) if numbers < MANY else (FEW_AT_ONCE, WIDE)
    start(
        merging_kernel, (triton.cdiv(numbers, width), kinds),
        partials, own, others, chunks, numbers, c, TAPS=taps, AT_ONCE=at_once, WIDTH=width, **LAUNCH,
    )  # fmt: skip
