"""Gradients of the taps of a square depthwise filter: for each channel and tap, a sum over all pixels.

A program walks along the rows of its pixels with a window of the input in registers, as wide as the filter: each pixel
is loaded once for every row of taps, and serves all taps of the row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.lines import Walk, four_of
from famseg.kernels.partials import merged_taps
from famseg.kernels.tiles import block_of, inside, offset_of, over, run_of, tile_at, zeros

SQUARES = Walk(lines=8, step=4, programs=396, registers=168)  # 3 programs share a processor
HELD = 25  # taps that a program sums, at the most


@triton.jit
def column_of(at, across, along, H, W, W_STEP, c_mask, DOWN: tl.constexpr, EVEN: tl.constexpr):
    """DOWN pixels of a column, from `across` on, of each row of the block."""
    values = ()
    there = inside(along, W)
    for i in tl.static_range(DOWN):
        mask = over(inside(across + i, H) & there, c_mask, EVEN)
        values = values + (block_of(at + i * W_STEP, mask),)  # type: ignore[assignment]
    return values


@triton.jit(do_not_specialize=["B", "H", "W", "run"])
def tap_gradients_kernel(
    x,
    g,
    partials,
    B,
    H,
    W,
    C,
    run,
    SIDE: tl.constexpr,
    DOWN: tl.constexpr,
    LINES: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Partials (chunks, SIDE^2 + 1, C): this chunk's sums for DOWN rows of taps; those of row 0 add the bias's."""
    PARTS: tl.constexpr = tl.cdiv(SIDE, DOWN)
    TAPS: tl.constexpr = DOWN * SIDE
    c = tl.program_id(0) // PARTS * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    row = tl.program_id(0) % PARTS * DOWN  # of taps, the first
    chunk = tl.program_id(1)
    right, down = tl.cast(C, tl.int64), tl.cast(C, tl.int64) * W
    line = tl.arange(0, LINES)
    within = (line * W * C)[:, None] + c[None, :]
    totals = zeros(TAPS + 1, LINES, BLOCK_C)
    begin, end = run_of(chunk, tl.num_programs(1), B * tl.cdiv(H, LINES) * tl.cdiv(W, run))
    for index in range(begin, end):
        b, h0, w0 = tile_at(index, H, W, LINES, run)
        start = offset_of(b, h0, w0, H, W, C)
        above = h0 + row - SIDE // 2 + line
        corner = start + (row - SIDE // 2) * down - SIDE // 2 * right
        window = ()
        for j in tl.static_range(SIDE - 1):
            at = x + (corner + j * right) + within
            window = window + column_of(at, above, w0 + (j - SIDE // 2), H, W, down, c_mask, DOWN, EVEN)
        for first in range(0, tl.minimum(run, W - w0), STEP):
            for r in tl.static_range(STEP):
                at = x + (corner + (first + r + SIDE - 1) * right) + within
                along = w0 + (first + r)
                window = window + column_of(at, above, along + SIDE // 2, H, W, down, c_mask, DOWN, EVEN)
                mask = over((h0 + line < H) & (along < W), c_mask, EVEN)
                gradient = block_of(g + (start + (first + r) * right) + within, mask)
                sums = ()
                for i in tl.static_range(DOWN):
                    for j in tl.static_range(SIDE):
                        product = gradient * window[j * DOWN + i]
                        sums = sums + (totals[i * SIDE + j] + product,)  # type: ignore[assignment]
                totals = sums + (totals[TAPS] + gradient,)
                window = window[DOWN:]
    to = partials + chunk.to(tl.int64) * (SIDE * SIDE + 1) * C
    tl.store(to + SIDE * SIDE * C + c, tl.sum(totals[TAPS], 0), mask=c_mask & (row == 0))
    totals = totals + zeros(3, LINES, BLOCK_C)  # to a multiple of four
    for first in tl.static_range(0, TAPS, 4):
        tap = first + tl.arange(0, 4)
        mask = (tap < TAPS) & (row * SIDE + tap < SIDE * SIDE)
        at = to + (row * SIDE + tap)[None, :] * C + c[:, None]
        tl.store(at, tl.sum(four_of(totals, first), 0), mask=c_mask[:, None] & mask[None, :])


def tap_gradients(g: Tensor, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of g times x at each tap's place, and g's own sum, the bias's gradient.

    Args:
        g: gradient of the result (B, C, H, W), channels last.
        x: the input, the same.
        side: of the square of taps.

    Returns:
        (side * side, C), see `merged_taps`; (1, C); float32.
    """
    b, c, h, w = x.shape
    down = max(1, min(side, HELD // side))
    parts = triton.cdiv(side, down)
    run, chunks, blocks = SQUARES.share(x, [False], parts)
    partials = torch.empty(chunks, side * side + 1, c, dtype=torch.float32, device=x.device)
    start(
        tap_gradients_kernel, (blocks * parts, chunks),
        x, g, partials, b, h, w, c, run, SIDE=side, DOWN=down, **SQUARES.arguments(c),
    )  # fmt: skip
    return merged_taps(partials, side * side)
