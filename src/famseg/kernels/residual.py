"""The end of a StripBlock's branch: its convolution's bias, layer scale, stochastic depth and the sum, in one pass.

    y = x + f (branch + bias + other),    f = scale[c] keep[b]

`other` is a second summand of the branch, or none; keep[b] is 1 / (1 - rate), or 0 where the image's draw is below the
rate. Backward is one pass as well:

    dbranch = dother = f dy,    dbias = sum f dy,    dscale = sum keep dy (branch + bias + other),    dx = dy

PyTorch adds a convolution's bias by a pass of its own and sums its gradient by a slow one. Maps are channels last; sums
are float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import REGISTERS, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, row_of, run_of
from famseg.streams import for_weight

HELD = 2048  # values of the map in a program of backward
STAGES = 3  # of its loop: two tiles are on their way, through shared memory, while one is summed


@triton.jit
def branch_at(branch, bias, other, at, mask, C, c, c_mask, OTHER: tl.constexpr):
    """A block of branch + bias + other."""
    value = block_of(branch + at, mask) + row_of(bias, 0, C, c, c_mask)
    if OTHER:
        value += block_of(other + at, mask)
    return value


@triton.jit
def kept_at(draws, rate, row, R, PIXELS, KEEP: tl.constexpr):
    """The factors (rows, 1) of the rows' images."""
    if KEEP:
        draw = tl.load(draws + row // PIXELS, mask=row < R, other=0.0)
        return tl.where(draw < rate, 0.0, 1 / (1 - rate))[:, None]
    else:
        return 1.0


@triton.jit(do_not_specialize=["R", "PIXELS"])
def residual_kernel(
    x, branch, bias, other, scale, draws, rate, y, R, PIXELS, C,
    OTHER: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Y, for images of PIXELS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # 32 bits, since division by 64 is slow
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = row.to(tl.int64)[:, None] * C + c[None, :], over(row < R, c_mask, EVEN)
    factor = row_of(scale, 0, C, c, c_mask) * kept_at(draws, rate, row, R, PIXELS, KEEP)
    value = block_of(x + at, mask) + factor * branch_at(branch, bias, other, at, mask, C, c, c_mask, OTHER)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["R", "PIXELS"])
def residual_backward_kernel(
    dy, branch, bias, other, scale, draws, rate, d_branch, partials, R, PIXELS, C,
    OTHER: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The branch's gradient; partials (2, chunks, C): this chunk's sums for bias and scale."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    by_channel = row_of(scale, 0, C, c, c_mask)
    of_bias = tl.zeros((ROWS, BLOCK_C), tl.float32)
    of_scale = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, chunks, tl.cdiv(R, ROWS))
    for tile in tl.range(begin, end, num_stages=STAGES):
        row = tile * ROWS + tl.arange(0, ROWS)
        at, mask = row.to(tl.int64)[:, None] * C + c[None, :], over(row < R, c_mask, EVEN)
        upstream = block_of(dy + at, mask) * kept_at(draws, rate, row, R, PIXELS, KEEP)
        tl.store(d_branch + at, (upstream * by_channel).to(d_branch.dtype.element_ty), mask=mask)
        of_bias += upstream
        of_scale += upstream * branch_at(branch, bias, other, at, mask, C, c, c_mask, OTHER)
    tl.store(partials + chunk * C + c, tl.sum(of_bias * by_channel, 0), mask=c_mask)
    tl.store(partials + (chunks + chunk) * C + c, tl.sum(of_scale, 0), mask=c_mask)


def residual(
    x: Tensor,
    branch: Tensor,
    bias: Tensor,
    scale: Tensor,
    other: Tensor | None = None,
    draws: Tensor | None = None,
    rate: float = 0.0,
) -> Tensor:
    """X + scale keep (branch + bias + other).

    Args:
        x: (B, C, H, W).
        branch: the same shape, of any dtype.
        bias: (C,).
        scale: (C,).
        other: the same shape, of any dtype; None for none.
        draws: (B,), a number in [0, 1) for each image, float32; None drops none.
        rate: below 1; images whose number is below it are dropped.

    Returns:
        (B, C, H, W), channels last, in x's dtype; sums are float32.
    """
    result: Tensor = _op(x, branch, bias, scale, other, draws, rate)
    return result


@torch.library.custom_op("famseg::residual", mutates_args=())
def _op(
    x: Tensor, branch: Tensor, bias: Tensor, scale: Tensor, other: Tensor | None, draws: Tensor | None, rate: float
) -> Tensor:
    x, branch, other = channels_last(x), channels_last(branch), _last(other)
    y, rows = empty_map(x), rows_of(x)
    start(
        residual_kernel, rows.tiles,
        x, branch, bias, branch if other is None else other, scale, scale if draws is None else draws, rate, y,
        rows.number, x.shape[2] * x.shape[3], rows.channels,
        OTHER=other is not None, KEEP=draws is not None, **rows.arguments,
    )  # fmt: skip
    return y


@_op.register_fake
def _(
    x: Tensor, branch: Tensor, bias: Tensor, scale: Tensor, other: Tensor | None, draws: Tensor | None, rate: float
) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::residual_backward", mutates_args=())
def _backward_op(
    dy: Tensor, branch: Tensor, bias: Tensor, scale: Tensor, other: Tensor | None, draws: Tensor | None, rate: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the branch, and of bias and scale as one (2, C), float32."""
    dy, branch, other = channels_last(dy), channels_last(branch), _last(other)
    d_branch, rows = empty_map(branch), rows_of(branch, HELD)
    chunks = rows.chunks()
    partials = torch.empty(2, chunks, rows.channels, dtype=torch.float32, device=dy.device)
    start(
        residual_backward_kernel, (chunks, rows.blocks),
        dy, branch, bias, branch if other is None else other, scale, scale if draws is None else draws, rate,
        d_branch, partials, rows.number, dy.shape[2] * dy.shape[3], rows.channels,
        OTHER=other is not None, KEEP=draws is not None, STAGES=STAGES, **rows.arguments,
        maxnreg=REGISTERS,  # all programs run at once
    )  # fmt: skip
    return d_branch, for_weight(merged, partials, 1)


@_backward_op.register_fake
def _(
    dy: Tensor, branch: Tensor, bias: Tensor, scale: Tensor, other: Tensor | None, draws: Tensor | None, rate: float
) -> tuple[Tensor, Tensor]:
    return empty_map(branch), branch.new_empty(2, branch.shape[1], dtype=torch.float32)


def _last(t: Tensor | None) -> Tensor | None:
    return None if t is None else channels_last(t)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.rate = inputs[1:]
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor):
    branch, bias, scale, other, draws = ctx.saved_tensors
    d_branch, (of_bias, of_scale) = _backward_op(dy, branch, bias, scale, other, draws, ctx.rate)
    d_other = None if other is None else d_branch.to(other.dtype)
    return dy, d_branch, of_bias.to(bias.dtype), of_scale.to(scale.dtype), d_other, None, None


_op.register_autograd(_differentiate, setup_context=_keep)
