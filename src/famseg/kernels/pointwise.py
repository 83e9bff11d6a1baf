"""A 1x1 convolution in one pass, and a backward pass that reads the gradient of its result once, for all gradients.

    y = x W^T + bias,    dx = dy W [+ other],    dW = dy^T x,    dbias = sum dy

`other` is the gradient of x from another reader, see `famseg.kernels.sharing`.
cuDNN makes the gradients in two products and a sum, each of which reads dy: the widest map of all, where the
convolution widens; and adds the bias in a pass of its own. Maps (B, C, H, W) are channels last: pixels (N, C) in
memory. A program holds the whole W and the whole dW, its products run on the matrix units: for maps of half precision.
Sums are float32 partials in a fixed order, rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.dots import operand
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.sharing import sharing
from famseg.kernels.tiles import block_of, channels_last, empty_map, lends, over, row_of, run_of
from famseg.streams import for_weight

MOST = 8192  # weights that a program holds
HELD = 8192  # values of x and dy in a tile, where it has no fewer than FEWEST pixels
FEWEST = 64  # the matrix units' rows
STAGES = 3  # tiles in a program's memory in backward: one at work, two on their way
MANY = 264  # partial sums, of more than MOST / 2 weights half as many; a constant: no result depends on the machine
SHARED = 160 * 1024  # bytes that a GPU must be able to lend a program: 128 KiB are the most, and a margin


@triton.jit(do_not_specialize=["N"])
def pointwise_kernel(
    x, weight, bias, y, N, OUT, IN,
    BIAS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
    EVEN_O: tl.constexpr, EVEN_I: tl.constexpr,
):  # fmt: skip
    """Y (N, OUT) for x (N, IN) and weights (OUT, IN)."""
    n = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
    o, i = tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_I)
    o_mask, i_mask = o < OUT, i < IN
    value = operand(tl.load(x + n[:, None] * IN + i[None, :], mask=over(n < N, i_mask, EVEN_I), other=0.0), x)
    at_weight, weight_mask = o[None, :] * IN + i[:, None], over(i_mask, o_mask, EVEN_O) & i_mask[:, None]
    matrix = operand(tl.load(weight + at_weight, mask=weight_mask, other=0.0), x)
    result = tl.dot(value, matrix, input_precision="ieee")
    if BIAS:
        result += row_of(bias, 0, OUT, o, o_mask)
    tl.store(y + n[:, None] * OUT + o[None, :], result.to(y.dtype.element_ty), mask=over(n < N, o_mask, EVEN_O))


@triton.jit(do_not_specialize=["N"])
def pointwise_backward_kernel(
    dy, x, weight, other, dx, partials, N, OUT, IN, SIZE,
    OTHER: tl.constexpr, BIAS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
    EVEN_O: tl.constexpr, EVEN_I: tl.constexpr,
):  # fmt: skip
    """Dx (N, IN) for dy (N, OUT) and weights (OUT, IN); partials (chunks, SIZE): this chunk's dW, then dbias."""
    chunk = tl.program_id(0)
    o, i = tl.arange(0, BLOCK_O), tl.arange(0, BLOCK_I)
    o_mask, i_mask = o < OUT, i < IN
    at_weight, weight_mask = o[:, None] * IN + i[None, :], over(o_mask, i_mask, EVEN_I) & o_mask[:, None]
    matrix = operand(tl.load(weight + at_weight, mask=weight_mask, other=0.0), x)
    products = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    total = tl.zeros((PIXELS, BLOCK_O), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, PIXELS))
    for tile in range(begin, end):
        n = (tile * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
        there = over(n < N, o_mask, EVEN_O)
        upstream = operand(tl.load(dy + n[:, None] * OUT + o[None, :], mask=there, other=0.0), x)
        at, mask = n[:, None] * IN + i[None, :], over(n < N, i_mask, EVEN_I)
        value = operand(tl.load(x + at, mask=mask, other=0.0), x)
        more = block_of(other + at, mask) if OTHER else 0.0  # on its way before the products wait
        products = tl.dot(tl.trans(upstream), value, products, input_precision="ieee")
        slope = tl.dot(upstream, matrix, input_precision="ieee")
        if OTHER:
            slope += more
        tl.store(dx + at, slope.to(dx.dtype.element_ty), mask=mask)
        if BIAS:
            total += upstream.to(tl.float32)
    to = partials + chunk * SIZE
    tl.store(to + at_weight, products, mask=weight_mask)
    if BIAS:
        tl.store(to + OUT * IN + o, tl.sum(total, 0), mask=o_mask)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel is made for this map and 1x1 weight: narrow, and the result no narrower than the map."""
    outer, inner = weight.shape[:2]
    if x.dtype not in (torch.bfloat16, torch.float16) or outer < inner or _block(outer) * _block(inner) > MOST:
        return False
    return lends(x.device, SHARED)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution.

    Args:
        x: (B, I, H, W), see `suits`.
        weight: (O, I, 1, 1), in x's dtype.
        bias: (O,), in x's dtype.

    Returns:
        (B, O, H, W), channels last, in x's dtype.
    """
    result: Tensor = _op(x, weight, bias)
    return result


@torch.library.custom_op("famseg::pointwise", mutates_args=())
def _op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, weight = channels_last(x), weight.contiguous()
    outer, inner = weight.shape[:2]
    pixels, y = x.numel() // inner, empty_map(x, len(weight))
    cut = _cut(outer, inner)
    start(
        pointwise_kernel, (triton.cdiv(pixels, cut["PIXELS"]),),
        x, weight, weight if bias is None else bias, y, pixels, outer, inner, BIAS=bias is not None, **cut,
    )  # fmt: skip
    return y


@_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return empty_map(x, len(weight))


@torch.library.custom_op("famseg::pointwise_backward", mutates_args=())
def _backward_op(
    dy: Tensor, x: Tensor, weight: Tensor, bias: bool, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which `other`, channels last, is added, and of weight and bias.

    The latter are one behind the other, as one (O I + O,) or without bias (O I,).
    """
    dy, x, weight = channels_last(dy), channels_last(x), weight.contiguous()
    outer, inner = weight.shape[:2]
    pixels, size = x.numel() // inner, outer * inner + (outer if bias else 0)
    cut = _cut(outer, inner)
    programs = MANY if 2 * cut["BLOCK_O"] * cut["BLOCK_I"] <= MOST else MANY // 2
    chunks = min(programs, triton.cdiv(pixels, cut["PIXELS"]))
    partials = torch.empty(chunks, size, dtype=torch.float32, device=x.device)
    dx = empty_map(x)
    start(
        pointwise_backward_kernel, (chunks,),
        dy, x, weight, x if other is None else other, dx, partials, pixels, outer, inner, size,
        OTHER=other is not None, BIAS=bias, num_stages=STAGES, **cut,
    )  # fmt: skip
    return dx, for_weight(merged, partials, 0, weight.dtype)


@_backward_op.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: bool, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return empty_map(x), weight.new_empty(weight.numel() + (len(weight) if bias else 0))


def _block(channels: int) -> int:
    return int(max(16, triton.next_power_of_2(channels)))  # the matrix units' least


def _cut(outer: int, inner: int) -> dict[str, int]:
    """What the kernels take for a tile of the maps."""
    block_o, block_i = _block(outer), _block(inner)
    pixels = max(FEWEST, 1 << (HELD // (block_o + block_i)).bit_length() - 1)
    return {
        "PIXELS": pixels,
        "BLOCK_O": block_o,
        "BLOCK_I": block_i,
        "EVEN_O": outer == block_o,
        "EVEN_I": inner == block_i,
        "num_warps": 8,
    }


def _keep(ctx, inputs, output) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, dy: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    x, weight = ctx.saved_tensors
    dx, sums = _backward_op(dy, x, weight, ctx.has_bias, other)
    number = weight.numel()
    return dx, sums[:number].view(weight.shape), sums[number:] if ctx.has_bias else None


_op.register_autograd(_differentiate, setup_context=_keep)
pointwise_shared = sharing(_op, _keep, _differentiate)
