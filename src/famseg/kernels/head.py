"""The 1x1 convolution to a few classes, at full resolution: one pass over the map forward and one backward.

The matrix units want 16 bytes of each pixel's result; of 3 classes they take a kernel several times slower than memory.
Maps (B, C, H, W) are channels last: pixels (N, C) in memory. The gradients of weight and bias are sums of float32
partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import Rows, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, put, row_of, run_of, zeros
from famseg.streams import for_weight

MAX_CLASSES = 4  # whose weights' gradients a program holds
HELD = 2048  # values of the map in a program
PROGRAMS = 1056  # partial sums; a constant, so that no result depends on the machine


@triton.jit
def store_logits(y, value, weight, bias, n, N, C, c, c_mask, CLASSES: tl.constexpr):
    """Rows n of y (N, CLASSES) = value W^T + bias, for a block of the map, (rows, channels)."""
    for k in tl.static_range(CLASSES):
        logit = tl.sum(value * row_of(weight, k, C, c, c_mask), 1) + tl.load(bias + k).to(tl.float32)
        tl.store(y + n * CLASSES + k, logit.to(y.dtype.element_ty), mask=n < N)


@triton.jit
def column_of(dy, n, N, k, CLASSES: tl.constexpr):
    """Rows n of a class's channel of dy (N, CLASSES), as float32 (rows, 1)."""
    return tl.load(dy + n * CLASSES + k, mask=n < N, other=0.0).to(tl.float32)[:, None]


@triton.jit
def store_sums(partials, chunk, products, totals, C, c, c_mask, CLASSES: tl.constexpr):
    """Partials (chunks, CLASSES, C + 1): this chunk's sums for the weight, and in the last column for the bias."""
    for k in tl.static_range(CLASSES):
        to = partials + (chunk * CLASSES + k) * (C + 1)
        tl.store(to + c, tl.sum(products[k], 0), mask=c_mask)
        tl.store(to + C + tl.arange(0, 1), tl.sum(totals[k], 0))


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
    products = zeros(CLASSES, ROWS, BLOCK_C)
    totals = zeros(CLASSES, ROWS, 1)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        at, mask = n[:, None] * C + c[None, :], over(n < N, c_mask, EVEN)
        value = block_of(x + at, mask)
        slope = tl.zeros((ROWS, BLOCK_C), tl.float32)
        for k in tl.static_range(CLASSES):
            upstream = column_of(dy, n, N, k, CLASSES)
            slope += upstream * row_of(weight, k, C, c, c_mask)
            products = put(products, k, products[k] + upstream * value)
            totals = put(totals, k, totals[k] + upstream)
        tl.store(dx + at, slope.to(dx.dtype.element_ty), mask=mask)
    store_sums(partials, chunk, products, totals, C, c, c_mask, CLASSES)


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
    rows = _rows(x)
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
    dx, (classes, channels) = empty_map(x), weight.shape
    rows = _rows(x)
    chunks = rows.chunks(PROGRAMS)
    partials = torch.empty(chunks, classes, channels + 1, dtype=torch.float32, device=x.device)
    start(
        head_backward_kernel, (chunks,),
        dy, x, weight, dx, partials, rows.number, channels, CLASSES=classes, **rows.arguments,
    )  # fmt: skip
    return dx, for_weight(merged, partials)


@head_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return empty_map(x), x.new_empty(weight.shape[0], weight.shape[1] + 1, dtype=torch.float32)


def _rows(x: Tensor) -> Rows:
    return rows_of(x, HELD, widest=None)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = ctx.saved_tensors
    dx, sums = head_backward(dy, x, weight)
    return dx, sums[:, :-1].to(weight.dtype), sums[:, -1].to(bias.dtype)


head.register_autograd(_differentiate, setup_context=_keep)
