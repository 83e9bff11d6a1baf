"""The strip attention's end, a 1x1 convolution times a map, in one pass over the maps forward and one backward.

Maps (B, C, H, W) are channels last: pixels (N, C) in memory. A program holds all channels of a run of pixels, and its
products run on the matrix units: for maps of half precision, at most MAX_CHANNELS wide. The gate is not kept; backward
computes it again. The gradients of weight and bias are sums of float32 partials in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.dots import operand
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, row_of, run_of
from famseg.streams import for_weight

MAX_CHANNELS = 128
PIXELS = 64  # of a program
PROGRAMS = 264  # partial sums; a constant, so that no result depends on the machine


@triton.jit
def matrix_of(weight, C, c, c_mask, like, EVEN: tl.constexpr):
    """The (C, C) weight in the dtype of the maps, as the matrix units take it."""
    return operand(block_of(weight + c[:, None] * C + c[None, :], over(c_mask, c_mask, EVEN)), like)


@triton.jit(do_not_specialize=["N"])
def gate_kernel(s, x, weight, bias, y, N, C, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Y = (s W^T + bias) x, pixel by pixel."""
    n = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = n[:, None] * C + c[None, :], over(n < N, c_mask, EVEN)
    kind = x.dtype.element_ty
    matrix = matrix_of(weight, C, c, c_mask, x, EVEN)
    gate = tl.dot(operand(tl.load(s + at, mask=mask, other=0.0), x), tl.trans(matrix), input_precision="ieee")
    gate += row_of(bias, 0, C, c, c_mask)
    tl.store(y + at, (gate * block_of(x + at, mask)).to(kind), mask=mask)


@triton.jit(do_not_specialize=["N"])
def gate_backward_kernel(
    dy,
    s,
    x,
    weight,
    bias,
    ds,
    dx,
    partials,
    N,
    C,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Partials (chunks, C + 1, C): this chunk's sums for the weight, and in the last row for the bias."""
    chunk = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    c_mask = c < C
    kind = x.dtype.element_ty
    matrix = matrix_of(weight, C, c, c_mask, x, EVEN)
    offset = row_of(bias, 0, C, c, c_mask)
    products = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    total = tl.zeros((PIXELS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, PIXELS))
    for tile in range(begin, end):
        n = (tile * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
        at, mask = n[:, None] * C + c[None, :], over(n < N, c_mask, EVEN)
        upstream = block_of(dy + at, mask)
        before = operand(tl.load(s + at, mask=mask, other=0.0), x)
        gate = tl.dot(before, tl.trans(matrix), input_precision="ieee") + offset
        tl.store(dx + at, (upstream * gate).to(kind), mask=mask)
        slope = upstream * block_of(x + at, mask)  # gradient of the gate
        total += slope
        slope = operand(slope, x)
        tl.store(ds + at, tl.dot(slope, matrix, input_precision="ieee").to(kind), mask=mask)
        products = tl.dot(tl.trans(slope), before, products, input_precision="ieee")
    to = partials + chunk * (C + 1) * C
    tl.store(to + c[:, None] * C + c[None, :], products, mask=over(c_mask, c_mask, EVEN))
    tl.store(to + C * C + c, tl.sum(total, 0), mask=c_mask)


def suits(x: Tensor) -> bool:
    """Whether the kernels are made for this map; float32 products would be slow, and wide ones do not fit."""
    return x.dtype in (torch.bfloat16, torch.float16) and x.shape[1] <= MAX_CHANNELS


@torch.library.custom_op("famseg::gate", mutates_args=())
def gate(s: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(1x1 convolution of s) * x.

    Args:
        s: (B, C, H, W), see `suits`.
        x: the same, in the same dtype.
        weight: (C, C), rounded to x's dtype for the products, whose sums are float32.
        bias: (C,).

    Returns:
        (B, C, H, W), channels last.
    """
    s, x = channels_last(s), channels_last(x)
    y = empty_map(x)
    pixels, arguments = _cut(x)
    start(gate_kernel, (triton.cdiv(pixels, PIXELS),), s, x, weight, bias, y, pixels, x.shape[1], **arguments)
    return y


@gate.register_fake
def _(s: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::gate_backward", mutates_args=())
def gate_backward(dy: Tensor, s: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `gate` for s and x, and for weight and bias as one (C + 1, C), float32."""
    dy, s, x = channels_last(dy), channels_last(s), channels_last(x)
    ds, dx = empty_map(s), empty_map(x)
    channels = x.shape[1]
    pixels, arguments = _cut(x)
    chunks = min(PROGRAMS, triton.cdiv(pixels, PIXELS))
    partials = torch.empty(chunks, channels + 1, channels, dtype=torch.float32, device=x.device)
    start(gate_backward_kernel, (chunks,), dy, s, x, weight, bias, ds, dx, partials, pixels, channels, **arguments)
    return ds, dx, for_weight(merged, partials)


@gate_backward.register_fake
def _(dy: Tensor, s: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(s), empty_map(x), x.new_empty(x.shape[1] + 1, x.shape[1], dtype=torch.float32)


def _cut(x: Tensor) -> tuple[int, dict[str, int | bool]]:
    """Pixels of the map, and what the kernels take for their cut of it."""
    channels = x.shape[1]
    block_c = max(16, triton.next_power_of_2(channels))  # the matrix units' least
    return x.numel() // channels, {
        "PIXELS": PIXELS,
        "BLOCK_C": block_c,
        "EVEN": channels == block_c,
        "num_warps": 4 if block_c <= 64 else 8,
    }


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s, x, weight, bias = ctx.saved_tensors
    ds, dx, sums = gate_backward(dy, s, x, weight, bias)
    return ds, dx, sums[:-1].to(weight.dtype), sums[-1].to(bias.dtype)


gate.register_autograd(_differentiate, setup_context=_keep)
