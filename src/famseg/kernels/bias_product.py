"""A convolution's bias and the product with a map behind it, in one pass forward and one backward.

    y = (z + bias) x,    dz = dy x,    dx = dy (z + bias),    dbias = sum dz

The end of the strip attention where `famseg.kernels.gate` does not hold the convolution. Maps are channels last; sums
are float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import rows_at, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, row_of, run_of
from famseg.streams import for_weight

HELD = 2048  # values of a map in a program: backward has three at once


@triton.jit(do_not_specialize=["R"])
def product_kernel(z, bias, x, y, R, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Y, for R rows of C channels."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    factor = block_of(z + at, mask) + row_of(bias, 0, C, c, c < C)
    tl.store(y + at, (factor * block_of(x + at, mask)).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["R"])
def product_backward_kernel(
    dy, z, bias, x, dz, dx, partials, R, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """Dz and dx; partials (chunks, C): this chunk's sums of dz."""
    chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offset = row_of(bias, 0, C, c, c < C)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(R, ROWS))
    for tile in range(begin, end):
        at, mask = rows_at(tile, R, C, c, ROWS, EVEN)
        upstream = block_of(dy + at, mask)
        slope = upstream * block_of(x + at, mask)
        tl.store(dz + at, slope.to(dz.dtype.element_ty), mask=mask)
        tl.store(dx + at, (upstream * (block_of(z + at, mask) + offset)).to(dx.dtype.element_ty), mask=mask)
        total += slope
    tl.store(partials + chunk * C + c, tl.sum(total, 0), mask=c < C)


@torch.library.custom_op("famseg::bias_product", mutates_args=())
def bias_product(z: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """(z + bias) x.

    Args:
        z: (B, C, H, W).
        bias: (C,).
        x: like z, of any dtype.

    Returns:
        (B, C, H, W), channels last, in x's dtype.
    """
    z, x = channels_last(z), channels_last(x)
    y, rows = empty_map(x), rows_of(x, HELD)
    start(product_kernel, rows.tiles, z, bias, x, y, rows.number, rows.channels, **rows.arguments)
    return y


@bias_product.register_fake
def _(z: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::bias_product_backward", mutates_args=())
def bias_product_backward(dy: Tensor, z: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, of the bias in float32, and of x."""
    dy, z, x = channels_last(dy), channels_last(z), channels_last(x)
    dz, dx, rows = empty_map(z), empty_map(x), rows_of(x, HELD)
    chunks = rows.chunks()
    partials = torch.empty(chunks, rows.channels, dtype=torch.float32, device=x.device)
    start(
        product_backward_kernel, (chunks, rows.blocks),
        dy, z, bias, x, dz, dx, partials, rows.number, rows.channels, **rows.arguments,
    )  # fmt: skip
    return dz, for_weight(merged, partials), dx


@bias_product_backward.register_fake
def _(dy: Tensor, z: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(z), z.new_empty(z.shape[1], dtype=torch.float32), empty_map(x)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z, bias, x = ctx.saved_tensors
    dz, total, dx = bias_product_backward(dy, z, bias, x)
    return dz, total.to(bias.dtype), dx


bias_product.register_autograd(_differentiate, setup_context=_keep)
