"""The network's end in training: batch norm, GELU and the 1x1 convolution to a few classes, at full resolution.

As `famseg.kernels.norm` and `famseg.kernels.head`, but the map between them is not written: with a = gelu(z),

    y = W a + b,    da = W^T dy,    dz = da gelu'(z),    dW = sum dy a,    db = sum dy

and the norm's sums and dx follow from dz. One pass over the map forward, behind the statistics', and two backward, each
of which reads the map and the few channels of dy. Sums are float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from famseg.kernels import head, norm
from famseg.kernels.gelu import gelu_and_slope, gelu_of
from famseg.kernels.head import column_of, store_logits, store_sums
from famseg.kernels.launch import start
from famseg.kernels.norm import normalised_at, slope_of_map
from famseg.kernels.partials import merged
from famseg.kernels.rows import REGISTERS, rows_at, rows_of
from famseg.kernels.tiles import channels_last, empty_map, put, row_of, run_of, zeros
from famseg.streams import for_weight

SUMMED = 1024  # values of the map in a program that sums: it has five blocks of sums for three classes
PROGRAMS = 1056  # partial sums; a constant, so that no result depends on the machine


@triton.jit(do_not_specialize=["R"])
def norm_head_kernel(
    x, norm_weight, norm_bias, stats, weight, bias, y, R, C,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Y (R, CLASSES), for weights (CLASSES, C)."""
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    _, z = normalised_at(x, norm_weight, norm_bias, stats, at, mask, C, c, c_mask)
    value = gelu_of(z)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    store_logits(y, value, weight, bias, row, R, C, c, c_mask, CLASSES)


@triton.jit(do_not_specialize=["R"])
def norm_head_sums_kernel(
    dy, x, norm_weight, norm_bias, stats, weight, of_norm, of_head, R, C,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """This chunk's sums: of_norm (2, chunks, C), of dz n and of dz; of_head as of `store_sums`, of dW and db."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    of_weight = tl.zeros((ROWS, BLOCK_C), tl.float32)
    of_bias = tl.zeros((ROWS, BLOCK_C), tl.float32)
    products = zeros(CLASSES, ROWS, BLOCK_C)
    totals = zeros(CLASSES, ROWS, 1)
    begin, end = run_of(chunk, chunks, tl.cdiv(R, ROWS))
    for tile in range(begin, end):
        at, mask = rows_at(tile, R, C, c, ROWS, EVEN)
        n, z = normalised_at(x, norm_weight, norm_bias, stats, at, mask, C, c, c_mask)
        value, slope = gelu_and_slope(z)
        da = tl.zeros((ROWS, BLOCK_C), tl.float32)
        row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        for k in tl.static_range(CLASSES):
            upstream = column_of(dy, row, R, k, CLASSES)
            da += upstream * row_of(weight, k, C, c, c_mask)
            products = put(products, k, products[k] + upstream * value)
            totals = put(totals, k, totals[k] + upstream)
        dz = da * slope
        of_weight += dz * n
        of_bias += dz
    tl.store(of_norm + chunk * C + c, tl.sum(of_weight, 0), mask=c_mask)
    tl.store(of_norm + (chunks + chunk) * C + c, tl.sum(of_bias, 0), mask=c_mask)
    store_sums(of_head, chunk, products, totals, C, c, c_mask, CLASSES)


@triton.jit(do_not_specialize=["R"])
def norm_head_backward_kernel(
    dy, x, norm_weight, norm_bias, stats, weight, sums, dx, R, C,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Dx, from the norm's sums (2, C)."""
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    n, z = normalised_at(x, norm_weight, norm_bias, stats, at, mask, C, c, c_mask)
    _, slope = gelu_and_slope(z)
    da = tl.zeros((ROWS, BLOCK_C), tl.float32)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    for k in tl.static_range(CLASSES):
        da += column_of(dy, row, R, k, CLASSES) * row_of(weight, k, C, c, c_mask)
    value = slope_of_map(da * slope, n, norm_weight, stats, sums, R, C, c, c_mask)
    tl.store(dx + at, value.to(dx.dtype.element_ty), mask=mask)


def suits(module: nn.Module, x: Tensor, classes: int) -> bool:
    """Whether the kernels are made for this norm now, this map and so many classes."""
    return norm.suits(module, x) and head.suits(x, classes)


def norm_head(x: Tensor, module: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution of the exact GELU of the batch norm, as in training; the norm's buffers are updated.

    Args:
        x: (B, C, H, W).
        module: the norm, see `suits`.
        weight: (K, C) of the convolution.
        bias: (K,).

    Returns:
        (B, K, H, W), channels last, in x's dtype; sums are float32.
    """
    x = channels_last(x)
    result: Tensor = _op(x, module.weight, module.bias, norm.updated_statistics(x, module), weight, bias)
    return result


@torch.library.custom_op("famseg::norm_head", mutates_args=())
def _op(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, stats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y, rows = empty_map(x, len(weight)), rows_of(x, widest=None)
    start(
        norm_head_kernel, rows.tiles,
        x, norm_weight, norm_bias, stats, weight, bias, y, rows.number, rows.channels,
        CLASSES=len(weight), **rows.arguments,
    )  # fmt: skip
    return y


@_op.register_fake
def _(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, stats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_map(x, len(weight))


@torch.library.custom_op("famseg::norm_head_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, stats: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x; of the norm's weight and bias as one (2, C); of the head's as one (K, C + 1): float32."""
    dy, dx, classes = channels_last(dy), empty_map(x), len(weight)
    summed, rows = rows_of(x, SUMMED, widest=None), rows_of(x, widest=None)
    source, sizes = (dy, x, norm_weight, norm_bias, stats, weight), (rows.number, rows.channels)
    chunks = summed.chunks(PROGRAMS)
    of_norm = torch.empty(2, chunks, rows.channels, dtype=torch.float32, device=x.device)
    of_head = torch.empty(chunks, classes, rows.channels + 1, dtype=torch.float32, device=x.device)
    start(
        norm_head_sums_kernel, (chunks,),
        *source, of_norm, of_head, *sizes, CLASSES=classes, **summed.arguments, maxnreg=REGISTERS,
    )  # fmt: skip
    sums = merged(of_norm, 1)
    start(norm_head_backward_kernel, rows.tiles, *source, sums, dx, *sizes, CLASSES=classes, **rows.arguments)
    return dx, sums, for_weight(merged, of_head)


@_backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, norm_weight: Tensor, norm_bias: Tensor, stats: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_head = x.new_empty(weight.shape[0], weight.shape[1] + 1, dtype=torch.float32)
    return empty_map(x), torch.empty_like(stats), of_head


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, Tensor, Tensor]:
    *source, weight, bias = ctx.saved_tensors
    dx, (of_weight, of_bias), of_head = _backward_op(dy, *source, weight)
    own = of_weight.to(source[1].dtype), of_bias.to(source[2].dtype)
    return dx, *own, None, of_head[:, :-1].to(weight.dtype), of_head[:, -1].to(bias.dtype)


_op.register_autograd(_differentiate, setup_context=_keep)
