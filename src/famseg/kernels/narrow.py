"""3x3 convolution of few channels on a large map, padded by one: a pass over the maps forward, one or two backward.

The matrix units multiply by 64 numbers at a time, and a pixel of 16 channels has 16. In channels-last memory, though,
neighbouring pixels are one row of numbers: a run of two pixels has 2 O of the result, and the window of 4 pixels around
it 4 I of the map, which is all that the run needs of a line. With weights w (O, I, 3, 3) spread over a matrix,

    S_dy[(p, i), (q, o)] = w[o, i, dy, p - q],    0 <= p - q < 3,    zero elsewhere,
    y[run of line h] = sum_dy  x[window of line h + dy - 1] S_dy
    dx = the same of dy, with weights turned by 180 degrees and O and I exchanged
    dS_dy = sum over the runs of  x[window]^T dy[run],    dw[o, i, dy, dx] = sum_q dS_dy[(q + dx, i), (q, o)]

a quarter of S is zeros, and 2/3 as many numbers are loaded as pixel by pixel. A loaded line serves up to three lines of
the result. With stride s it is p - s q, s h + dy - 1 and s q + dx. Where dy has up to 16 channels, its windows serve dx
and, against the runs of x, dS turned as well: one pass for both. Operands have the map's dtype, sums are float32; those
of dS are partials in a fixed order, whose number depends on nothing but the shape.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor, nn

from famseg.kernels.launch import start
from famseg.kernels.narrow_programs import narrow_kernel, products_kernel, weight_gradient_kernel
from famseg.kernels.partials import LAUNCH
from famseg.kernels.tiles import channels_last, empty_map, lends
from famseg.streams import for_weight

RUNS = 64  # of a program: the rows of a product
SIDE = 3  # of the kernel
CHANNELS, MOST = (8, 16, 32), 40  # of maps, and of the result at the most, that the kernels are made for
IMAGE = 4  # channels of an image at the most
LEAST = 2**17  # pixels from which a pass is a matter of bytes and not of launches
ROOM = 2**17  # bytes of shared memory that a program may have; it takes 113 kB at the most
AT_ONCE, FEW = 512, 16  # partial sums and weights that a merging program loads at once


@dataclass(frozen=True)
class Pace:
    """How a kernel goes through its tiles.

    `stages`: with 1, a tile is loaded when the one before it is done, through the L1 cache, where windows overlap;
    with 2 meanwhile, but past that cache.
    `lines`: of a tile.
    `programs`: that share out the tiles of a map, as many as an H100 runs at once; a constant, so that no result
    depends on the machine.
    `registers`: the most that a thread may have. What is said here the compiler uses, to start all loads of a tile
    before it waits for one; else it saves registers, and waits up to ten times.
    """

    stages: int
    lines: int
    programs: int
    registers: int | None = None


# By what a kernel writes: the result, or either gradient alone; of windows of more than one block, any of them.
RESULT = Pace(stages=1, lines=4, programs=396, registers=168)
SUMS = Pace(stages=1, lines=2, programs=396, registers=168)
BOTH = Pace(stages=2, lines=1, programs=396, registers=168)
WIDE = Pace(stages=1, lines=2, programs=264)


@dataclass(frozen=True)
class Cut:
    """How a map of `row_in` channels becomes one of `row_out`, `widest` numbers of a run at most in a program."""

    row_in: int
    row_out: int
    stride: int
    widest: int

    @property
    def run(self) -> int:
        """Pixels of a run; of an image of one channel, four are as good as two."""
        return 4 if self.row_in == 1 else 2

    @property
    def pixels(self) -> int:
        """Of a window."""
        return self.stride * (self.run - 1) + SIDE

    @property
    def window(self) -> int:
        """Numbers of a window."""
        return self.pixels * self.row_in

    @property
    def wide(self) -> bool:
        """Whether a window is more than one block."""
        return self.window > 64

    @property
    def block_k(self) -> int:
        """Numbers of a window that are multiplied at once."""
        all_of_them: int = triton.next_power_of_2(self.window)
        return next((k for k in (64, 32) if self.window % k == 0), max(16, all_of_them))

    @property
    def block_n(self) -> int:
        """Numbers of a run in a program."""
        least: int = triton.next_power_of_2(self.run * self.row_out)
        return min(32 if self.wide else self.widest, max(16, least))

    @property
    def blocks(self) -> int:
        """Of a run's numbers."""
        return int(triton.cdiv(self.run * self.row_out, self.block_n))

    def chunks(self, y: Tensor, pace: Pace) -> int:
        """Runs of tiles of the result (B, row_out, H, W)."""
        b, _, h, w = y.shape
        tiles = b * triton.cdiv(h, pace.lines) * triton.cdiv(w, RUNS * self.run)
        return int(min(tiles, max(1, pace.programs // self.blocks)))

    @property
    def shape(self) -> dict[str, int]:
        """What every kernel takes for it."""
        return {
            "ROW_IN": self.row_in,
            "ROW_OUT": self.row_out,
            "STRIDE": self.stride,
            "RUN": self.run,
            "PIXELS": self.pixels,
        }

    def arguments(self, pace: Pace) -> dict[str, int | None]:
        """What a kernel takes for it that reads maps."""
        return self.shape | {
            "RUNS": RUNS,
            "LINES": pace.lines,
            "BLOCK_K": self.block_k,
            "BLOCK_N": self.block_n,
            "num_warps": 4,
            "num_stages": pace.stages,
            "maxnreg": pace.registers,
        }


def suits(conv: nn.Conv2d, row: int, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for this convolution, but for its bias, of map x, in this dtype, to `row` channels.

    They load and store 16 bytes at once: 8 channels, but of an image, which must have no gradient. Only of that may the
    stride be 2.
    """
    square = conv.kernel_size == (SIDE, SIDE) and conv.padding in (1, (1, 1)) and conv.padding_mode == "zeros"
    dense = square and conv.dilation == (1, 1) and conv.groups == 1
    of_image = conv.in_channels <= IMAGE and conv.stride in ((1, 1), (2, 2)) and not x.requires_grad
    of_map = conv.in_channels in CHANNELS and conv.stride == (1, 1)
    large = x.numel() >= LEAST * conv.in_channels
    fits = dense and (of_image or of_map) and row % 8 == 0 and row <= MOST and large
    return fits and dtype in (torch.bfloat16, torch.float16) and lends(x.device, ROOM)


@torch.library.custom_op("famseg::narrow_conv", mutates_args=())
def narrow_conv(x: Tensor, weight: Tensor, row: int, stride: int = 1) -> Tensor:
    """3x3 convolution, padded by one; see `suits`.

    Args:
        x: (B, I, H, W).
        weight: (O, I, 3, 3); it is rounded to x's dtype.
        row: channels of the result, O or more; the further ones are zero.
        stride: 1 or 2.

    Returns:
        (B, row, ceil(H / stride), ceil(W / stride)), channels last, in x's dtype.
    """
    y = _result(x, row, stride)
    _convolve(channels_last(x), weight, y, stride, turned=False)
    return y


@narrow_conv.register_fake
def _(x: Tensor, weight: Tensor, row: int, stride: int = 1) -> Tensor:
    return _result(x, row, stride)


@torch.library.custom_op("famseg::narrow_conv_of_map", mutates_args=())
def of_map(dy: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `narrow_conv` with stride 1 for x."""
    dx = _result(dy, weight.shape[1], 1)
    _convolve(channels_last(dy), weight, dx, 1, turned=True)
    return dx


@of_map.register_fake
def _(dy: Tensor, weight: Tensor) -> Tensor:
    return _result(dy, weight.shape[1], 1)


@torch.library.custom_op("famseg::narrow_conv_of_weight", mutates_args=())
def of_weight(dy: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient of `narrow_conv` for the weight, laid out as it is; sums are rounded to its dtype alone."""
    return for_weight(_of_weight, channels_last(dy), channels_last(x), weight, stride)


@of_weight.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return torch.empty_like(weight)


@torch.library.custom_op("famseg::narrow_conv_of_both", mutates_args=())
def of_both(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`of_map` and `of_weight` in one pass over dy, with stride 1: the windows of dy are those of both."""
    dy, x = channels_last(dy), channels_last(x)
    dx = _result(dy, x.shape[1], 1)
    cut, partials = _sum_products(dy, x, 1, weight, dx)
    return dx, for_weight(_merged, partials, weight, cut, True)


@of_both.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _result(dy, x.shape[1], 1), torch.empty_like(weight)


def _result(x: Tensor, channels: int, stride: int) -> Tensor:
    return empty_map(x, channels, [(length - 1) // stride + 1 for length in x.shape[2:]])


def _convolve(x: Tensor, weight: Tensor, y: Tensor, stride: int, turned: bool) -> None:
    """Write y, the convolution of x; `turned`: of the result's gradient, for that of the map."""
    b, row_in, h, w = x.shape
    view = weight.transpose(0, 1) if turned else weight
    layout = {"STRIDES": view.stride(), "CHANNELS": tuple(view.shape[:2])}
    cut = Cut(row_in, y.shape[1], stride, widest=64)
    pace = WIDE if cut.wide else RESULT
    start(
        narrow_kernel, (cut.blocks, cut.chunks(y, pace)),
        x, weight, y, b, h, w, TURNED=turned, **layout, **cut.arguments(pace),
    )  # fmt: skip


def _of_weight(dy: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    cut, partials = _sum_products(x, dy, stride, weight)
    return _merged(partials, weight, cut, turned=False)


def _sum_products(
    x: Tensor, other: Tensor, stride: int, weight: Tensor, convolved: Tensor | None = None
) -> tuple[Cut, Tensor]:
    """Partial sums of the weights' gradient, from windows of x and runs of `other`, and how the maps were cut for them.

    With `convolved`, x is the gradient, `other` the map, whose own gradient is written there.
    """
    (b, row_in, h, w), turned = x.shape, convolved is not None
    cut = Cut(row_in, other.shape[1], stride, widest=32)
    pace = WIDE if cut.wide else BOTH if turned else SUMS
    chunks = cut.chunks(other, pace)
    partials = torch.empty(chunks, SIDE, cut.window, cut.run * cut.row_out, dtype=torch.float32, device=x.device)
    view = weight.transpose(0, 1) if turned else weight
    start(
        products_kernel, (cut.blocks, chunks),
        x, other, partials, weight, convolved, b, h, w,
        STRIDES=view.stride(), CHANNELS=tuple(view.shape[:2]), WITH_MAP=turned, **cut.arguments(pace),
    )  # fmt: skip
    return cut, partials


def _merged(partials: Tensor, weight: Tensor, cut: Cut, turned: bool) -> Tensor:
    """The weights' gradient, laid out as they are."""
    dweight = torch.empty_like(weight)
    view = dweight.transpose(0, 1) if turned else dweight
    start(
        weight_gradient_kernel, (triton.cdiv(dweight.numel(), FEW),),
        partials, dweight, len(partials),
        STRIDES=view.stride(), CHANNELS=tuple(view.shape[:2]), TURNED=turned, AT_ONCE=AT_ONCE, FEW=FEW,
        **cut.shape, **LAUNCH,
    )  # fmt: skip
    return dweight


def _keep(ctx, inputs, output) -> None:
    x, weight, _, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, weight = ctx.saved_tensors
    for_map, for_weight, *_ = ctx.needs_input_grad
    if for_map and ctx.stride != 1:
        raise NotImplementedError("with stride 2 there is no gradient for the map")
    if for_map and for_weight and not Cut(dy.shape[1], x.shape[1], 1, widest=32).wide:
        return *of_both(dy, x, weight), None, None
    dx = of_map(dy, weight) if for_map else None
    return dx, of_weight(dy, x, weight, ctx.stride) if for_weight else None, None, None


narrow_conv.register_autograd(_differentiate, setup_context=_keep)
