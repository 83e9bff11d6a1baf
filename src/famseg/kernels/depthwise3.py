"""The depthwise 3x3 of `famseg.kernels.depthwise`, and its gradients, by walking along the rows of a map.

A thread has two channels of PATCH pixels that lie below each other and walks along them with a window of three columns
in registers: a column of PATCH + 2 pixels is loaded once and serves three steps of PATCH results. A patch that is
loaded anew for its results takes two and a half times the loads and conversions.

Products are added by `tl.fma`: the GPU has no fewer instructions, but Triton's passes, which go through all operations
for every load and store, have one operation instead of two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.gelu import gelu_of, gelu_slope
from famseg.kernels.launch import start
from famseg.kernels.lines import Walk, four_of
from famseg.kernels.partials import merged_taps
from famseg.kernels.rows import in_rows
from famseg.kernels.silu import silu_of, silu_slope
from famseg.kernels.tiles import empty_map, inside, offset_of, over, row_of, run_of, tile_at, zeros
from famseg.streams import for_weight

PATCH = 4  # pixels of a thread, below each other
FORWARD = Walk(lines=16, step=4, programs=660, registers=96, block_c=64)  # 5 programs share a processor
SLOPE = Walk(lines=16, step=4, programs=528, registers=128, block_c=64)  # 4
GRADIENTS = Walk(lines=16, step=2, programs=528, registers=128, block_c=64)


@triton.jit
def shift_of(input_bias, C, c, c_mask, like, INPUT_BIAS: tl.constexpr):
    """The input's bias (1, block_c), rounded as the map's numbers are; zeros without one."""
    if INPUT_BIAS:
        return row_of(input_bias, 0, C, c, c_mask).to(like.dtype.element_ty).to(tl.float32)
    return tl.zeros((1, c.shape[0]), tl.float32)


@triton.jit
def loaded(at, mask, shift, INPUT_BIAS: tl.constexpr):
    """A block of the map as it is there, -shift off the map."""
    if INPUT_BIAS:
        return tl.load(at, mask=mask, other=(-shift).to(at.dtype.element_ty))
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def column_of(
    at, h, along, H, W, down, c_mask, shift, above: tl.constexpr, COUNT: tl.constexpr, INPUT_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """COUNT pixels of a column below each other, from `above` rows over h on; `at` is where those of row h lie."""
    values = ()
    there = inside(along, W)
    for i in tl.static_range(COUNT):
        mask = over(inside(h + (i - above), H) & there, c_mask, EVEN)
        values = values + (loaded(at + (i - above) * down, mask, shift, INPUT_BIAS),)  # type: ignore[assignment]
    return values


@triton.jit
def as_float(values, first: tl.constexpr, count: tl.constexpr):
    """Some of the blocks, in float32."""
    result = ()
    for i in tl.static_range(count):
        result = result + (values[first + i].to(tl.float32),)  # type: ignore[assignment]
    return result


@triton.jit
def added(values, others, i: tl.constexpr, OTHER: tl.constexpr):
    """Block i of the values, or of both, in float32."""
    return values[i].to(tl.float32) + others[i].to(tl.float32) if OTHER else values[i].to(tl.float32)


@triton.jit
def first_window(
    at, h, w0, H, W, right, down, c_mask, shift, HIGH: tl.constexpr, INPUT_BIAS: tl.constexpr, EVEN: tl.constexpr
):
    """Two columns of HIGH pixels from the row above h on: the one before w0, and w0, where `at` lies."""
    window = ()
    for j in tl.static_range(-1, 1):
        values = column_of(at + j * right, h, w0 + j, H, W, down, c_mask, shift, 1, HIGH, INPUT_BIAS, EVEN)
        window = window + as_float(values, 0, HIGH)
    return window


@triton.jit
def taps_of(weight, C, c, c_mask, GROUPS: tl.constexpr, EVEN: tl.constexpr):
    """The nine taps of channels c, each for all groups."""
    taps = ()
    for t in tl.static_range(9):
        at = weight + t * C + (tl.zeros((GROUPS, 1), tl.int32) + c[None, :])
        tap = tl.load(at) if EVEN else tl.load(at, mask=c_mask[None, :], other=0.0)
        taps = taps + (tap.to(tl.float32),)  # type: ignore[assignment]
    return taps


@triton.jit(do_not_specialize=["B", "H", "W", "run"])
def filter_kernel(
    x, weight, bias, input_bias, dy, other, y, B, H, W, C, x_row, run,
    DENSE: tl.constexpr, BIAS: tl.constexpr, INPUT_BIAS: tl.constexpr, OTHER: tl.constexpr, THEN: tl.constexpr,
    PATCH: tl.constexpr, LINES: tl.constexpr, STEP: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Y = the convolution z of x and its bias, whose pixels lie x_row apart, those of a DENSE one C.

    THEN "gelu": y = GELU(z); "gelu slope": (dy [+ other]) GELU'(z), the gradient of z; "silu" and "silu slope": alike.
    """
    GROUPS: tl.constexpr = LINES // PATCH
    HIGH: tl.constexpr = PATCH + 2
    SLOPE: tl.constexpr = THEN == "gelu slope" or THEN == "silu slope"
    right = C if DENSE else x_row
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    down, x_down, row = tl.cast(C, tl.int64) * W, tl.cast(right, tl.int64) * W, tl.arange(0, GROUPS) * PATCH
    within, x_within = (row * W * C)[:, None] + c[None, :], (row * W * right)[:, None] + c[None, :]
    shift = shift_of(input_bias, C, c, c_mask, x, INPUT_BIAS)
    taps = taps_of(weight, C, c, c_mask, GROUPS, EVEN)
    constant = tl.zeros((GROUPS, BLOCK_C), tl.float32)
    if BIAS:
        constant += row_of(bias, 0, C, c, c_mask)
    if INPUT_BIAS:
        for t in tl.static_range(9):
            constant += shift * taps[t]
    begin, end = run_of(tl.program_id(1), tl.num_programs(1), B * tl.cdiv(H, LINES) * tl.cdiv(W, run))
    for index in range(begin, end):
        b, h0, w0 = tile_at(index, H, W, LINES, run)
        start, x_start, h = offset_of(b, h0, w0, H, W, C), offset_of(b, h0, w0, H, W, right), h0 + row
        window = first_window(x + x_start + x_within, h, w0, H, W, right, x_down, c_mask, shift, HIGH, INPUT_BIAS, EVEN)
        for first in range(0, tl.minimum(run, W - w0), STEP):
            at, x_at = (start + first * C) + within, (x_start + first * right) + x_within
            # all loads come first: none may pass a store, which may be to where it reads
            ahead, beside, more = (), (), ()
            for r in tl.static_range(STEP):
                ahead = ahead + column_of(
                    x + x_at + (r + 1) * right, h, w0 + (first + r + 1), H, W, x_down, c_mask, shift, 1, HIGH,
                    INPUT_BIAS, EVEN,
                )  # fmt: skip
                if SLOPE:
                    beside = beside + column_of(
                        dy + at + r * C, h, w0 + (first + r), H, W, down, c_mask, shift, 0, PATCH, False, EVEN
                    )  # fmt: skip
                if OTHER:
                    more = more + column_of(
                        other + at + r * C, h, w0 + (first + r), H, W, down, c_mask, shift, 0, PATCH, False, EVEN
                    )  # fmt: skip
            for r in tl.static_range(STEP):
                window = window + as_float(ahead, r * HIGH, HIGH)
                there = w0 + (first + r) < W
                for p in tl.static_range(PATCH):
                    z = constant
                    for i in tl.static_range(3):
                        for j in tl.static_range(3):
                            z = tl.fma(taps[i * 3 + j], window[j * HIGH + p + i], z)
                    if THEN == "gelu":
                        z = gelu_of(z)
                    if THEN == "silu":
                        z = silu_of(z)
                    if SLOPE:
                        slope = silu_slope(z) if THEN == "silu slope" else gelu_slope(z)
                        z = added(beside, more, r * PATCH + p, OTHER) * slope
                    mask = over((h + p < H) & there, c_mask, EVEN)
                    tl.store(y + at + r * C + p * down, z.to(y.dtype.element_ty), mask=mask)
                window = window[HIGH:]


@triton.jit(do_not_specialize=["B", "H", "W", "run"])
def gradients_kernel(
    g, x, weight, input_bias, dx, partials, B, H, W, C, x_row, run,
    DENSE: tl.constexpr, INPUT_BIAS: tl.constexpr, PATCH: tl.constexpr,
    LINES: tl.constexpr, STEP: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Dx, and partials (chunks, 10 or 11, C): this chunk's sums for weights, bias and the input's bias. X as above.

    A gradient g met beside a pixel q serves both:  dx(q) += w(tap) g,  dw(tap) += x(q) g.
    """
    GROUPS: tl.constexpr = LINES // PATCH
    HIGH: tl.constexpr = PATCH + 2
    ROWS: tl.constexpr = 11 if INPUT_BIAS else 10
    right = C if DENSE else x_row
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    chunk = tl.program_id(1)
    down, x_down, row = tl.cast(C, tl.int64) * W, tl.cast(right, tl.int64) * W, tl.arange(0, GROUPS) * PATCH
    within, x_within = (row * W * C)[:, None] + c[None, :], (row * W * right)[:, None] + c[None, :]
    shift = shift_of(input_bias, C, c, c_mask, x, INPUT_BIAS)
    taps = taps_of(weight, C, c, c_mask, GROUPS, EVEN)
    totals = zeros(ROWS, GROUPS, BLOCK_C)
    begin, end = run_of(chunk, tl.num_programs(1), B * tl.cdiv(H, LINES) * tl.cdiv(W, run))
    for index in range(begin, end):
        b, h0, w0 = tile_at(index, H, W, LINES, run)
        start, x_start, h = offset_of(b, h0, w0, H, W, C), offset_of(b, h0, w0, H, W, right), h0 + row
        window = first_window(g + start + within, h, w0, H, W, C, down, c_mask, shift, HIGH, False, EVEN)
        for first in range(0, tl.minimum(run, W - w0), STEP):
            at, x_at = (start + first * C) + within, (x_start + first * right) + x_within
            ahead, beside = (), ()
            for r in tl.static_range(STEP):
                ahead = ahead + column_of(
                    g + at + (r + 1) * C, h, w0 + (first + r + 1), H, W, down, c_mask, shift, 1, HIGH, False, EVEN
                )  # fmt: skip
                beside = beside + column_of(
                    x + x_at + r * right, h, w0 + (first + r), H, W, x_down, c_mask, shift, 0, PATCH, INPUT_BIAS, EVEN
                )  # fmt: skip
            for r in tl.static_range(STEP):
                window = window + as_float(ahead, r * HIGH, HIGH)
                pixels = as_float(beside, r * PATCH, PATCH)
                there = w0 + (first + r) < W
                for p in tl.static_range(PATCH):
                    pixel = pixels[p] + shift if INPUT_BIAS else pixels[p]
                    value = tl.zeros((GROUPS, BLOCK_C), tl.float32)
                    sums = ()
                    for t in tl.static_range(9):  # tap t has met this pixel where its mirror image lies
                        near = window[(2 - t % 3) * HIGH + p + 2 - t // 3]
                        value = tl.fma(taps[t], near, value)
                        sums = sums + (tl.fma(pixel, near, totals[t]),)  # type: ignore[assignment]
                    sums = sums + (totals[9] + window[HIGH + p + 1],)  # type: ignore[assignment]
                    mask = over((h + p < H) & there, c_mask, EVEN)
                    if INPUT_BIAS:
                        sums = sums + (totals[10] + tl.where(mask, value, 0.0),)  # type: ignore[assignment]
                    totals = sums
                    tl.store(dx + at + r * C + p * down, value.to(dx.dtype.element_ty), mask=mask)
                window = window[HIGH:]
    to = partials + chunk.to(tl.int64) * ROWS * C
    totals = totals + zeros(12 - ROWS, GROUPS, BLOCK_C)  # to a multiple of four
    for first in tl.static_range(0, ROWS, 4):
        t = first + tl.arange(0, 4)
        at = to + t[None, :] * C + c[:, None]
        tl.store(at, tl.sum(four_of(totals, first), 0), mask=c_mask[:, None] & (t < ROWS)[None, :])


def filtered(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_bias: Tensor | None = None,
    dy: Tensor | None = None,
    other: Tensor | None = None,
    then: str = "",
) -> Tensor:
    """The convolution of a map x (B, C, H, W) by taps (9, C), with `then` as in `filter_kernel`.

    Channels of a wider map are read where they are; dy and other are channels last.
    """
    (x, x_row), y = in_rows(x), empty_map(x)
    b, c, h, w = x.shape
    walk = SLOPE if then.endswith("slope") else FORWARD
    run, chunks, blocks = walk.share(x, [False])
    start(
        filter_kernel, (blocks, chunks),
        x, weight, weight if bias is None else bias, weight if input_bias is None else input_bias,
        x if dy is None else dy, x if other is None else other, y, b, h, w, c, x_row, run,
        DENSE=x_row == c, BIAS=bias is not None, INPUT_BIAS=input_bias is not None, OTHER=other is not None, THEN=then,
        PATCH=PATCH, **walk.arguments(c),
    )  # fmt: skip
    return y


def gradients(g: Tensor, x: Tensor, weight: Tensor, input_bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, as of `filtered`, of the taps and of the biases, float32, from the channels-last gradient g of z."""
    (x, x_row), dx = in_rows(x), empty_map(x)
    b, c, h, w = x.shape
    run, chunks, blocks = GRADIENTS.share(x, [False])
    rows = 10 if input_bias is None else 11
    partials = torch.empty(chunks, rows, c, dtype=torch.float32, device=x.device)
    start(
        gradients_kernel, (blocks, chunks),
        g, x, weight, weight if input_bias is None else input_bias, dx, partials, b, h, w, c, x_row, run,
        DENSE=x_row == c, INPUT_BIAS=input_bias is not None, PATCH=PATCH, **GRADIENTS.arguments(c),
    )  # fmt: skip
    return dx, *for_weight(merged_taps, partials, 9)
