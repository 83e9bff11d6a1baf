"""Gradients of the taps of depthwise convolutions: for each channel and tap, a sum over all pixels.

The taps are cut into lines that run along the rows or the columns of the map. A program takes one line and a chunk of
the pixels: it loads a run of gradients and the values beside it, each of which serves several taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.tiles import Tile, block_of, device_of, fit, inside, offset_of, over, put, run_of, tile_at, zeros

# How maps are cut, across a line and along it in place of h and w; chosen by `benchmarks/blocks.py --sweep`.
SQUARES = Tile(32, 4, 8, 1, 4, warps=4)
STRIPS = Tile(32, 4, 8, 1, 4, warps=4)
SEGMENT = 7  # taps of a strip that one program sums
PROGRAMS = 1024  # at about so many partial sums end; a constant, so that no result depends on the machine

ROWS, COLUMNS, BOTH = range(3)  # directions of strips


@triton.jit(do_not_specialize=["B", "H", "W"])
def tap_gradients_kernel(
    x,
    g,
    partials,
    B,
    H,
    W,
    C,
    ROWS_OF_PARTIALS: tl.constexpr,
    LENGTH: tl.constexpr,
    TAPS: tl.constexpr,
    LINES: tl.constexpr,
    SQUARE: tl.constexpr,
    COLUMNS_FROM: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Partials (chunks, ROWS_OF_PARTIALS, C): this chunk's sums for this line's taps; line 0 adds the bias's row.

    A SQUARE's lines are its rows. Strips of LENGTH taps have cdiv(LENGTH, TAPS) lines each; those from line
    COLUMNS_FROM on run along the columns.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0)
    c = pid % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    line = pid // blocks % LINES
    chunk = pid // (blocks * LINES)
    segments: tl.constexpr = tl.cdiv(LENGTH, TAPS)
    first = 0 if SQUARE else line % segments * TAPS
    shift = line - LENGTH // 2 if SQUARE else 0
    row = line * LENGTH if SQUARE else line // segments * LENGTH + first
    upright = line >= COLUMNS_FROM
    length = tl.where(upright, H, W)  # along the line
    width = tl.where(upright, W, H)  # across it
    along_step = tl.where(upright, W * C, C)
    across_step = tl.where(upright, C, W * C)

    group = tl.arange(0, GROUPS_H * GROUPS_W)
    across_in, along_in = group // GROUPS_W, group % GROUPS_W * PATCH_W
    within = (across_in * across_step + along_in * along_step)[:, None] + c[None, :]
    tiles = B * tl.cdiv(width, GROUPS_H) * tl.cdiv(length, GROUPS_W * PATCH_W)
    totals = zeros(TAPS + 1, GROUPS_H * GROUPS_W, BLOCK_C)
    begin, end = run_of(chunk, tl.num_programs(0) // (blocks * LINES), tiles)
    for index in range(begin, end):
        b, across0, along0 = tile_at(index, width, length, GROUPS_H, GROUPS_W * PATCH_W)
        start = offset_of(b, 0, 0, H, W, C) + across0.to(tl.int64) * across_step + along0.to(tl.int64) * along_step
        across, along = across0 + across_in, along0 + along_in
        gradients = ()
        for r in tl.static_range(PATCH_W):
            mask = over((across < width) & (along + r < length), c_mask, EVEN)
            value = block_of(g + start + within + r * along_step, mask)
            gradients = gradients + (value,)  # type: ignore[assignment]
            totals = put(totals, TAPS, totals[TAPS] + value)
        behind = first - LENGTH // 2
        at = x + start + (shift * across_step + behind * along_step) + within
        there = inside(across + shift, width)
        for p in tl.static_range(PATCH_W + TAPS - 1):
            value = block_of(at + p * along_step, over(there & inside(along + (behind + p), length), c_mask, EVEN))
            for r in tl.static_range(PATCH_W):
                if (p >= r) & (p - r < TAPS):
                    totals = put(totals, p - r, totals[p - r] + value * gradients[r])

    to = partials + chunk.to(tl.int64) * ROWS_OF_PARTIALS * C + c
    for tap in tl.static_range(TAPS):
        tl.store(to + (row + tap) * C, tl.sum(totals[tap], 0), mask=c_mask & (first + tap < LENGTH))
    tl.store(to + (ROWS_OF_PARTIALS - 1) * C, tl.sum(totals[TAPS], 0), mask=c_mask & (line == 0))


@triton.jit(do_not_specialize=["chunks"])
def sum_kernel(
    partials,
    taps,
    others,
    chunks,
    C,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One row of the partials (chunks, ROWS, C) summed, TILE chunks at a time, into taps (C, TAPS) or others."""
    row = tl.program_id(0) % ROWS
    c = tl.program_id(0) // ROWS * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    total = tl.zeros((TILE, BLOCK_C), tl.float32)
    for first in range(0, chunks, TILE):
        chunk = first + tl.arange(0, TILE)
        at = partials + ((chunk.to(tl.int64) * ROWS + row) * C)[:, None] + c[None, :]
        total += tl.load(at, mask=(chunk < chunks)[:, None] & c_mask[None, :], other=0.0)
    result = tl.sum(total, 0)
    tl.store(taps + c * TAPS + row, result, mask=c_mask & (row < TAPS))
    tl.store(others + (row - TAPS) * C + c, result, mask=c_mask & (row >= TAPS))


def sum_partials(partials: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Sums over the chunks of partials (chunks, rows, C): the rows of the taps, and the other ones, for biases.

    The taps (taps, C) are a view of (C, taps), as parameters lie in memory: their gradient needs no copy.
    """
    chunks, rows, c = partials.shape
    own, others = partials.new_empty(c, taps), partials.new_empty(rows - taps, c)
    with device_of(partials):
        sum_kernel[(triton.cdiv(c, 32) * rows,)](
            partials, own, others, chunks, c, ROWS=rows, TAPS=taps, TILE=128, BLOCK_C=32
        )
    return own.t(), others


def tap_gradients(g: Tensor, x: Tensor, side: int = 0, strip: int = 0, directions: int = BOTH) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of g times x at each tap's place, and g's own sum, the bias's gradient.

    Args:
        g: gradient of the result (B, C, H, W), channels last.
        x: the input, the same.
        side: of a square of taps; or:
        strip: length of strips in these `directions`.
        directions: ROWS, COLUMNS or BOTH.

    Returns:
        (side * side, C), or (strips * strip, C), rows before columns; (1, C); float32, see `sum_partials`.
    """
    b, c, h, w = x.shape
    tile = fit(SQUARES if side else STRIPS, c)
    taps = side or min(SEGMENT, strip)
    segments = 0 if side else triton.cdiv(strip, taps)
    lines = side or (2 if directions == BOTH else 1) * segments
    rows = side * side + 1 if side else lines // segments * strip + 1
    tiles, blocks = tile.count(x)
    chunks = min(tiles, triton.cdiv(PROGRAMS, blocks * lines))
    partials = torch.empty(chunks, rows, c, dtype=torch.float32, device=x.device)
    with device_of(x):
        tap_gradients_kernel[(chunks * lines * blocks,)](
            x,
            g,
            partials,
            b,
            h,
            w,
            c,
            ROWS_OF_PARTIALS=rows,
            LENGTH=side or strip,
            TAPS=taps,
            LINES=lines,
            SQUARE=bool(side),
            COLUMNS_FROM=lines if side else {ROWS: lines, COLUMNS: 0, BOTH: segments}[directions],
            **tile.arguments(c),
        )
    return sum_partials(partials, rows - 1)
