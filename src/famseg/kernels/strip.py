"""Depthwise scans of rows and of columns, one pixel wide: both in one pass over the map, forward and backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.tap_gradients import BOTH, COLUMNS, ROWS, tap_gradients
from famseg.kernels.tiles import (
    Tile,
    block_of,
    channels_last,
    device_of,
    empty_map,
    fit,
    inside,
    offset_of,
    over,
    row_of,
    tile_at,
    zeros,
)

STRIPS = Tile(32, 4, 8, 2, 2, warps=4)  # chosen by `benchmarks/blocks.py --sweep`; patches are always 2 x 2
UNROLL = 2  # taps between two jumps of the loop

__all__ = ["BOTH", "COLUMNS", "ROWS", "strip_scans"]


@triton.jit(do_not_specialize=["H", "W"])
def strip_kernel(
    x,
    lines,
    bias,
    y,
    H,
    W,
    C,
    LENGTH: tl.constexpr,
    ACROSS: tl.constexpr,
    DOWN: tl.constexpr,
    FLIP: tl.constexpr,
    BIAS: tl.constexpr,
    UNROLL: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Y = the strips of x, plus bias; groups are 2 x 2 pixels.

    The loop walks along the strips' places: a pixel met there stands at one tap of the group's first row or column, and
    at the tap before of the second.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0)
    b, h0, w0 = tile_at(pid // blocks, H, W, GROUPS_H * 2, GROUPS_W * 2)
    c = pid % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    group = tl.arange(0, GROUPS_H * GROUPS_W)
    down, right = group // GROUPS_W * 2, group % GROUPS_W * 2
    start = offset_of(b, h0, w0, H, W, C)
    within = ((down * W + right) * C)[:, None] + c[None, :]
    at = x + start + within
    h, w = h0 + down, w0 + right
    sums = zeros(4, GROUPS_H * GROUPS_W, BLOCK_C)  # of pixels (0, 0), (0, 1), (1, 0), (1, 1)
    row_before = tl.zeros((1, BLOCK_C), tl.float32)
    column_before = tl.zeros((1, BLOCK_C), tl.float32)
    for first in range(0, LENGTH + 1, UNROLL):
        for u in tl.static_range(UNROLL):
            place = first + u
            shift = place - LENGTH // 2
            tap = LENGTH - 1 - place if FLIP else place
            tap_mask = c_mask & (place < LENGTH)
            if ACROSS:
                row = row_of(lines, tap, C, c, tap_mask)
                pixels = inside(w + shift, W)
                upper = block_of(at + shift * C, over(pixels & (h < H), c_mask, EVEN))
                lower = block_of(at + (W + shift) * C, over(pixels & (h + 1 < H), c_mask, EVEN))
                sums = (
                    sums[0] + upper * row,
                    sums[1] + upper * row_before,
                    sums[2] + lower * row,
                    sums[3] + lower * row_before,
                )
                row_before = row
            if DOWN:
                column = row_of(lines, tap + (LENGTH if ACROSS else 0), C, c, tap_mask)
                pixels = inside(h + shift, H)
                left = block_of(at + shift * W * C, over(pixels & (w < W), c_mask, EVEN))
                right_one = block_of(at + (shift * W + 1) * C, over(pixels & (w + 1 < W), c_mask, EVEN))
                sums = (
                    sums[0] + left * column,
                    sums[1] + right_one * column,
                    sums[2] + left * column_before,
                    sums[3] + right_one * column_before,
                )
                column_before = column
    for p in tl.static_range(2):
        for q in tl.static_range(2):
            s = sums[p * 2 + q]
            if BIAS:
                s += row_of(bias, 0, C, c, c_mask)
            mask = over((h + p < H) & (w + q < W), c_mask, EVEN)
            tl.store(y + start + within + (p * W + q) * C, s.to(y.dtype.element_ty), mask=mask)


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
    return _scan(x, lines, bias, directions, flip=False)


@strip_scans.register_fake
def _(x: Tensor, lines: Tensor, bias: Tensor, directions: int) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::strip_scans_backward", mutates_args=())
def strip_scans_backward(dy: Tensor, x: Tensor, lines: Tensor, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `strip_scans` for x, lines and bias; the latter two float32."""
    x, dy = channels_last(x), channels_last(dy)
    dlines, dbias = tap_gradients(dy, x, strip=_length(lines, directions), directions=directions)
    return _scan(dy, lines, None, directions, flip=True), dlines, dbias.view(-1)


@strip_scans_backward.register_fake
def _(dy: Tensor, x: Tensor, lines: Tensor, directions: int) -> tuple[Tensor, Tensor, Tensor]:
    taps, c = lines.shape
    return empty_map(x), x.new_empty(c, taps, dtype=torch.float32).t(), x.new_empty(c, dtype=torch.float32)


def _scan(x: Tensor, lines: Tensor, bias: Tensor | None, directions: int, flip: bool) -> Tensor:
    x = channels_last(x)
    y = empty_map(x)
    _, c, h, w = x.shape
    tile = fit(STRIPS, c)
    tiles, blocks = tile.count(x)
    with device_of(x):
        strip_kernel[(tiles * blocks,)](
            x,
            lines,
            lines if bias is None else bias,
            y,
            h,
            w,
            c,
            LENGTH=_length(lines, directions),
            ACROSS=directions != COLUMNS,
            DOWN=directions != ROWS,
            FLIP=flip,
            BIAS=bias is not None,
            UNROLL=UNROLL,
            **tile.arguments(c),
        )
    return y


def _length(lines: Tensor, directions: int) -> int:
    return lines.shape[0] // (2 if directions == BOTH else 1)


def _keep(ctx, inputs, output) -> None:
    x, lines, bias, ctx.directions = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(x, lines)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, lines = ctx.saved_tensors
    dx, dlines, dbias = strip_scans_backward(dy, x, lines, ctx.directions)
    return dx, dlines.to(lines.dtype), dbias.to(ctx.bias_dtype), None


strip_scans.register_autograd(_differentiate, setup_context=_keep)
