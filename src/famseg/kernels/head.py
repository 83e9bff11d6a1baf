"""The 1x1 convolution to a few classes, at full resolution: one pass over the map forward and one backward.

The matrix units want 16 bytes of each pixel's result; of 3 classes they take a kernel several times slower than memory.
But the sums over pixels, for the gradients of weight and bias, are theirs: products of (classes, pixels) and (pixels,
channels), whose operands are bf16 for maps in bf16; a class is there several times, for want of 16 classes. Maps
(B, C, H, W) are channels last: pixels (N, C) in memory. Sums are float32 partials in a fixed order.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.dots import product
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import REGISTERS, rows_at, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, row_of, run_of, zeros
from famseg.streams import for_weight

MAX_CLASSES = 4  # whose weights' gradients a program holds
HELD = 2048  # values of the map in a program
PADDED = tl.constexpr(16)  # rows of a matrix product, the least that there may be
REPEATS = tl.constexpr(PADDED.value // MAX_CLASSES)  # rows of a class
SUMMED = 64  # bf16 pixels in a program that sums; a quarter of other ones, whose products want more registers
PROGRAMS = 2112  # partial sums, 16 of a processor's; a constant, so that no result depends on the machine


@triton.jit
def store_logits(y, value, weight, bias, n, N, C, c, c_mask, CLASSES: tl.constexpr):
    """Rows n of y (N, CLASSES) = value W^T + bias, for a block of the map, (rows, channels)."""
    for k in tl.static_range(CLASSES):
        logit = tl.sum(value * row_of(weight, k, C, c, c_mask), 1) + tl.load(bias + k).to(tl.float32)
        tl.store(y + n * CLASSES + k, logit.to(y.dtype.element_ty), mask=n < N)


@triton.jit
def slope_of_rows(dy, tile, weight, N, C, c, c_mask, CLASSES: tl.constexpr, ROWS: tl.constexpr):
    """The gradient (ROWS, channels) of a tile of the map: dy W."""
    n = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    slope = tl.zeros((ROWS, c.shape[0]), tl.float32)
    for k in tl.static_range(CLASSES):
        upstream = tl.load(dy + n * CLASSES + k, mask=n < N, other=0.0).to(tl.float32)
        slope += upstream[:, None] * row_of(weight, k, C, c, c_mask)
    return slope


@triton.jit
def class_at(CLASSES: tl.constexpr):
    """The class of each of a product's rows, and whether there is such a class and this is its first row."""
    k = tl.arange(0, PADDED)
    return k // REPEATS, (k % REPEATS == 0) & (k // REPEATS < CLASSES)


@triton.jit
def upstream_at(dy, tile, N, CLASSES: tl.constexpr, ROWS: tl.constexpr):
    """A tile of dy (N, CLASSES) as float32 (PADDED, ROWS), of classes as `class_at` says."""
    KINDS: tl.constexpr = PADDED // REPEATS
    n, k = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, KINDS)
    block = block_of(dy + n[:, None] * CLASSES + k[None, :], over(n < N, k < CLASSES, False))
    return tl.trans(tl.reshape(tl.broadcast_to(block[:, :, None], (ROWS, KINDS, REPEATS)), (ROWS, PADDED)))


@triton.jit
def add_product(total, upstream, value, like):
    """Total (PADDED, channels) + upstream value; operands are as narrow as the map `like`."""
    return total + product(upstream, value, like.dtype.element_ty == tl.bfloat16)


@triton.jit
def weights_of(weight, C, c, c_mask, CLASSES: tl.constexpr):
    """Weights (CLASSES, C) as float32 (PADDED, channels) in the rows that `class_at` tells, else zeros."""
    k, there = class_at(CLASSES)
    return block_of(weight + k[:, None] * C + c[None, :], over(there, c_mask, False))


@triton.jit
def store_sums(partials, chunk, products, totals, C, c, c_mask, CLASSES: tl.constexpr):
    """Partials (chunks, CLASSES, C + 1): this chunk's sums for the weight, and in the last column for the bias."""
    k, there = class_at(CLASSES)
    to = partials + (chunk * CLASSES + k)[:, None] * (C + 1) + c[None, :]
    tl.store(to, products, mask=over(there, c_mask, False))
    tl.store(to + C, totals, mask=over(there, c == 0, False))


@triton.jit(do_not_specialize=["N"])
def head_kernel(
    x, weight, bias, y, N, C, CLASSES: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """Y (N, CLASSES) = x W^T + bias, for weights (CLASSES, C)."""
    n = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    value = block_of(x + n[:, None] * C + c[None, :], over(n < N, c_mask, EVEN))
    store_logits(y, value, weight, bias, n, N, C, c, c_mask, CLASSES)


@triton.jit(do_not_specialize=["N"])
def head_backward_kernel(
    dy,
    x,
    weight,
    dx,
    partials,
    N,
    C,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Dx; partials as of `store_sums`."""
    chunk = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    of_value, of_one = zeros(2, PADDED, BLOCK_C)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        at, mask = rows_at(tile, N, C, c, ROWS, EVEN)
        upstream = upstream_at(dy, tile, N, CLASSES, ROWS)
        of_value = add_product(of_value, upstream, block_of(x + at, mask), x)
        of_one = add_product(of_one, upstream, tl.full((ROWS, BLOCK_C), 1.0, tl.float32), x)
        slope = slope_of_rows(dy, tile, weight, N, C, c, c_mask, CLASSES, ROWS)
        tl.store(dx + at, slope.to(dx.dtype.element_ty), mask=mask)
    store_sums(partials, chunk, of_value, of_one, C, c, c_mask, CLASSES)


def suits(x: Tensor, classes: int) -> bool:
    """Whether the kernels are made for this map and so many classes."""
    return classes <= MAX_CLASSES and x.shape[1] <= HELD // 16


@torch.library.custom_op("famseg::head", mutates_args=())
def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1x1 convolution.

    Args:
        x: (B, C, H, W), see `suits`.
        weight: (K, C).
        bias: (K,).

    Returns:
        (B, K, H, W), channels last, in x's dtype; sums are float32.
    """
    x = channels_last(x)
    y = empty_map(x, len(weight))
    rows = rows_of(x, HELD, widest=None)
    start(
        head_kernel, rows.tiles,
        x, weight, bias, y, rows.number, rows.channels, CLASSES=weight.shape[0], **rows.arguments,
    )  # fmt: skip
    return y


@head.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_map(x, len(weight))


@torch.library.custom_op("famseg::head_backward", mutates_args=())
def head_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `head` for x, and for weight and bias as one (K, C + 1), float32."""
    dy, x = channels_last(dy), channels_last(x)
    dx, (classes, channels), (chunks, cut) = empty_map(x), weight.shape, rows_of_sums(x)
    partials = torch.empty(chunks, classes, channels + 1, dtype=torch.float32, device=x.device)
    start(
        head_backward_kernel, (chunks,),
        dy, x, weight, dx, partials, x.numel() // channels, channels, CLASSES=classes, **cut, maxnreg=REGISTERS,
    )  # fmt: skip
    return dx, for_weight(merged, partials)


@head_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return empty_map(x), x.new_empty(weight.shape[0], weight.shape[1] + 1, dtype=torch.float32)


def rows_of_sums(x: Tensor) -> tuple[int, dict[str, int | bool]]:
    """Programs that sum, and what their kernel takes for the map's cut: each warp has 16 of the channels."""
    rows, height = rows_of(x, widest=None), SUMMED if x.dtype == torch.bfloat16 else SUMMED // 4
    rows = replace(rows, height=height, width=max(PADDED.value, rows.width))
    return rows.chunks(PROGRAMS), rows.arguments | {"num_warps": rows.width // PADDED.value}


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = ctx.saved_tensors
    dx, sums = head_backward(dy, x, weight)
    return dx, sums[:, :-1].to(weight.dtype), sums[:, -1].to(bias.dtype)


head.register_autograd(_differentiate, setup_context=_keep)
