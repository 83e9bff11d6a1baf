"""Depthwise convolution with bias and, if asked for, GELU: one pass over the map forward, two backward.

Backward's first pass computes the GELU's argument again from the input, so that forward keeps no map but its input, and
writes the gradient before the GELU; the second makes of that all other gradients. Those of weights and biases are sums
of float32 partials in a fixed order: the same result in every run. The 3x3, most of a network's time, has kernels of
its own (`depthwise3`).

The input's own bias b, if there is one, costs nothing: pixels off the map are loaded as -b, and what is left is a
constant of the channel,  sum w (x + b) = sum w x + b sum w,  with x = -b where x + b must be 0.
"""

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels import depthwise3
from famseg.kernels.depthwise3 import loaded, shift_of
from famseg.kernels.gelu import gelu_of, gelu_slope
from famseg.kernels.launch import start
from famseg.kernels.tap_gradients import tap_gradients
from famseg.kernels.tiles import (
    Tile,
    block_of,
    channels_last,
    empty_map,
    fit,
    inside,
    offset_of,
    over,
    put,
    row_of,
    tile_at,
    zeros,
)
from famseg.streams import for_weight

FILTER = Tile(32, 4, 4, 2, 4, warps=4)  # how maps are cut; chosen on a GPU by `benchmarks/blocks.py --sweep`


@triton.jit
def values_of(at, mask, shift, INPUT_BIAS: tl.constexpr):
    """A block of the map as float32, -shift off the map."""
    return loaded(at, mask, shift, INPUT_BIAS).to(tl.float32)


@triton.jit
def taps_of(
    weight, row, C, c, c_mask, GROUPS: tl.constexpr, SIDE: tl.constexpr, FLIP: tl.constexpr, EVEN: tl.constexpr
):
    """A row of the taps, each for all groups."""
    taps = ()
    for j in tl.static_range(SIDE):
        tap = SIDE * SIDE - 1 - (row * SIDE + j) if FLIP else row * SIDE + j
        at = weight + tap * C + (tl.zeros((GROUPS, 1), tl.int32) + c[None, :])
        value = tl.load(at) if EVEN else tl.load(at, mask=c_mask[None, :], other=0.0)
        taps = taps + (value.to(tl.float32),)  # type: ignore[assignment]
    return taps


@triton.jit
def with_line(
    sums, taps, i, at, shift, h, w, H, W, C, c_mask, FIRST: tl.constexpr, LAST: tl.constexpr,
    SIDE: tl.constexpr, INPUT_BIAS: tl.constexpr, PATCH_W: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The sums and what line i of the pixels that they need adds to lines FIRST to LAST of the patches.

    The rows of taps for these lines are in reverse: that for line LAST is the first.
    """
    HALF: tl.constexpr = SIDE // 2
    in_h = inside(h + (i - HALF), H)
    for j in tl.static_range(SIDE + PATCH_W - 1):
        pixels = in_h & inside(w + (j - HALF), W)
        here = at + ((i - HALF) * W + (j - HALF)) * C
        value = values_of(here, over(pixels, c_mask, EVEN), shift, INPUT_BIAS)
        for p in tl.static_range(FIRST, LAST + 1):
            for q in tl.static_range(PATCH_W):
                if (j >= q) & (j - q < SIDE):
                    product = value * taps[(LAST - p) * SIDE + j - q]
                    sums = put(sums, p * PATCH_W + q, sums[p * PATCH_W + q] + product)
    return sums


@triton.jit
def patch_sums(
    at,
    weight,
    shift,
    h,
    w,
    H,
    W,
    C,
    c,
    c_mask,
    SIDE: tl.constexpr,
    FLIP: tl.constexpr,
    INPUT_BIAS: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    EVEN: tl.constexpr,
):
    """The convolution at the PATCH_H x PATCH_W pixels of each group whose first pixel (h, w) lies at `at`.

    PATCH_H is at most SIDE + 1. Most lines of pixels serve all lines of the patch: these are a loop. Written out, the
    7x7 would take Triton five times as long to compile: where loads and stores are many, its time for each of them
    grows with the square of the program. A row of taps waits in registers until the patch's last line has met it.
    """
    sums = zeros(PATCH_H * PATCH_W, h.shape[0], c.shape[0])
    taps = ()
    for i in tl.static_range(PATCH_H - 1):
        taps = taps + taps_of(weight, i, C, c, c_mask, h.shape[0], SIDE, FLIP, EVEN)
        sums = with_line(
            sums, taps, i, at, shift, h, w, H, W, C, c_mask, 0, i, SIDE, INPUT_BIAS, PATCH_W, EVEN
        )  # fmt: skip
    for i in range(PATCH_H - 1, SIDE):
        taps = taps + taps_of(weight, i, C, c, c_mask, h.shape[0], SIDE, FLIP, EVEN)
        sums = with_line(
            sums, taps, i, at, shift, h, w, H, W, C, c_mask, 0, PATCH_H - 1, SIDE, INPUT_BIAS, PATCH_W, EVEN
        )  # fmt: skip
        taps = taps[SIDE:]
    for i in tl.static_range(SIDE, SIDE + PATCH_H - 1):
        sums = with_line(
            sums, taps, i, at, shift, h, w, H, W, C, c_mask, i - SIDE + 1, PATCH_H - 1, SIDE, INPUT_BIAS, PATCH_W, EVEN
        )  # fmt: skip
        taps = taps[SIDE:]  # type: ignore[assignment]
    return sums


@triton.jit(do_not_specialize=["H", "W"])
def depthwise_kernel(
    x,
    weight,
    bias,
    input_bias,
    dy,
    y,
    H,
    W,
    C,
    SIDE: tl.constexpr,
    FLIP: tl.constexpr,
    BIAS: tl.constexpr,
    INPUT_BIAS: tl.constexpr,
    THEN: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Y = the convolution z of x; FLIP takes the taps in reverse, which makes it the gradient of the input.

    THEN "gelu": y = GELU(z); "gelu slope": y = dy GELU'(z), the gradient of z.
    """
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0)
    b, h0, w0 = tile_at(pid // blocks, H, W, GROUPS_H * PATCH_H, GROUPS_W * PATCH_W)
    c = pid % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    group = tl.arange(0, GROUPS_H * GROUPS_W)
    down, right = group // GROUPS_W * PATCH_H, group % GROUPS_W * PATCH_W
    start = offset_of(b, h0, w0, H, W, C)
    within = ((down * W + right) * C)[:, None] + c[None, :]
    h, w = h0 + down, w0 + right
    shift = shift_of(input_bias, C, c, c_mask, x, INPUT_BIAS)
    at = x + start + within
    sums = patch_sums(
        at, weight, shift, h, w, H, W, C, c, c_mask, SIDE, FLIP, INPUT_BIAS, PATCH_H, PATCH_W, EVEN
    )  # fmt: skip
    constant = tl.zeros((1, BLOCK_C), tl.float32)
    if INPUT_BIAS:
        for tap in tl.static_range(SIDE * SIDE):
            constant += shift * row_of(weight, tap, C, c, c_mask)
    if BIAS:
        constant += row_of(bias, 0, C, c, c_mask)
    for p in tl.static_range(PATCH_H):
        for q in tl.static_range(PATCH_W):
            z = sums[p * PATCH_W + q]
            if BIAS or INPUT_BIAS:
                z += constant
            mask = over((h + p < H) & (w + q < W), c_mask, EVEN)
            here = start + within + (p * W + q) * C
            if THEN == "gelu":
                z = gelu_of(z)
            if THEN == "gelu slope":
                z = block_of(dy + here, mask) * gelu_slope(z)
            tl.store(y + here, z.to(y.dtype.element_ty), mask=mask)


@torch.library.custom_op("famseg::depthwise", mutates_args=())
def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, input_bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution of odd side n, zero-padded, plus bias, through the exact GELU if asked for.

    Args:
        x: (B, C, H, W).
        weight: (n * n, C), tap by tap in reading order.
        bias: (C,), or none.
        gelu: whether GELU follows.
        input_bias: (C,), added to x beforehand, but not to the padding; rounded to x's dtype.

    Returns:
        (B, C, H, W), channels last, in x's dtype; sums are float32.
    """
    return _filter_of(weight)(channels_last(x), weight, bias, input_bias, then="gelu" if gelu else "")


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, input_bias: Tensor | None = None) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::depthwise_backward", mutates_args=())
def depthwise_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, input_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `depthwise` for x; for weight; for bias and input_bias, (1 or 2, C): the latter two float32."""
    x, dy = channels_last(x), channels_last(dy)
    if gelu:
        dy = _filter_of(weight)(x, weight, bias, input_bias, dy, then="gelu slope")
    if _side(weight) == 3:
        return depthwise3.gradients(dy, x, weight, input_bias)
    dx = _filter(dy, weight, flip=True)
    if input_bias is None:
        return dx, *for_weight(tap_gradients, dy, x, _side(weight))
    dweight, dbias = tap_gradients(dy, x + input_bias.to(x.dtype).view(-1, 1, 1), side=_side(weight))
    return dx, dweight, torch.cat((dbias, dx.sum((0, 2, 3), dtype=torch.float32)[None]))


@depthwise_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool, input_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    taps, c = weight.shape
    dweight = x.new_empty(c, taps, dtype=torch.float32).t()
    return empty_map(x), dweight, x.new_empty(1 if input_bias is None else 2, c, dtype=torch.float32)


def _filter_of(weight: Tensor) -> Callable[..., Tensor]:
    return depthwise3.filtered if _side(weight) == 3 else _filter


def _filter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    input_bias: Tensor | None = None,
    dy: Tensor | None = None,
    flip: bool = False,
    then: str = "",
) -> Tensor:
    y = empty_map(x)
    _, c, h, w = x.shape
    tile = fit(FILTER, c)
    tiles, blocks = tile.count(x)
    start(
        depthwise_kernel,
        (tiles * blocks,),
        x,
        weight,
        weight if bias is None else bias,
        weight if input_bias is None else input_bias,
        x if dy is None else dy,
        y,
        h,
        w,
        c,
        SIDE=_side(weight),
        FLIP=flip,
        BIAS=bias is not None,
        INPUT_BIAS=input_bias is not None,
        THEN=then,
        **tile.arguments(c),
    )
    return y


def _side(weight: Tensor) -> int:
    return math.isqrt(weight.shape[0])


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, ctx.gelu, input_bias = inputs
    ctx.save_for_backward(x, weight, bias, input_bias)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, Tensor | None]:
    x, weight, bias, input_bias = ctx.saved_tensors
    dx, dweight, biases = depthwise_backward(dy, x, weight, bias, ctx.gelu, input_bias)
    dbias = None if bias is None else biases[0].to(bias.dtype)
    dinput = None if input_bias is None else biases[1].to(input_bias.dtype)
    return dx, dweight.to(weight.dtype), dbias, None, dinput


depthwise.register_autograd(_differentiate, setup_context=_keep)
