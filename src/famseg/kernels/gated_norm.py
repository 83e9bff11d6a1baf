"""The gate and the RMS norm at the end of a Mamba-2 layer, one pass over the maps forward and one backward.

    y = sum of the scan's orders,    s = y silu(z),    r = 1 / sqrt(mean_c s^2 + eps),    out = w s r

A program holds all channels of a run of pixels. Sums are float32; nothing but the arguments is kept for backward. The
gradient of the weight is a sum of float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import Rows, in_rows, rows_of
from famseg.kernels.tiles import block_of, over, row_of, run_of
from famseg.streams import for_weight

HELD = 2048  # values of the map in a program
PROGRAMS = 1056  # partial sums; a constant, so that no result depends on the machine


@triton.jit
def summed(orders, at, mask, N, C, ORDERS: tl.constexpr):
    """A block of the orders' sum."""
    value = block_of(orders + at, mask)
    for i in tl.static_range(1, ORDERS):
        value += block_of(orders + i * tl.cast(N, tl.int64) * C + at, mask)
    return value


@triton.jit(do_not_specialize=["N"])
def gated_norm_kernel(
    orders, z, weight, out, N, Z_ROW, C, eps,
    ORDERS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Z's pixels lie Z_ROW apart; all others are dense."""
    n = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    mask = over(n < N, c < C, EVEN)
    n = n[:, None]
    gate = block_of(z + n * Z_ROW + c[None, :], mask)
    s = summed(orders, n * C + c[None, :], mask, N, C, ORDERS) * gate * tl.sigmoid(gate)
    r = tl.rsqrt(tl.sum(s * s, 1) / C + eps)[:, None]
    value = s * r * row_of(weight, 0, C, c, c < C)
    tl.store(out + n * C + c[None, :], value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N"])
def gated_norm_backward_kernel(
    dout, orders, z, weight, dy, dz, partials, N, Z_ROW, C, eps,
    ORDERS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Partials (chunks, C): this chunk's sums for the weight."""
    chunk = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    scale = row_of(weight, 0, C, c, c < C)
    totals = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        mask = over(n < N, c < C, EVEN)
        n = n[:, None]
        at = n * C + c[None, :]
        gate = block_of(z + n * Z_ROW + c[None, :], mask)
        value, upstream = summed(orders, at, mask, N, C, ORDERS), block_of(dout + at, mask)
        share = tl.sigmoid(gate)
        s = value * gate * share
        r = tl.rsqrt(tl.sum(s * s, 1) / C + eps)[:, None]
        totals += upstream * s * r
        g = upstream * scale
        ds = r * (g - s * (r * r * (tl.sum(g * s, 1) / C)[:, None]))
        tl.store(dy + at, (ds * gate * share).to(dy.dtype.element_ty), mask=mask)
        slope = share * (1 + gate * (1 - share))
        tl.store(dz + at, (ds * value * slope).to(dz.dtype.element_ty), mask=mask)
    tl.store(partials + chunk * C + c, tl.sum(totals, 0), mask=c < C)


def gated_norm(orders: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the channels of y silu(z), y the sum of the orders.

    Args:
        orders: (O, B, H, W, C).
        z: (B, H, W, C); channels of a wider map are read where they are.
        weight: (C,).
        eps: added to the mean square.

    Returns:
        (B, H, W, C) in the orders' dtype.
    """
    result: Tensor = _op(orders, z, weight, eps)
    return result


@torch.library.custom_op("famseg::gated_norm", mutates_args=())
def _op(orders: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    orders, (z, row) = orders.contiguous(), in_rows(z.permute(0, 3, 1, 2))
    out = _empty(orders)
    rows = _cut(out)
    start(
        gated_norm_kernel, rows.tiles,
        orders, z, weight, out, rows.number, row, rows.channels, eps, ORDERS=len(orders), **rows.arguments,
    )  # fmt: skip
    return out


@_op.register_fake
def _(orders: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _empty(orders)


def _empty(orders: Tensor) -> Tensor:
    return orders.new_empty(orders.shape[1:])


@torch.library.custom_op("famseg::gated_norm_backward", mutates_args=())
def _backward_op(dout: Tensor, orders: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of each of the orders, (B, H, W, C), of z and, in float32, of the weight."""
    dy, dz = _empty(orders), z.new_empty(z.shape)
    dout, orders, (z, row) = dout.contiguous(), orders.contiguous(), in_rows(z.permute(0, 3, 1, 2))
    rows = _cut(dy)
    chunks = rows.chunks(PROGRAMS)
    partials = torch.empty(chunks, rows.channels, dtype=torch.float32, device=z.device)
    start(
        gated_norm_backward_kernel, (chunks,),
        dout, orders, z, weight, dy, dz, partials, rows.number, row, rows.channels, eps,
        ORDERS=len(orders), **rows.arguments,
    )  # fmt: skip
    return dy, dz, for_weight(merged, partials)


@_backward_op.register_fake
def _(dout: Tensor, orders: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(orders), z.new_empty(z.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _cut(y: Tensor) -> Rows:
    """Of (B, H, W, C): a program has all channels of its pixels."""
    return rows_of(y.permute(0, 3, 1, 2), HELD, widest=None)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    orders, z, weight = ctx.saved_tensors
    dy, dz, sums = _backward_op(dout, orders, z, weight, ctx.eps)
    return dy.expand_as(orders), dz, sums.to(weight.dtype), None


_op.register_autograd(_differentiate, setup_context=_keep)
