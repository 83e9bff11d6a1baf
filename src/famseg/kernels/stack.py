"""Maps behind each other along their channels, each resized bilinearly to the first one's size.

The plain twin is `torch.cat` of what `famseg.layers.resize.resize` makes of them. With n lines resized to N, pixel
centres kept in place, line i of the result is made at

    s(i) = (i + 1/2) n / N - 1/2, at least 0 and at most n - 1

and takes of line k the share max(0, 1 - |s(i) - k|); columns likewise. Backward gathers for each pixel of a map what
the result's pixels took of it. So a map is read once and written in its place, where autograd's ways for `cat` and
`interpolate` are passes of float32, sums by atomics and copies of slices. Maps are channels last.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.pool import cell_at
from famseg.kernels.rows import rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, inside, over

HELD = 1024  # values in a program of backward, which has few pixels and many readers of each
SIZES = ["R", "H", "W", "h", "w"]  # must not cause a compilation


@triton.jit
def source_of(i, n, N):
    """S(i), float32."""
    return tl.minimum(tl.maximum((i + 0.5) * (n.to(tl.float32) / N) - 0.5, 0.0), n - 1.0)


@triton.jit
def neighbours(i, n, N):
    """The two lines that line i is made of, and the second one's share."""
    source = source_of(i, n, N)
    first = source.to(tl.int32)
    return first, tl.minimum(first + 1, n - 1), source - first


@triton.jit(do_not_specialize=SIZES)
def stack_kernel(
    part, whole, R, H, W, h, w, C, first, CHANNELS,
    RESIZED: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The C of CHANNELS channels from `first` on of the whole, of R pixels in images of H x W: a part of h x w."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # 32 bits, since division by 64 is slow
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = over(row < R, c < C, EVEN)
    if RESIZED:
        b, i, j = cell_at(row, H, W)
        top, bottom, down = neighbours(i, h, H)
        left, right, across = neighbours(j, w, W)
        upper, lower = (b * h + top) * w, (b * h + bottom) * w
        across, down = across[:, None], down[:, None]
        above = (1 - across) * block_of(part + (upper + left)[:, None] * C + c[None, :], mask)
        above += across * block_of(part + (upper + right)[:, None] * C + c[None, :], mask)
        below = (1 - across) * block_of(part + (lower + left)[:, None] * C + c[None, :], mask)
        below += across * block_of(part + (lower + right)[:, None] * C + c[None, :], mask)
        value = (1 - down) * above + down * below
    else:
        value = block_of(part + row.to(tl.int64)[:, None] * C + c[None, :], mask)
    at = row.to(tl.int64)[:, None] * CHANNELS + first + c[None, :]
    tl.store(whole + at, value.to(whole.dtype.element_ty), mask=mask)


@triton.jit
def reader_of(k, number, n, N):
    """The line of the result that is the `number`-th of those that may have taken of line k, and its share, or zero."""
    i = tl.floor((k - 0.5) * (N.to(tl.float32) / n) - 0.5).to(tl.int32) + 1 + number
    share = 1 - tl.abs(source_of(i, n, N) - k)
    return i, tl.where(inside(i, N), tl.maximum(share, 0.0), 0.0)


@triton.jit(do_not_specialize=SIZES)
def stack_backward_kernel(
    whole, part, R, H, W, h, w, C, first, CHANNELS,
    READERS_H: tl.constexpr, READERS_W: tl.constexpr,
    RESIZED: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The gradient of a part, of R pixels, from the whole's; READERS: lines and columns that took of one at most."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = over(row < R, c < C, EVEN)
    if RESIZED:
        b, k, m = cell_at(row, h, w)
        total = tl.zeros((ROWS, BLOCK_C), tl.float32)
        for u in range(READERS_H):
            i, down = reader_of(k, u, h, H)
            for v in tl.static_range(READERS_W):
                j, across = reader_of(m, v, w, W)
                share = down * across
                at = ((b * H + i) * W + j)[:, None] * CHANNELS + first + c[None, :]
                total += share[:, None] * block_of(whole + at, mask & (share > 0)[:, None])
    else:
        total = block_of(whole + row.to(tl.int64)[:, None] * CHANNELS + first + c[None, :], mask)
    tl.store(part + row.to(tl.int64)[:, None] * C + c[None, :], total.to(part.dtype.element_ty), mask=mask)


def stack(maps: Sequence[Tensor]) -> Tensor:
    """Maps resized to the first one's size, behind each other.

    Args:
        maps: (B, C_i, H_i, W_i).

    Returns:
        (B, sum of C_i, H_0, W_0), channels last, in the dtype that holds all maps'; sums are float32.
    """
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in maps))
    whole: Tensor = _op([x.to(dtype) for x in maps])
    return whole


@torch.library.custom_op("famseg::stack", mutates_args=())
def _op(maps: list[Tensor]) -> Tensor:
    whole, first = _whole(maps), 0
    height, width = whole.shape[2:]
    for x in map(channels_last, maps):
        rows = rows_of(whole[:, first : first + x.shape[1]])
        start(
            stack_kernel, rows.tiles,
            x, whole, rows.number, height, width, *x.shape[2:], rows.channels, first, whole.shape[1],
            RESIZED=x.shape[2:] != whole.shape[2:], **rows.arguments,
        )  # fmt: skip
        first += rows.channels
    return whole


@_op.register_fake
def _(maps: list[Tensor]) -> Tensor:
    return _whole(maps)


@torch.library.custom_op("famseg::stack_backward", mutates_args=())
def _backward_op(dwhole: Tensor, channels: list[int], heights: list[int], widths: list[int]) -> list[Tensor]:
    """The gradients of maps of these sizes."""
    dwhole = channels_last(dwhole)
    parts, first, (height, width) = _parts(dwhole, channels, heights, widths), 0, dwhole.shape[2:]
    for part in parts:
        resized = part.shape[2:] != dwhole.shape[2:]
        rows = rows_of(part, HELD) if resized else rows_of(part)
        start(
            stack_backward_kernel, rows.tiles,
            dwhole, part, rows.number, height, width, *part.shape[2:], rows.channels, first, dwhole.shape[1],
            READERS_H=_readers(part.shape[2], height), READERS_W=_readers(part.shape[3], width),
            RESIZED=resized, **rows.arguments,
        )  # fmt: skip
        first += rows.channels
    return parts


@_backward_op.register_fake
def _(dwhole: Tensor, channels: list[int], heights: list[int], widths: list[int]) -> list[Tensor]:
    return _parts(dwhole, channels, heights, widths)


def _readers(before: int, after: int) -> int:
    """Whole numbers in an open interval of length 2 after / before, at most."""
    return math.ceil(2 * after / before)


def _whole(maps: Sequence[Tensor]) -> Tensor:
    return empty_map(maps[0], sum(x.shape[1] for x in maps))


def _parts(like: Tensor, *sizes: Sequence[int]) -> list[Tensor]:
    return [empty_map(like, channels, size) for channels, *size in zip(*sizes, strict=True)]


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.sizes = [list(size) for size in zip(*(x.shape[1:] for x in inputs[0]), strict=True)]


def _differentiate(ctx: Any, dwhole: Tensor) -> list[Tensor]:
    parts: list[Tensor] = _backward_op(dwhole, *ctx.sizes)
    return parts


_op.register_autograd(_differentiate, setup_context=_keep)
