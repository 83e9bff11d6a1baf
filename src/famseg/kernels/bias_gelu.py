"""A convolution's bias, alone or with GELU or ReLU behind it, in one pass forward and one backward, which sums dbias.

    a = gelu(z + bias),    dz = (da [+ other]) gelu'(z + bias),    dbias = sum dz

`other` is the gradient of a from a second reader, see `famseg.kernels.sharing`. Backward reads z, so that forward keeps
no other map; without GELU, and for ReLU (`bias_relu`), it reads the gradient alone. Maps are channels last; sums are
float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.gelu import gelu_of, gelu_slope
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import rows_at, rows_of
from famseg.kernels.sharing import doubling
from famseg.kernels.tiles import block_of, channels_last, empty_map, row_of, run_of
from famseg.streams import for_weight


@triton.jit(do_not_specialize=["R"])
def bias_kernel(
    z, bias, a, R, C,
    GELU: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """A, for R rows of C channels."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    value = block_of(z + at, mask) + row_of(bias, 0, C, c, c < C)
    if GELU:
        value = gelu_of(value)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(a + at, value.to(a.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["R"])
def bias_backward_kernel(
    da, other, z, bias, dz, partials, R, C,
    OTHER: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Dz with GELU, which without it is da; partials (chunks, C): this chunk's sums of it."""
    chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offset = row_of(bias, 0, C, c, c < C)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(R, ROWS))
    for tile in range(begin, end):
        at, mask = rows_at(tile, R, C, c, ROWS, EVEN)
        gradient = block_of(da + at, mask)
        if OTHER:
            gradient += block_of(other + at, mask)
        if GELU:
            gradient *= gelu_slope(block_of(z + at, mask) + offset)
            tl.store(dz + at, gradient.to(dz.dtype.element_ty), mask=mask)
        total += gradient
    tl.store(partials + chunk * C + c, tl.sum(total, 0), mask=c < C)


@torch.library.custom_op("famseg::bias_gelu", mutates_args=())
def bias_gelu(z: Tensor, bias: Tensor) -> Tensor:
    """The exact GELU of z + bias.

    Args:
        z: (B, C, H, W).
        bias: (C,).

    Returns:
        (B, C, H, W), channels last, in z's dtype.
    """
    return _forward(z, bias, gelu=True)


@torch.library.custom_op("famseg::add_bias", mutates_args=())
def add_bias(z: Tensor, bias: Tensor) -> Tensor:
    """Z + bias; arguments and result as of `bias_gelu`."""
    return _forward(z, bias)


@torch.library.custom_op("famseg::bias_relu", mutates_args=())
def bias_relu(z: Tensor, bias: Tensor) -> Tensor:
    """relu(z + bias), for a reader that gives it no gradient where it is zero; arguments and result as of `bias_gelu`.

    With such a reader, as the factorisation is, ReLU's gradient is the one that it gets.
    """
    return _forward(z, bias, relu=True)


def _forward(z: Tensor, bias: Tensor, gelu: bool = False, relu: bool = False) -> Tensor:
    z = channels_last(z)
    a, rows = empty_map(z), rows_of(z)
    start(bias_kernel, rows.tiles, z, bias, a, rows.number, rows.channels, GELU=gelu, RELU=relu, **rows.arguments)
    return a


@bias_gelu.register_fake
@add_bias.register_fake
@bias_relu.register_fake
def _(z: Tensor, bias: Tensor) -> Tensor:
    return empty_map(z)


@torch.library.custom_op("famseg::bias_gelu_backward", mutates_args=())
def bias_gelu_backward(da: Tensor, z: Tensor, bias: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradients of z, for da + other, the latter channels last, and of the bias in float32."""
    da, z = channels_last(da), channels_last(z)
    dz = empty_map(z)
    return dz, for_weight(merged, _partials(da, other, z, bias, dz, gelu=True))


@bias_gelu_backward.register_fake
def _(da: Tensor, z: Tensor, bias: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return empty_map(z), z.new_empty(z.shape[1], dtype=torch.float32)


@torch.library.custom_op("famseg::pixel_sums", mutates_args=())
def pixel_sums(x: Tensor) -> Tensor:
    """Of a map's channels, (C,) float32."""
    x = channels_last(x)
    return for_weight(_sums, x)


@pixel_sums.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float32)


def _sums(x: Tensor) -> Tensor:
    return merged(_partials(x, None, x, x, x, gelu=False))


def _partials(da: Tensor, other: Tensor | None, z: Tensor, bias: Tensor, dz: Tensor, gelu: bool) -> Tensor:
    """Sums over the pixels of dz, which is written with GELU; without it, no map but the gradient is read."""
    rows = rows_of(da)
    chunks = rows.chunks()
    partials = torch.empty(chunks, rows.channels, dtype=torch.float32, device=da.device)
    start(
        bias_backward_kernel, (chunks, rows.blocks),
        da, da if other is None else other, z, bias, dz, partials, rows.number, rows.channels,
        OTHER=other is not None, GELU=gelu, **rows.arguments,
    )  # fmt: skip
    return partials


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, da: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    z, bias = ctx.saved_tensors
    dz, total = bias_gelu_backward(da, z, bias, other)
    return dz, total.to(bias.dtype)


bias_gelu.register_autograd(_differentiate, setup_context=_keep)
bias_gelu_twice = doubling(bias_gelu, _keep, _differentiate)


def _keep_dtype(ctx, inputs, output) -> None:
    ctx.dtype = inputs[1].dtype


def _differentiate_sum(ctx, da: Tensor) -> tuple[Tensor, Tensor]:
    return da, pixel_sums(da).to(ctx.dtype)


add_bias.register_autograd(_differentiate_sum, setup_context=_keep_dtype)
bias_relu.register_autograd(_differentiate_sum, setup_context=_keep_dtype)
