"""Average pool of 2 x 2 pixels; the plain twin is `torch.nn.functional.avg_pool2d(x, 2)`.

    y[i, j] = (x[2i, 2j] + x[2i, 2j + 1] + x[2i + 1, 2j] + x[2i + 1, 2j + 1]) / 4

A program has cells of 2 x 2 pixels of x, each with its one of y, and reads and writes every number once, in both
directions. Of an odd height or width the last line has no part in y, and no gradient. Maps are channels last.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.rows import rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over

HELD = 1024  # values of y in a program: 16 bytes of half precision for each thread


@triton.jit
def cell_at(cell, HEIGHT, WIDTH):
    """Image, line and column of a cell, of which an image has HEIGHT x WIDTH."""
    line = cell // WIDTH
    return (line // HEIGHT).to(tl.int64), line % HEIGHT, cell % WIDTH


@triton.jit(do_not_specialize=["R", "H", "W"])
def pool_kernel(x, y, R, H, W, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Y, of R pixels, for x of H x W."""
    cell = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # 32 bits, since division by 64 is slow
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = over(cell < R, c < C, EVEN)
    b, i, j = cell_at(cell, H // 2, W // 2)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            pixel = (b * H + 2 * i + down) * W + 2 * j + right
            total += block_of(x + pixel[:, None] * C + c[None, :], mask)
    at = cell.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(y + at, (total * 0.25).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["R", "H", "W"])
def pool_backward_kernel(dy, dx, R, H, W, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Dx, of H x W in R cells; those at an odd edge have no pixel of dy."""
    cell = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b, i, j = cell_at(cell, tl.cdiv(H, 2), tl.cdiv(W, 2))
    pooled = (cell < R) & (i < H // 2) & (j < W // 2)
    pixel = (b * (H // 2) + i) * (W // 2) + j
    gradient = 0.25 * block_of(dy + pixel[:, None] * C + c[None, :], over(pooled, c < C, EVEN))
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            there = (cell < R) & (2 * i + down < H) & (2 * j + right < W)
            pixel = (b * H + 2 * i + down) * W + 2 * j + right
            at = pixel[:, None] * C + c[None, :]
            tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=over(there, c < C, EVEN))


@torch.library.custom_op("famseg::average_pool", mutates_args=())
def average_pool(x: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels.

    Args:
        x: (B, C, H, W), H and W from 2.

    Returns:
        (B, C, H // 2, W // 2), channels last, in x's dtype; sums are float32.
    """
    x = channels_last(x)
    y, (height, width) = _pooled(x), x.shape[2:]
    rows = rows_of(y, HELD)
    start(pool_kernel, rows.tiles, x, y, rows.number, height, width, rows.channels, **rows.arguments)
    return y


@average_pool.register_fake
def _(x: Tensor) -> Tensor:
    return _pooled(x)


@torch.library.custom_op("famseg::average_pool_backward", mutates_args=())
def average_pool_backward(dy: Tensor, height: int, width: int) -> Tensor:
    """The gradient of a map of this height and width."""
    dy = channels_last(dy)
    dx = empty_map(dy, size=(height, width))
    cells = len(dy) * triton.cdiv(height, 2) * triton.cdiv(width, 2)
    rows = replace(rows_of(dy, HELD), number=cells)
    start(pool_backward_kernel, rows.tiles, dy, dx, rows.number, height, width, rows.channels, **rows.arguments)
    return dx


@average_pool_backward.register_fake
def _(dy: Tensor, height: int, width: int) -> Tensor:
    return empty_map(dy, size=(height, width))


def _pooled(x: Tensor) -> Tensor:
    return empty_map(x, size=(x.shape[2] // 2, x.shape[3] // 2))


def _keep(ctx, inputs, output) -> None:
    ctx.size = inputs[0].shape[2:]


def _differentiate(ctx, dy: Tensor) -> Tensor:
    dx: Tensor = average_pool_backward(dy, *ctx.size)
    return dx


average_pool.register_autograd(_differentiate, setup_context=_keep)
