"""A 1x1 convolution that narrows a map, with the exact GELU in front of it.

    y = W gelu(z),    dz = (dy W) gelu'(z),    dW = dy^T gelu(z)

GELU and its slope are made of z where it is loaded, so that gelu(z) and its gradient are never in memory: backward
reads z and dy once for both gradients. Maps (B, C, H, W) are channels last: pixels (N, C) in memory. Products run on
the matrix units: for maps of half precision. The result's channels are COUNT blocks of BLOCK_O, a power of two: 160 are
five times 32. Sums are float32; those of dW are partials in a fixed order, rounded once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.dots import operand
from famseg.kernels.gelu import gelu_and_slope, gelu_of
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.tiles import block_of, channels_last, empty_map, lends, put, run_of, zeros
from famseg.streams import for_weight

LEAST = 16  # channels in a block of the result: the matrix units'
BLOCK_I = 64  # channels of z that a program has at a time: the matrix units' rows in backward
MOST = 160  # channels of the result, and blocks of them: their sums are in registers
BLOCKS = 5
SHARED = 96 * 1024  # bytes that a GPU must be able to lend a program: 76 KiB are the most, and a margin


@dataclass(frozen=True)
class Cut:
    """How a kernel cuts a map.

    `pixels`: of a tile.
    `stages`: tiles in a program's memory, one of them at work.
    `programs`: at most about so many, for partial sums; a constant, so that no result depends on the machine.
    `registers`: the most that a thread may have.
    """

    pixels: int
    stages: int
    programs: int = 0
    registers: int | None = None

    @property
    def arguments(self) -> dict[str, int | None]:
        """What a kernel takes for it."""
        return {"PIXELS": self.pixels, "num_warps": 4, "num_stages": self.stages, "maxnreg": self.registers}


FORWARD = Cut(64, stages=3)
BACKWARD = Cut(64, stages=2, programs=528, registers=128)  # 4 programs share a processor
BACKWARD_WIDE = Cut(32, stages=2, programs=396)  # 2, in one and a half turns; of more than 64 channels


@triton.jit(do_not_specialize=["N"])
def gelu_pointwise_kernel(
    z, weight, y, N, IN, COUNT: tl.constexpr, PIXELS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr
):
    """Y (N, OUT) for z (N, IN) and weights (OUT, IN)."""
    OUT: tl.constexpr = COUNT * BLOCK_O
    n = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)[:, None]
    o, i = tl.arange(0, BLOCK_O)[None, :], tl.arange(0, BLOCK_I)
    sums = zeros(COUNT, PIXELS, BLOCK_O)
    for first in range(0, IN, BLOCK_I):
        value = operand(gelu_of(block_of(z + n * IN + (first + i)[None, :], n < N)), z)
        for k in tl.static_range(COUNT):
            matrix = operand(tl.load(weight + (k * BLOCK_O + o) * IN + (first + i)[:, None]), z)
            sums = put(sums, k, tl.dot(value, matrix, sums[k], input_precision="ieee"))
    for k in tl.static_range(COUNT):
        tl.store(y + n * OUT + (k * BLOCK_O + o), sums[k].to(y.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["N"])
def gelu_pointwise_backward_kernel(
    dy, z, weight, dz, partials, N, IN,
    COUNT: tl.constexpr, PIXELS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Dz (N, IN) for dy (N, OUT) and weights (OUT, IN); partials (chunks, OUT, IN): this chunk's dW.

    Blocks of z are turned, (BLOCK_I, PIXELS): as the first product leaves its sums in registers, the second takes its
    operand.
    """
    OUT: tl.constexpr = COUNT * BLOCK_O
    chunk = tl.program_id(1)
    i = (tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I))[:, None]  # these blocks run beside each other, on one dy
    o = tl.arange(0, BLOCK_O)[None, :]
    matrices = ()
    for k in tl.static_range(COUNT):
        matrices = matrices + (operand(tl.load(weight + (k * BLOCK_O + o) * IN + i), z),)  # type: ignore[assignment]
    products = zeros(COUNT, BLOCK_I, BLOCK_O)
    begin, end = run_of(chunk, tl.num_programs(1), tl.cdiv(N, PIXELS))
    for tile in range(begin, end):
        n = (tile * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
        upstream = ()
        for k in tl.static_range(COUNT):
            block = tl.load(dy + n[:, None] * OUT + (k * BLOCK_O + o), mask=n[:, None] < N, other=0.0)
            upstream = upstream + (operand(block, z),)  # type: ignore[assignment]
        at, mask = n[None, :] * IN + i, n[None, :] < N
        value = block_of(z + at, mask)
        gradient = tl.zeros((BLOCK_I, PIXELS), tl.float32)
        for k in tl.static_range(COUNT):
            gradient = tl.dot(matrices[k], tl.trans(upstream[k]), gradient, input_precision="ieee")
        # what does not hang on the first product Triton computes twice, in the register layout of each product
        gelu, slope = gelu_and_slope(tl.fma(gradient, 0.0, value))
        tl.store(dz + at, (gradient * slope).to(dz.dtype.element_ty), mask=mask)
        for k in tl.static_range(COUNT):
            products = put(products, k, tl.dot(operand(gelu, z), upstream[k], products[k], input_precision="ieee"))
    to = partials + chunk.to(tl.int64) * OUT * IN
    for k in tl.static_range(COUNT):
        tl.store(to + (k * BLOCK_O + o) * IN + i, products[k])


def suits(z: Tensor, weight: Tensor) -> bool:
    """Whether the kernels are made for this map and 1x1 weight, whose dtype does not count."""
    outer, inner = weight.shape[:2]
    if z.dtype not in (torch.bfloat16, torch.float16) or inner % BLOCK_I or outer % LEAST or outer > MOST:
        return False
    return outer // _block(outer) <= BLOCKS and lends(z.device, SHARED)


@torch.library.custom_op("famseg::gelu_pointwise", mutates_args=())
def gelu_pointwise(z: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution of the exact GELU of z.

    Args:
        z: (B, I, H, W), see `suits`.
        weight: (O, I, 1, 1), in z's dtype.

    Returns:
        (B, O, H, W), channels last, in z's dtype; sums are float32.
    """
    z, weight = channels_last(z), weight.contiguous()
    y, pixels = empty_map(z, len(weight)), z.numel() // z.shape[1]
    start(
        gelu_pointwise_kernel, (triton.cdiv(pixels, FORWARD.pixels),),
        z, weight, y, pixels, z.shape[1], **_blocks(weight), **FORWARD.arguments,
    )  # fmt: skip
    return y


@gelu_pointwise.register_fake
def _(z: Tensor, weight: Tensor) -> Tensor:
    return empty_map(z, len(weight))


@torch.library.custom_op("famseg::gelu_pointwise_backward", mutates_args=())
def gelu_pointwise_backward(dy: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gelu_pointwise` for z and weight."""
    dy, z, weight = channels_last(dy), channels_last(z), weight.contiguous()
    outer, inner = weight.shape[:2]
    cut = BACKWARD if outer <= 64 else BACKWARD_WIDE
    pixels, blocks = z.numel() // inner, inner // BLOCK_I
    chunks = min(triton.cdiv(pixels, cut.pixels), max(1, cut.programs // blocks))
    partials = torch.empty(chunks, outer * inner, dtype=torch.float32, device=z.device)
    dz = empty_map(z)
    start(
        gelu_pointwise_backward_kernel, (blocks, chunks),
        dy, z, weight, dz, partials, pixels, inner, **_blocks(weight), **cut.arguments,
    )  # fmt: skip
    return dz, for_weight(merged, partials, 0, weight.dtype).view(weight.shape)


@gelu_pointwise_backward.register_fake
def _(dy: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return empty_map(z), torch.empty_like(weight, memory_format=torch.contiguous_format)


def _block(channels: int) -> int:
    """The largest power of two that divides them."""
    return channels & -channels


def _blocks(weight: Tensor) -> dict[str, int]:
    """What the kernels take for the channels."""
    block = _block(len(weight))
    return {"COUNT": len(weight) // block, "BLOCK_O": block, "BLOCK_I": BLOCK_I}


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = gelu_pointwise_backward(dy, *ctx.saved_tensors)
    return gradients


gelu_pointwise.register_autograd(_differentiate, setup_context=_keep)
