"""The programs of `famseg.kernels.narrow`, which explains them."""

import triton
import triton.language as tl

from famseg.kernels.dots import operand
from famseg.kernels.tiles import block_of, inside, offset_of, over, put, run_of, tile_at, zeros


@triton.jit
def window_of(
    x, b, h, w, H, W, k,
    ROW: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Numbers k of line h's windows of PIXELS pixels, STEP apart, from column w on: [RUNS, BLOCK], zero off the map."""
    pixel = tl.arange(0, RUNS) * STEP
    there = inside((w + pixel)[:, None] + (k // ROW)[None, :], W) & inside(h, H)
    if PIXELS * ROW % BLOCK != 0:
        there = there & (k < PIXELS * ROW)[None, :]
    at = x + offset_of(b, h, w, H, W, ROW) + (pixel * ROW)[:, None] + k[None, :]
    return operand(tl.load(at, mask=there, other=0.0), x)


@triton.jit
def run_at(b, h, w, H, W, n, ROW: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr):
    """Where numbers n of these runs are, and whether they are on the map: two of [RUNS, BLOCK]."""
    pixel = tl.arange(0, RUNS) * RUN
    there = ((w + pixel)[:, None] + (n // ROW)[None, :] < W) & (h < H)
    if RUN * ROW % BLOCK != 0:
        there = there & (n < RUN * ROW)[None, :]
    return offset_of(b, h, w, H, W, ROW) + (pixel * ROW)[:, None] + n[None, :], there


@triton.jit
def spread(
    weight, like, dy, k, n, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The block of S_dy, [BLOCK_K, BLOCK_N], of weights of these strides and numbers of channels (O, I)."""
    o, i = n % ROW_OUT, k % ROW_IN
    dx = (k // ROW_IN)[:, None] - STRIDE * (n // ROW_OUT)[None, :]
    there = inside(dx, 3) & over((k < PIXELS * ROW_IN) & (i < CHANNELS[1]), n < RUN * ROW_OUT, False)
    if TURNED:
        dy, dx = 2 - dy, 2 - dx
    at = weight + (i * STRIDES[1])[:, None] + (o * STRIDES[0])[None, :] + dy * STRIDES[2] + dx * STRIDES[3]
    return operand(tl.load(at, mask=there & (o < CHANNELS[0])[None, :], other=0.0), like)


@triton.jit
def matrices_of(
    weight, like, n, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr, PIXELS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The blocks of columns n of S, from the first line's down."""
    COUNT: tl.constexpr = (PIXELS * ROW_IN + BLOCK_K - 1) // BLOCK_K
    matrices = ()
    for block in tl.static_range(3 * COUNT):
        k = block % COUNT * BLOCK_K + tl.arange(0, BLOCK_K)
        matrix = spread(
            weight, like, block // COUNT, k, n, STRIDES, CHANNELS, TURNED, ROW_IN, ROW_OUT, STRIDE, RUN, PIXELS
        )
        matrices = matrices + (matrix,)  # type: ignore[assignment]
    return matrices


@triton.jit
def windows_of(
    x, b, h, w, H, W, ROW: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr, RUNS: tl.constexpr,
    LINES: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The blocks of windows of LINES lines from pixel (h, w) on, line by line: all are loaded before any is used."""
    COUNT: tl.constexpr = (PIXELS * ROW + BLOCK_K - 1) // BLOCK_K
    windows = ()
    for block in tl.static_range(LINES * COUNT):
        k = block % COUNT * BLOCK_K + tl.arange(0, BLOCK_K)
        window = window_of(x, b, h + block // COUNT, w, H, W, k, ROW, STEP, PIXELS, RUNS, BLOCK_K)
        windows = windows + (window,)  # type: ignore[assignment]
    return windows


@triton.jit
def convolve(
    windows, matrices, y, b, h, w, H, W, n, ROW: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr,
    COUNT: tl.constexpr, RUNS: tl.constexpr, LINES: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write numbers n of a tile's runs."""
    for r in tl.static_range(LINES):
        value = tl.zeros((RUNS, BLOCK_N), tl.float32)
        for block in tl.static_range(3 * COUNT):
            value = tl.dot(windows[STRIDE * r * COUNT + block], matrices[block], value, input_precision="ieee")
        at, there = run_at(b, h + r, w, H, W, n, ROW, RUN, RUNS, BLOCK_N)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["B", "H", "W"])
def narrow_kernel(
    x, weight, y, B, H, W, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr, PIXELS: tl.constexpr,
    RUNS: tl.constexpr, LINES: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Y (B, H, W, ROW_OUT) of x (B, H, W, ROW_IN); there may be more channels than weights: their weights are 0."""
    COUNT: tl.constexpr = (PIXELS * ROW_IN + BLOCK_K - 1) // BLOCK_K
    REACH: tl.constexpr = STRIDE * (LINES - 1) + 3
    TO_H, TO_W = (H - 1) // STRIDE + 1, (W - 1) // STRIDE + 1
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    matrices = matrices_of(weight, x, n, STRIDES, CHANNELS, TURNED, ROW_IN, ROW_OUT, STRIDE, RUN, PIXELS, BLOCK_K)
    tiles = B * tl.cdiv(TO_H, LINES) * tl.cdiv(TO_W, RUNS * RUN)
    begin, end = run_of(tl.program_id(1), tl.num_programs(1), tiles)
    for tile in range(begin, end):
        b, h, w = tile_at(tile, TO_H, TO_W, LINES, RUNS * RUN)
        windows = windows_of(
            x, b, STRIDE * h - 1, STRIDE * w - 1, H, W, ROW_IN, STRIDE * RUN, PIXELS, RUNS, REACH, BLOCK_K
        )
        convolve(windows, matrices, y, b, h, w, TO_H, TO_W, n, ROW_OUT, STRIDE, RUN, COUNT, RUNS, LINES, BLOCK_N)


@triton.jit(do_not_specialize=["B", "H", "W"])
def products_kernel(
    x, other, partials, weight, y, B, H, W, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, WITH_MAP: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr, PIXELS: tl.constexpr,
    RUNS: tl.constexpr, LINES: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Partials (chunks, 3, PIXELS ROW_IN, RUN ROW_OUT): this chunk's sums of x[window]^T other[run].

    WITH_MAP: also y like `other`, the convolution of x by the turned weights.
    """
    COUNT: tl.constexpr = (PIXELS * ROW_IN + BLOCK_K - 1) // BLOCK_K
    REACH: tl.constexpr = STRIDE * (LINES - 1) + 3
    TO_H, TO_W = (H - 1) // STRIDE + 1, (W - 1) // STRIDE + 1
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    chunk = tl.program_id(1)
    sums = zeros(3 * COUNT, BLOCK_K, BLOCK_N)
    if WITH_MAP:
        matrices = matrices_of(weight, x, n, STRIDES, CHANNELS, True, ROW_IN, ROW_OUT, STRIDE, RUN, PIXELS, BLOCK_K)
    tiles = B * tl.cdiv(TO_H, LINES) * tl.cdiv(TO_W, RUNS * RUN)
    begin, end = run_of(chunk, tl.num_programs(1), tiles)
    for tile in range(begin, end):
        b, h, w = tile_at(tile, TO_H, TO_W, LINES, RUNS * RUN)
        runs = ()
        for r in tl.static_range(LINES):
            at, there = run_at(b, h + r, w, TO_H, TO_W, n, ROW_OUT, RUN, RUNS, BLOCK_N)
            runs = runs + (operand(tl.load(other + at, mask=there, other=0.0), x),)  # type: ignore[assignment]
        windows = windows_of(
            x, b, STRIDE * h - 1, STRIDE * w - 1, H, W, ROW_IN, STRIDE * RUN, PIXELS, RUNS, REACH, BLOCK_K
        )
        if WITH_MAP:
            convolve(windows, matrices, y, b, h, w, TO_H, TO_W, n, ROW_OUT, STRIDE, RUN, COUNT, RUNS, LINES, BLOCK_N)
        for block in tl.static_range(3 * COUNT):
            for r in tl.static_range(LINES):
                window = tl.trans(windows[STRIDE * r * COUNT + block])
                sums = put(sums, block, tl.dot(window, runs[r], sums[block], input_precision="ieee"))
    for block in tl.static_range(3 * COUNT):
        k = block % COUNT * BLOCK_K + tl.arange(0, BLOCK_K)
        row = (chunk * 3 + block // COUNT) * (PIXELS * ROW_IN) + k
        mask = over(k < PIXELS * ROW_IN, n < RUN * ROW_OUT, False)
        tl.store(partials + row[:, None] * (RUN * ROW_OUT) + n[None, :], sums[block], mask=mask)


@triton.jit(do_not_specialize=["chunks"])
def weight_gradient_kernel(
    partials, dweight, chunks, STRIDES: tl.constexpr, CHANNELS: tl.constexpr, TURNED: tl.constexpr,
    ROW_IN: tl.constexpr, ROW_OUT: tl.constexpr, STRIDE: tl.constexpr, RUN: tl.constexpr, PIXELS: tl.constexpr,
    AT_ONCE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """FEW of the weights' gradients, from all partials."""
    e = tl.program_id(0) * FEW + tl.arange(0, FEW)
    o, i, tap = e % CHANNELS[0], e // CHANNELS[0] % CHANNELS[1], e // (CHANNELS[0] * CHANNELS[1])
    total = tl.zeros((AT_ONCE, FEW), tl.float32)
    for first in range(0, chunks, AT_ONCE):
        chunk = first + tl.arange(0, AT_ONCE)
        matrix = (chunk * 3)[:, None] + (tap // 3)[None, :]
        for q in tl.static_range(RUN):
            at = (matrix * PIXELS + (tap % 3 + STRIDE * q)[None, :]) * ROW_IN + i[None, :]
            at = at * (RUN * ROW_OUT) + (q * ROW_OUT + o)[None, :]
            total += block_of(partials + at, over(chunk < chunks, tap < 9, False))
    place = 8 - tap if TURNED else tap
    to = dweight + o * STRIDES[0] + i * STRIDES[1] + place // 3 * STRIDES[2] + place % 3 * STRIDES[3]
    tl.store(to, tl.sum(total, 0).to(dweight.dtype.element_ty), mask=tap < 9)
