"""Depthwise convolution with bias and, if asked for, GELU: one pass over the map forward, two backward.

Backward computes the GELU's argument again from the input, so that forward keeps no map but its input. The gradients of
weights and bias are sums of float32 partials in a fixed order: the same result in every run.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.tap_gradients import PROGRAMS, tap_gradients
from famseg.kernels.tiles import (
    Tile,
    block_of,
    channels_last,
    device_of,
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

# How maps are cut; chosen on a GPU by `benchmarks/blocks.py --sweep`.
FILTERS = {3: Tile(32, 4, 8, 2, 2, warps=4), 5: Tile(32, 4, 4, 1, 4, warps=4)}  # by side; others as 5
GELU_BACKWARD = Tile(32, 4, 4, 2, 2, warps=4)


@triton.jit
def patch_sums(
    at,
    weight,
    h,
    w,
    H,
    W,
    C,
    c,
    c_mask,
    SIDE: tl.constexpr,
    FLIP: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    EVEN: tl.constexpr,
):
    """The convolution at the PATCH_H x PATCH_W pixels of each group whose first pixel (h, w) lies at `at`."""
    HALF: tl.constexpr = SIDE // 2
    sums = zeros(PATCH_H * PATCH_W, h.shape[0], c.shape[0])
    for i in tl.static_range(SIDE + PATCH_H - 1):
        in_h = inside(h + (i - HALF), H)
        for j in tl.static_range(SIDE + PATCH_W - 1):
            pixels = in_h & inside(w + (j - HALF), W)
            value = block_of(at + ((i - HALF) * W + (j - HALF)) * C, over(pixels, c_mask, EVEN))
            for p in tl.static_range(PATCH_H):
                for q in tl.static_range(PATCH_W):
                    if (i >= p) & (i - p < SIDE) & (j >= q) & (j - q < SIDE):
                        tap = (i - p) * SIDE + j - q
                        product = value * row_of(weight, SIDE * SIDE - 1 - tap if FLIP else tap, C, c, c_mask)
                        sums = put(sums, p * PATCH_W + q, sums[p * PATCH_W + q] + product)
    return sums


@triton.jit
def normal(z):
    """The standard normal's upper tail beyond |z|, and its density at z.

    One exponential serves both: erfc by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7. A squared rsqrt and
    exp2 are single instructions where a division and exp are several.
    """
    root = tl.rsqrt(1.0 + 0.2316418882 * tl.abs(z))
    t = root * root
    e = tl.exp2(z * (z * -0.7213475204444817))  # exp(-z^2 / 2)
    tail = (((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796
    return tail * t * e, 0.3989422804014327 * e


@triton.jit(do_not_specialize=["H", "W"])
def depthwise_kernel(
    x,
    weight,
    bias,
    y,
    H,
    W,
    C,
    SIDE: tl.constexpr,
    FLIP: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Y = the convolution of x; FLIP takes the taps in reverse, which makes it the gradient of the input."""
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
    sums = patch_sums(x + start + within, weight, h, w, H, W, C, c, c_mask, SIDE, FLIP, PATCH_H, PATCH_W, EVEN)
    for p in tl.static_range(PATCH_H):
        for q in tl.static_range(PATCH_W):
            z = sums[p * PATCH_W + q]
            if BIAS:
                z += row_of(bias, 0, C, c, c_mask)
            if GELU:
                tail, _ = normal(z)
                z = tl.maximum(z, 0.0) - tl.abs(z) * tail
            mask = over((h + p < H) & (w + q < W), c_mask, EVEN)
            tl.store(y + start + within + (p * W + q) * C, z.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "H", "W"])
def gelu_backward_kernel(
    x,
    dy,
    weight,
    bias,
    g,
    partials,
    B,
    H,
    W,
    C,
    SIDE: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
):
    """G = gradient before the GELU; partials (chunks, SIDE^2 + 1, C) = this chunk's sums for weights and bias."""
    TILE_H: tl.constexpr = GROUPS_H * PATCH_H
    TILE_W: tl.constexpr = GROUPS_W * PATCH_W
    TAPS: tl.constexpr = SIDE * SIDE
    HALF: tl.constexpr = SIDE // 2
    blocks = tl.cdiv(C, BLOCK_C)
    chunk = tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    group = tl.arange(0, GROUPS_H * GROUPS_W)
    down, right = group // GROUPS_W * PATCH_H, group % GROUPS_W * PATCH_W
    within = ((down * W + right) * C)[:, None] + c[None, :]
    tiles = B * tl.cdiv(H, TILE_H) * tl.cdiv(W, TILE_W)
    steps = tl.cdiv(tiles, tl.num_programs(0) // blocks)
    totals = zeros(TAPS + 1, GROUPS_H * GROUPS_W, BLOCK_C)
    for index in range(chunk * steps, min((chunk + 1) * steps, tiles)):
        b, h0, w0 = tile_at(index, H, W, TILE_H, TILE_W)
        start = offset_of(b, h0, w0, H, W, C)
        h, w = h0 + down, w0 + right
        at = x + start + within
        sums = patch_sums(at, weight, h, w, H, W, C, c, c_mask, SIDE, False, PATCH_H, PATCH_W, EVEN)
        for p in tl.static_range(PATCH_H):
            for q in tl.static_range(PATCH_W):
                z = sums[p * PATCH_W + q] + row_of(bias, 0, C, c, c_mask)
                tail, density = normal(z)
                slope = tl.where(z < 0, tail, 1.0 - tail) + z * density
                mask = over((h + p < H) & (w + q < W), c_mask, EVEN)
                here = start + within + (p * W + q) * C
                value = block_of(dy + here, mask) * slope
                tl.store(g + here, value.to(g.dtype.element_ty), mask=mask)
                totals = put(totals, TAPS, totals[TAPS] + value)
                sums = put(sums, p * PATCH_W + q, value)
        for i in tl.static_range(SIDE + PATCH_H - 1):
            in_h = inside(h + (i - HALF), H)
            for j in tl.static_range(SIDE + PATCH_W - 1):
                pixels = in_h & inside(w + (j - HALF), W)
                value = block_of(at + ((i - HALF) * W + (j - HALF)) * C, over(pixels, c_mask, EVEN))
                for p in tl.static_range(PATCH_H):
                    for q in tl.static_range(PATCH_W):
                        if (i >= p) & (i - p < SIDE) & (j >= q) & (j - q < SIDE):
                            product = value * sums[p * PATCH_W + q]
                            total = totals[(i - p) * SIDE + j - q] + product
                            totals = put(totals, (i - p) * SIDE + j - q, total)
    for tap in tl.static_range(TAPS + 1):
        total = tl.sum(totals[tap], 0)
        tl.store(partials + (chunk.to(tl.int64) * (TAPS + 1) + tap) * C + c, total, mask=c_mask)


@torch.library.custom_op("famseg::depthwise", mutates_args=())
def depthwise(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """Depthwise convolution of odd side n, zero-padded, plus bias, through the exact GELU if asked for.

    Args:
        x: (B, C, H, W).
        weight: (n * n, C), tap by tap in reading order.
        bias: (C,).
        gelu: whether GELU follows.

    Returns:
        (B, C, H, W), channels last, in x's dtype; sums are float32.
    """
    return _filter(x, weight, bias, flip=False, gelu=gelu)


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::depthwise_backward", mutates_args=())
def depthwise_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of `depthwise` for x, and for weight and bias as one (n * n + 1, C), float32."""
    x, dy = channels_last(x), channels_last(dy)
    if gelu:
        dy, sums = _gelu_backward(dy, x, weight, bias)
    else:
        sums = tap_gradients(dy, x, side=_side(weight))
    return _filter(dy, weight, None, flip=True, gelu=False), sums


@depthwise_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    return empty_map(x), x.new_empty(weight.shape[0] + 1, weight.shape[1], dtype=torch.float32)


def _filter(x: Tensor, weight: Tensor, bias: Tensor | None, flip: bool, gelu: bool) -> Tensor:
    x = channels_last(x)
    y = empty_map(x)
    _, c, h, w = x.shape
    tile = fit(FILTERS.get(_side(weight), FILTERS[5]), c)
    tiles, blocks = tile.count(x)
    with device_of(x):
        depthwise_kernel[(tiles * blocks,)](
            x,
            weight,
            weight if bias is None else bias,
            y,
            h,
            w,
            c,
            SIDE=_side(weight),
            FLIP=flip,
            BIAS=bias is not None,
            GELU=gelu,
            **tile.arguments(c),
        )
    return y


def _gelu_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient before the GELU, and the float32 gradients of the taps and of the bias, (n * n + 1, C)."""
    g = empty_map(x)
    b, c, h, w = x.shape
    tile = fit(GELU_BACKWARD, c)
    tiles, blocks = tile.count(x)
    chunks = min(tiles, triton.cdiv(PROGRAMS, blocks))
    partials = torch.empty(chunks, weight.shape[0] + 1, c, dtype=torch.float32, device=x.device)
    with device_of(x):
        gelu_backward_kernel[(chunks * blocks,)](
            x, dy, weight, bias, g, partials, b, h, w, c, SIDE=_side(weight), **tile.arguments(c)
        )
    return g, partials.sum(0)


def _side(weight: Tensor) -> int:
    return math.isqrt(weight.shape[0])


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.gelu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, weight, bias = ctx.saved_tensors
    dx, sums = depthwise_backward(dy, x, weight, bias, ctx.gelu)
    return dx, sums[:-1].to(weight.dtype), sums[-1].to(bias.dtype), None


depthwise.register_autograd(_differentiate, setup_context=_keep)
