"""The end of the Hamburger, y = relu(x + groupnorm(h)), in the maps' own dtype and layout.

PyTorch's group norm is float32 under autocast and not channels last: six copies of the map, and a sum in float32.
Here forward reads h twice for its statistics and a third time with x for the result; backward reads y, dy and h twice.
Maps (B, C, H, W) are channels last: per image, pixels (N, C) in memory. Sums are float32 partials in a fixed order, per
image and channel; what follows from them for the groups is a handful of operations on (B, C) numbers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import Rows, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, run_of

HELD = 4096  # values of the map that a program holds at once
CHUNKS = 64  # partial sums of an image; a constant, so that no result depends on the machine


@triton.jit
def per_channel(values, b, C, c, c_mask):
    """Numbers of image b's channels c, (B, C) float32, as [1, block_c]."""
    return tl.load(values + b * C + c, mask=c_mask, other=0.0)[None, :]


@triton.jit(do_not_specialize=["N"])
def sums_kernel(
    h, centre, partials, N, C, SQUARE: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """Partials (B, chunks, C): a chunk's sums of h, or with SQUARE of (h - centre)^2 for centres (B, C)."""
    chunk, b = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    middle = per_channel(centre, b, C, c, c_mask) if SQUARE else 0.0
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = tile * ROWS + tl.arange(0, ROWS)
        mask = over(n < N, c_mask, EVEN)
        value = block_of(h + (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], mask)
        if SQUARE:
            value = tl.where(mask, value - middle, 0.0)
            value *= value
        total += value
    tl.store(partials + (b * tl.num_programs(0) + chunk) * C + c, tl.sum(total, 0), mask=c_mask)


@triton.jit(do_not_specialize=["N"])
def norm_kernel(x, h, scale, shift, y, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Y = relu(x + h scale + shift), scale and shift (B, C)."""
    b = tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
    value = block_of(x + at, mask) + block_of(h + at, mask) * per_channel(scale, b, C, c, c_mask)
    value += per_channel(shift, b, C, c, c_mask)
    tl.store(y + at, tl.maximum(value, 0.0).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N"])
def gradient_sums_kernel(dy, y, h, mean, partials, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Partials (2, B, chunks, C): a chunk's sums of g and of g (h - mean), g = dy where y > 0."""
    chunk, b = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    middle = per_channel(mean, b, C, c, c_mask)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    product = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = tile * ROWS + tl.arange(0, ROWS)
        at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
        g = tl.where(block_of(y + at, mask) > 0, block_of(dy + at, mask), 0.0)
        total += g
        product += g * (block_of(h + at, mask) - middle)
    to = partials + (b * tl.num_programs(0) + chunk) * C + c
    tl.store(to, tl.sum(total, 0), mask=c_mask)
    tl.store(to + tl.num_programs(1) * tl.num_programs(0) * C, tl.sum(product, 0), mask=c_mask)


@triton.jit(do_not_specialize=["N"])
def norm_backward_kernel(
    dy, y, h, by_g, by_h, shift, dx, dh, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """Dx = g = dy where y > 0, dh = g by_g + h by_h + shift, factors (B, C)."""
    b = tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
    g = tl.where(block_of(y + at, mask) > 0, block_of(dy + at, mask), 0.0)
    tl.store(dx + at, g.to(dx.dtype.element_ty), mask=mask)
    value = g * per_channel(by_g, b, C, c, c_mask) + block_of(h + at, mask) * per_channel(by_h, b, C, c, c_mask)
    tl.store(dh + at, (value + per_channel(shift, b, C, c, c_mask)).to(dh.dtype.element_ty), mask=mask)


def add_norm_relu(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """relu(x + groupnorm(h)).

    Args:
        x: (B, C, H, W).
        h: the same, in the same dtype.
        weight: (C,), of the norm.
        bias: (C,).
        groups: of the channels, which they divide.
        eps: added to the variance.

    Returns:
        (B, C, H, W), channels last, in x's dtype.
    """
    return _op(x, h, weight, bias, groups, eps)[0]  # type: ignore[no-any-return]


@torch.library.custom_op("famseg::add_norm_relu", mutates_args=())
def _op(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and mean and 1 / deviation of each image's groups as (B, C)."""
    x, h = channels_last(x), channels_last(h)
    size = h.shape[2] * h.shape[3] * h.shape[1] // groups
    mean = _of_groups(_sums(h), groups) / size
    deviation = torch.rsqrt(_of_groups(_sums(h, mean), groups) / size + eps)
    scale = weight * deviation
    y = empty_map(x)
    rows = _cut(h)
    start(
        norm_kernel, (rows.tiles[0], len(x), rows.blocks),
        x, h, scale, bias - mean * scale, y, rows.number, rows.channels, **rows.arguments,
    )  # fmt: skip
    return y, mean, deviation


@_op.register_fake
def _(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, deviation = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    return empty_map(x), mean, deviation


@torch.library.custom_op("famseg::add_norm_relu_backward", mutates_args=())
def _backward_op(
    dy: Tensor, y: Tensor, h: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `add_norm_relu` for x and h, and for weight and bias in float32."""
    dy, h = channels_last(dy), channels_last(h)
    rows, (batch, channels) = _cut(h), mean.shape
    chunks = _chunks(rows)
    partials = torch.empty(2, batch, chunks, channels, dtype=torch.float32, device=h.device)
    start(
        gradient_sums_kernel, (chunks, batch, rows.blocks),
        dy, y, h, mean, partials, rows.number, channels, **rows.arguments,
    )  # fmt: skip
    total, product = merged(partials, 2)
    size = rows.number * channels // groups
    by_g = weight * deviation
    by_h = -(deviation**3) * _of_groups(weight * product, groups) / size
    shift = -deviation * _of_groups(weight * total, groups) / size - mean * by_h
    dx, dh = empty_map(h), empty_map(h)
    start(
        norm_backward_kernel, (rows.tiles[0], batch, rows.blocks),
        dy, y, h, by_g, by_h, shift, dx, dh, rows.number, channels, **rows.arguments,
    )  # fmt: skip
    return dx, dh, (product * deviation).sum(0), total.sum(0)


@_backward_op.register_fake
def _(
    dy: Tensor, y: Tensor, h: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_weight, of_bias = (mean.new_empty(weight.shape) for _ in range(2))
    return empty_map(h), empty_map(h), of_weight, of_bias


def _sums(h: Tensor, centre: Tensor | None = None) -> Tensor:
    """(B, C) float32: of h, or of the squared distances from the centres (B, C)."""
    rows = _cut(h)
    chunks = _chunks(rows)
    partials = torch.empty(h.shape[0], chunks, h.shape[1], dtype=torch.float32, device=h.device)
    start(
        sums_kernel,
        (chunks, h.shape[0], rows.blocks),
        h,
        partials if centre is None else centre,
        partials,
        rows.number,
        rows.channels,
        SQUARE=centre is not None,
        **rows.arguments,
    )
    return merged(partials, 1)


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """(B, C) -> each channel's group's sum, (B, C)."""
    grouped = values.unflatten(1, (groups, -1))
    sums: Tensor = grouped.sum(2, keepdim=True).expand_as(grouped)
    return sums.reshape_as(values)


def _cut(h: Tensor) -> Rows:
    """Of one image."""
    return rows_of(h[:1], HELD, widest=256)


def _chunks(rows: Rows) -> int:
    return min(CHUNKS, rows.tiles[0])


def _keep(ctx, inputs, output) -> None:
    _, h, weight, bias, ctx.groups, _ = inputs
    ctx.save_for_backward(output[0], h, *output[1:], weight)
    ctx.bias_dtype = bias.dtype
    ctx.set_materialize_grads(False)


def _differentiate(ctx, dy, *_):
    *saved, weight = ctx.saved_tensors
    dx, dh, of_weight, of_bias = _backward_op(dy, *saved, weight, ctx.groups)
    return dx, dh, of_weight.to(weight.dtype), of_bias.to(ctx.bias_dtype), None, None


_op.register_autograd(_differentiate, setup_context=_keep)
