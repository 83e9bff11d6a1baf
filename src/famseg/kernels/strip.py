"""Depthwise scans of rows and of columns, one pixel wide, and their gradients: a pass over the map for each direction.

A program walks along lines with a window of the map as long as the taps, which are all in registers as well: a pixel
is loaded once. Forward multiplies the window by the taps. Backward walks along the gradient: its window times the taps,
in reverse, is the gradient of the input, and its window times the input is that of the taps.

With both directions the sum of the rows' scan is rounded to the map's type before the columns' is added, as PyTorch's
two convolutions round theirs.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.lines import Walk, four_of
from famseg.kernels.partials import merged_taps
from famseg.kernels.tiles import (
    block_of,
    channels_last,
    empty_map,
    inside,
    offset_of,
    over,
    run_of,
    tile_at,
    zeros,
)
from famseg.streams import for_weight

FORWARD = Walk(lines=8, step=8, programs=528, registers=128)  # 4 programs share a processor
BACKWARD = Walk(lines=8, step=4, programs=264, registers=168)  # 3 would have room
MANY = 23  # with more taps a thread has registers for one channel instead of two

ROWS, COLUMNS, BOTH = range(3)  # directions


@triton.jit
def taps_of(lines, row, C, c, c_mask, LINES: tl.constexpr, EVEN: tl.constexpr):
    """Channels c of a row of the taps, for each line of the block."""
    at = lines + row * C + (tl.zeros((LINES, 1), tl.int32) + c[None, :])
    return tl.load(at) if EVEN else tl.load(at, mask=c_mask[None, :], other=0.0)


@triton.jit(do_not_specialize=["B", "H", "W", "run", "upright", "row", "ROWS"])
def line_kernel(
    x,
    lines,
    bias,
    y,
    other,
    partials,
    B,
    H,
    W,
    C,
    run,
    upright,
    row,
    ROWS,
    LENGTH: tl.constexpr,
    ADD: tl.constexpr,
    BACKWARD: tl.constexpr,
    LINES: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Y = x scanned along its rows, or if `upright` its columns, by taps lines[row:]; plus bias, or with ADD y.

    BACKWARD takes the taps in reverse and adds no bias. Partials (chunks, ROWS, C): this chunk's sums for the taps, of
    x times `other`, from `row` on; without ADD in the last row that of x, for the bias.
    """
    HALF: tl.constexpr = LENGTH // 2
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    chunk = tl.program_id(1)
    length = tl.where(upright != 0, H, W)  # along the line
    width = tl.where(upright != 0, W, H)  # across it
    along_step = tl.where(upright != 0, W * C, C).to(tl.int64)
    across_step = tl.where(upright != 0, C, W * C)
    line = tl.arange(0, LINES)
    within = (line * across_step)[:, None] + c[None, :]
    taps = ()
    for t in tl.static_range(LENGTH):
        tap = row + (LENGTH - 1 - t if BACKWARD else t)
        taps = taps + (taps_of(lines, tap, C, c, c_mask, LINES, EVEN),)  # type: ignore[assignment]
    constant = tl.zeros((LINES, BLOCK_C), tl.float32)
    if not (BACKWARD or ADD):
        constant += taps_of(bias, 0, C, c, c_mask, LINES, EVEN)
    totals = zeros(LENGTH + 1 if BACKWARD else 0, LINES, BLOCK_C)
    begin, end = run_of(chunk, tl.num_programs(1), B * tl.cdiv(width, LINES) * tl.cdiv(length, run))
    for index in range(begin, end):
        b, across0, along0 = tile_at(index, width, length, LINES, run)
        start = offset_of(b, 0, 0, H, W, C) + across0.to(tl.int64) * across_step + along0 * along_step
        there = across0 + line < width
        window = ()
        for p in tl.static_range(-HALF, HALF):
            mask = over(there & inside(along0 + p, length), c_mask, EVEN)
            window = window + (block_of(x + (start + p * along_step) + within, mask),)  # type: ignore[assignment]
        for first in range(0, tl.minimum(run, length - along0), STEP):
            here = (start + first * along_step) + within
            before, beside = (), ()  # all loads come first: none may pass a store, which may be to where it reads
            for r in tl.static_range(STEP):
                mask = over(there & (along0 + (first + r + HALF) < length), c_mask, EVEN)
                ahead = block_of(x + HALF * along_step + here + r * along_step, mask)
                window = window + (ahead,)  # type: ignore[assignment]
                mask = over(there & (along0 + (first + r) < length), c_mask, EVEN)
                if ADD:
                    before = before + (block_of(y + here + r * along_step, mask),)  # type: ignore[assignment]
                if BACKWARD:
                    beside = beside + (block_of(other + here + r * along_step, mask),)  # type: ignore[assignment]
            for r in tl.static_range(STEP):
                total = before[r] if ADD else constant
                for t in tl.static_range(LENGTH):
                    total += taps[t] * window[t]
                mask = over(there & (along0 + (first + r) < length), c_mask, EVEN)
                tl.store(y + here + r * along_step, total.to(y.dtype.element_ty), mask=mask)
                if BACKWARD:
                    sums = ()
                    for t in tl.static_range(LENGTH):
                        sums = sums + (totals[t] + beside[r] * window[t],)  # type: ignore[assignment]
                    totals = sums + (totals[LENGTH] if ADD else totals[LENGTH] + window[HALF],)
                window = window[1:]
    if BACKWARD:
        to = partials + chunk.to(tl.int64) * ROWS * C
        if not ADD:
            tl.store(to + (ROWS - 1) * C + c, tl.sum(totals[LENGTH], 0), mask=c_mask)
        totals = totals + zeros(3, LINES, BLOCK_C)  # to a multiple of four
        for first in tl.static_range(0, LENGTH, 4):
            t = first + tl.arange(0, 4)
            at = to + (row + LENGTH - 1 - t)[None, :] * C + c[:, None]
            tl.store(at, tl.sum(four_of(totals, first), 0), mask=c_mask[:, None] & (t < LENGTH)[None, :])


@torch.library.custom_op("famseg::strip_scans", mutates_args=())
def strip_scans(x: Tensor, lines: Tensor, bias: Tensor, directions: int) -> Tensor:
    """The sum of a depthwise 1 x k and a k x 1 convolution, zero-padded, plus bias; or one of the two alone.

    Args:
        x: (B, C, H, W).
        lines: taps (2 k, C), those of the rows first; (k, C) for one direction. k is odd.
        bias: (C,).
        directions: ROWS, COLUMNS or BOTH.

    Returns:
        (B, C, H, W), channels last, in x's dtype; sums are float32.
    """
    x = channels_last(x)
    y = empty_map(x)
    _walk(x, lines, bias, y, None, directions)
    return y


@strip_scans.register_fake
def _(x: Tensor, lines: Tensor, bias: Tensor, directions: int) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::strip_scans_backward", mutates_args=())
def strip_scans_backward(dy: Tensor, x: Tensor, lines: Tensor, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `strip_scans` for x, lines and bias; the latter two float32."""
    x, dy = channels_last(x), channels_last(dy)
    dx = empty_map(x)
    partials = _walk(dy, lines, None, dx, x, directions)
    dlines, dbias = for_weight(merged_taps, partials, len(lines))
    return dx, dlines, dbias.view(-1)


@strip_scans_backward.register_fake
def _(dy: Tensor, x: Tensor, lines: Tensor, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    taps, c = lines.shape
    return empty_map(x), x.new_empty(c, taps, dtype=torch.float32).t(), x.new_empty(c, dtype=torch.float32)


def _walk(x: Tensor, lines: Tensor, bias: Tensor | None, y: Tensor, other: Tensor | None, directions: int) -> Tensor:
    """Writes y in every direction in turn; with `other` backward, and returns its partial sums."""
    b, c, h, w = x.shape
    ways = {ROWS: (False,), COLUMNS: (True,), BOTH: (False, True)}[directions]
    cut = FORWARD if other is None else BACKWARD
    if len(lines) // len(ways) > MANY:
        cut = replace(cut, lines=cut.lines // 2)
    run, chunks, blocks = cut.share(x, ways)
    taps, rows = len(lines), len(lines) + 1
    partials = lines if other is None else torch.empty(chunks, rows, c, dtype=torch.float32, device=x.device)
    for n, upright in enumerate(ways):
        start(
            line_kernel,
            (blocks, chunks),
            x,
            lines,
            lines if bias is None else bias,
            y,
            x if other is None else other,
            partials,
            b,
            h,
            w,
            c,
            run,
            upright,
            n * taps // len(ways),
            rows,
            LENGTH=taps // len(ways),
            ADD=n > 0,
            BACKWARD=other is not None,
            **cut.arguments(c),
        )
    return partials


def _keep(ctx, inputs, output) -> None:
    x, lines, bias, ctx.directions = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(x, lines)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, lines = ctx.saved_tensors
    dx, dlines, dbias = strip_scans_backward(dy, x, lines, ctx.directions)
    return dx, dlines.to(lines.dtype), dbias.to(ctx.bias_dtype), None


strip_scans.register_autograd(_differentiate, setup_context=_keep)
