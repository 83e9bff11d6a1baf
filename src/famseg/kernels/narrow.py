"""3x3 convolution of few channels on a large map, padded by one: one pass over the map for each of its three parts.

The matrix units multiply by 64 numbers at a time, and a pixel of 16 channels has 16. In channels-last memory, though,
neighbouring pixels are one row of numbers: a run of RUN = 2 pixels has 2 O of the result, and the window of 4 pixels
around it 4 I of the map, which is all that the run needs of a line. With weights w (O, I, 3, 3) spread over a matrix,

    S_dy[(p, i), (q, o)] = w[o, i, dy, p - q],    0 <= p - q < 3,    zero elsewhere,
    y[run of line h] = sum_dy  x[window of line h + dy - 1] S_dy
    dx = the same of dy, with weights turned by 180 degrees and O and I exchanged
    dS_dy = sum over the runs of  x[window]^T dy[run],    dw[o, i, dy, dx] = sum_q dS_dy[(q + dx, i), (q, o)]

a quarter of S is zeros, and 2/3 as many numbers are loaded as pixel by pixel. A loaded line serves up to three lines of
the result. Operands have the map's dtype, sums are float32; those of dS are partials in a fixed order, whose number
depends on nothing but the shape.
"""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from famseg.kernels.dots import INTERPRETED
from famseg.kernels.tiles import (
    block_of,
    channels_last,
    device_of,
    empty_map,
    inside,
    offset_of,
    over,
    put,
    run_of,
    tile_at,
    zeros,
)

RUN = 2  # pixels of a run
RUNS = 64  # of a program: the rows of a product
SIDE = 3  # of the kernel
MOST = 32, 64  # channels of the map and of the result that the kernels are made for
LEAST = 2**17  # pixels from which a pass is a matter of bytes and not of launches
ROOM = 2**17  # bytes of shared memory of a processor, of which a program takes 113 kB at the most
PROGRAMS = 396, 264  # that share out the tiles of a map, if windows have up to 64 numbers, and else: as many as an
# H100 runs at once; constants, so that no result depends on the machine
AT_ONCE, FEW = 128, 16  # partial sums and weights that a merging program loads at once


@dataclass(frozen=True)
class Cut:
    """How a map of `row_in` channels becomes one of `row_out`, `widest` numbers of a run at most in a program."""

    row_in: int
    row_out: int
    widest: int

    @property
    def window(self) -> int:
        """Numbers of a window."""
        return (RUN + SIDE - 1) * self.row_in

    @property
    def wide(self) -> bool:
        """Whether a window is several blocks, so that a program has room for two lines only."""
        return self.window > 64

    @property
    def block_k(self) -> int:
        """Numbers of a window that are multiplied at once."""
        return next((k for k in (64, 32, 16) if self.window % k == 0), 64)

    @property
    def block_n(self) -> int:
        """Numbers of a run in a program."""
        needed: int = triton.next_power_of_2(RUN * self.row_out)
        return min(32 if self.wide else self.widest, max(16, needed))

    @property
    def lines(self) -> int:
        """Of a tile."""
        return 2 if self.wide or self.block_n > 32 else 4

    @property
    def blocks(self) -> int:
        """Of a run's numbers."""
        return int(triton.cdiv(RUN * self.row_out, self.block_n))

    def chunks(self, x: Tensor) -> int:
        """Runs of tiles of the map (B, C, H, W), for about PROGRAMS programs in all."""
        b, _, h, w = x.shape
        tiles = b * triton.cdiv(h, self.lines) * triton.cdiv(w, RUNS * RUN)
        return int(min(tiles, triton.cdiv(PROGRAMS[self.wide], self.blocks)))

    @property
    def arguments(self) -> dict[str, int]:
        """What a kernel takes for it."""
        return {
            "ROW_IN": self.row_in,
            "ROW_OUT": self.row_out,
            "RUN": RUN,
            "RUNS": RUNS,
            "LINES": self.lines,
            "BLOCK_K": self.block_k,
            "BLOCK_N": self.block_n,
            "num_warps": 4,
            "num_stages": 1,  # loads stay in the L1 cache, where windows overlap; copied ahead they would pass it by
        }


@triton.jit
def operand(x, like):
    """A factor of a product, in the dtype of the map `like`; the interpreter multiplies no bf16 (`kernels.dots`)."""
    x = x.to(like.dtype.element_ty)
    return x.to(tl.float32) if INTERPRETED else x


@triton.jit
def window_of(x, b, h, w, H, W, k, ROW: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers k of the windows around the runs of line h from column w on: [RUNS, BLOCK_K], zero off the map."""
    pixel = tl.arange(0, RUNS) * RUN
    there = inside((w - 1 + pixel)[:, None] + (k // ROW)[None, :], W) & inside(h, H)
    if (RUN + 2) * ROW % BLOCK != 0:
        there = there & (k < (RUN + 2) * ROW)[None, :]
    at = x + offset_of(b, h, w - 1, H, W, ROW) + (pixel * ROW)[:, None] + k[None, :]
    return operand(tl.load(at, mask=there, other=0.0), x)


@triton.jit
def run_at(b, h, w, H, W, n, ROW: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr):
    """Where numbers n of these runs are, and whether they are on the map: two of [RUNS, BLOCK_N]."""
    pixel = tl.arange(0, RUNS) * RUN
    there = ((w + pixel)[:, None] + (n // ROW)[None, :] < W) & (h < H)
    if RUN * ROW % BLOCK != 0:
        there = there & (n < RUN * ROW)[None, :]
    return offset_of(b, h, w, H, W, ROW) + (pixel * ROW)[:, None] + n[None, :], there


@triton.jit
def spread(
    weight, like, dy, k, n, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """The block of S_dy, [BLOCK_K, BLOCK_N]; strides and numbers of the weights' output and input channels."""
    o, i = n % ROW_OUT, k % ROW_IN
    dx = (k // ROW_IN)[:, None] - (n // ROW_OUT)[None, :]
    there = inside(dx, 3) & over((k < (RUN + 2) * ROW_IN) & (i < CHANNELS[1]), n < RUN * ROW_OUT, False)
    if TURNED:
        dy, dx = 2 - dy, 2 - dx
    at = weight + (i * STRIDES[1])[:, None] + (o * STRIDES[0])[None, :] + dy * STRIDES[2] + dx * STRIDES[3]
    return operand(tl.load(at, mask=there & (o < CHANNELS[0])[None, :], other=0.0), like)


@triton.jit(do_not_specialize=["B", "H", "W"])
def narrow_kernel(
    x, weight, y, B, H, W, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, LINES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Y (B, H, W, ROW_OUT) of x (B, H, W, ROW_IN); there may be more channels than weights: their weights are 0."""
    COUNT: tl.constexpr = ((RUN + 2) * ROW_IN + BLOCK_K - 1) // BLOCK_K
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    matrices = ()
    for block in tl.static_range(3 * COUNT):
        k = block % COUNT * BLOCK_K + tl.arange(0, BLOCK_K)
        matrix = spread(weight, x, block // COUNT, k, n, STRIDES, CHANNELS, TURNED, ROW_IN, ROW_OUT, RUN)
        matrices = matrices + (matrix,)  # type: ignore[assignment]
    tiles = B * tl.cdiv(H, LINES) * tl.cdiv(W, RUNS * RUN)
    begin, end = run_of(tl.program_id(1), tl.num_programs(1), tiles)
    for tile in range(begin, end):
        b, h, w = tile_at(tile, H, W, LINES, RUNS * RUN)
        sums = zeros(LINES, RUNS, BLOCK_N)
        windows = ()
        for line in tl.static_range(LINES + 2):
            for j in tl.static_range(COUNT):
                numbers = j * BLOCK_K + tl.arange(0, BLOCK_K)
                window = window_of(x, b, h + line - 1, w, H, W, numbers, ROW_IN, RUN, RUNS, BLOCK_K)
                windows = windows + (window,)  # type: ignore[assignment]
        for r in tl.static_range(LINES):
            for block in tl.static_range(3 * COUNT):
                total = tl.dot(windows[r * COUNT + block], matrices[block], sums[r], input_precision="ieee")
                sums = put(sums, r, total)
        for r in tl.static_range(LINES):
            at, there = run_at(b, h + r, w, H, W, n, ROW_OUT, RUN, RUNS, BLOCK_N)
            tl.store(y + at, sums[r].to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["B", "H", "W"])
def weight_sums_kernel(
    x, dy, partials, B, H, W,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, LINES: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Partials (chunks, 3, (RUN + 2) ROW_IN, RUN ROW_OUT): this chunk's sums for S."""
    COUNT: tl.constexpr = ((RUN + 2) * ROW_IN + BLOCK_K - 1) // BLOCK_K
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    chunk = tl.program_id(1)
    sums = zeros(3 * COUNT, BLOCK_K, BLOCK_N)
    tiles = B * tl.cdiv(H, LINES) * tl.cdiv(W, RUNS * RUN)
    begin, end = run_of(chunk, tl.num_programs(1), tiles)
    for tile in range(begin, end):
        b, h, w = tile_at(tile, H, W, LINES, RUNS * RUN)
        upstream = ()
        for r in tl.static_range(LINES):
            at, there = run_at(b, h + r, w, H, W, n, ROW_OUT, RUN, RUNS, BLOCK_N)
            upstream = upstream + (operand(tl.load(dy + at, mask=there, other=0.0), x),)  # type: ignore[assignment]
        windows = ()
        for line in tl.static_range(LINES + 2):
            for j in tl.static_range(COUNT):
                numbers = j * BLOCK_K + tl.arange(0, BLOCK_K)
                window = window_of(x, b, h + line - 1, w, H, W, numbers, ROW_IN, RUN, RUNS, BLOCK_K)
                windows = windows + (tl.trans(window),)  # type: ignore[assignment]
        for block in tl.static_range(3 * COUNT):
            for r in tl.static_range(LINES):
                total = tl.dot(windows[r * COUNT + block], upstream[r], sums[block], input_precision="ieee")
                sums = put(sums, block, total)
    for block in tl.static_range(3 * COUNT):
        k = block % COUNT * BLOCK_K + tl.arange(0, BLOCK_K)
        row = (chunk * 3 + block // COUNT) * ((RUN + 2) * ROW_IN) + k
        there = over(k < (RUN + 2) * ROW_IN, n < RUN * ROW_OUT, False)
        tl.store(partials + row[:, None] * (RUN * ROW_OUT) + n[None, :], sums[block], mask=there)


@triton.jit(do_not_specialize=["chunks"])
def weight_gradient_kernel(
    partials, dweight, chunks, STRIDES: tl.constexpr, CHANNELS: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, RUN: tl.constexpr, AT_ONCE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """FEW of the weights' gradients, from all partials."""
    e = tl.program_id(0) * FEW + tl.arange(0, FEW)
    o, i, tap = e % CHANNELS[0], e // CHANNELS[0] % CHANNELS[1], e // (CHANNELS[0] * CHANNELS[1])
    total = tl.zeros((AT_ONCE, FEW), tl.float32)
    for first in range(0, chunks, AT_ONCE):
        chunk = first + tl.arange(0, AT_ONCE)
        matrix = (chunk * 3)[:, None] + (tap // 3)[None, :]
        for q in tl.static_range(RUN):
            at = (matrix * (RUN + 2) + (tap % 3 + q)[None, :]) * ROW_IN + i[None, :]
            at = at * (RUN * ROW_OUT) + (q * ROW_OUT + o)[None, :]
            total += block_of(partials + at, over(chunk < chunks, tap < 9, False))
    to = dweight + o * STRIDES[0] + i * STRIDES[1] + tap // 3 * STRIDES[2] + tap % 3 * STRIDES[3]
    tl.store(to, tl.sum(total, 0).to(dweight.dtype.element_ty), mask=tap < 9)


def suits(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for this convolution, but for its bias, of a map x that has this dtype then."""
    square = conv.kernel_size == (SIDE, SIDE) and conv.padding in (1, (1, 1)) and conv.padding_mode == "zeros"
    dense = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    few = conv.in_channels <= MOST[0] and conv.out_channels <= MOST[1]
    large = x.numel() >= LEAST * conv.in_channels
    return square and dense and few and large and dtype in (torch.bfloat16, torch.float16) and _has_room(x.device)


@functools.cache
def _has_room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # the interpreter
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0) >= ROOM


@torch.library.custom_op("famseg::narrow_conv", mutates_args=())
def narrow_conv(x: Tensor, weight: Tensor, row: int) -> Tensor:
    """3x3 convolution, padded by one.

    Args:
        x: (B, I, H, W).
        weight: (O, I, 3, 3); it is rounded to x's dtype.
        row: channels of the result, O or more; the further ones are zero.

    Returns:
        (B, row, H, W), channels last, in x's dtype.
    """
    x = channels_last(x)
    y = _empty(x, row)
    _convolve(x, weight, y, turned=False)
    return y


@narrow_conv.register_fake
def _(x: Tensor, weight: Tensor, row: int) -> Tensor:
    return _empty(x, row)


@torch.library.custom_op("famseg::narrow_conv_backward", mutates_args=())
def narrow_conv_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `narrow_conv` for x, and for the weight, laid out as it is; float32 sums are not rounded."""
    dy, x = channels_last(dy), channels_last(x)
    dx, dweight = empty_map(x), torch.empty_like(weight)
    _convolve(dy, weight, dx, turned=True)
    _sum_weights(x, dy, dweight)
    return dx, dweight


@narrow_conv_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return empty_map(x), torch.empty_like(weight)


def _empty(x: Tensor, channels: int) -> Tensor:
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor, y: Tensor, turned: bool) -> None:
    """Write y, the convolution of x; `turned`: of the result's gradient, for that of the map."""
    (b, row_in, h, w), row_out = x.shape, y.shape[1]
    view = weight.transpose(0, 1) if turned else weight
    cut = Cut(row_in, row_out, widest=64)
    with device_of(x):
        narrow_kernel[cut.blocks, cut.chunks(x)](
            x, weight, y, b, h, w, STRIDES=view.stride(), CHANNELS=tuple(view.shape[:2]), TURNED=turned, **cut.arguments
        )


def _sum_weights(x: Tensor, dy: Tensor, dweight: Tensor) -> None:
    """Write the gradient of the weight."""
    (b, row_in, h, w), row_out = x.shape, dy.shape[1]
    cut = Cut(row_in, row_out, widest=32)
    chunks = cut.chunks(x)
    partials = torch.empty(chunks, SIDE, cut.window, RUN * row_out, dtype=torch.float32, device=x.device)
    out, inner = dweight.shape[:2]
    with device_of(x):
        weight_sums_kernel[cut.blocks, chunks](x, dy, partials, b, h, w, **cut.arguments)
        weight_gradient_kernel[(triton.cdiv(dweight.numel(), FEW),)](
            partials,
            dweight,
            chunks,
            STRIDES=dweight.stride(),
            CHANNELS=(out, inner),
            ROW_IN=row_in,
            ROW_OUT=row_out,
            RUN=RUN,
            AT_ONCE=AT_ONCE,
            FEW=FEW,
        )


def _keep(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, None]:
    return *narrow_conv_backward(dy, *ctx.saved_tensors), None


narrow_conv.register_autograd(_differentiate, setup_context=_keep)
