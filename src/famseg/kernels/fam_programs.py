"""Triton programs of FAM; `famseg.kernels.fam` holds the mathematics and the layouts.

A program works on runs of positions n of the small map. `corner` is where the doubled map has their four phases.
"""

import triton
import triton.language as tl

from famseg.kernels.tiles import run_of


@triton.jit
def load(pointer, mask):
    """In float32, zeros where masked."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def positions(block, N, H, W, BLOCK_N: tl.constexpr):
    """Positions n of a block (int64: they become offsets), their lines b H + h, rows h (-H beyond the end), columns."""
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)  # divided as int32, which is several times faster
    line = n // W
    return n.to(tl.int64), line, tl.where(n < N, line % H, -H), n % W


@triton.jit
def corner(line, column, W):
    """Position of the doubled map at row 2 (b H + h), column 2 w."""
    return line.to(tl.int64) * (4 * W) + 2 * column


@triton.jit
def softmax(
    logits, logit_bias, weights, N, ROW: tl.constexpr, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr
):  # fmt: skip
    """Weights (4 TAPS, N) of logits (N, ROW)."""
    n = (tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    channel = tl.arange(0, 4 * BLOCK_T)[None, :]
    counts = channel < 4 * TAPS
    x = tl.load(logits + n * ROW + channel, mask=(n < N) & counts, other=0.0).to(tl.float32)
    x += load(logit_bias + channel % 4 * TAPS + channel // 4, counts)
    x = tl.reshape(tl.where(counts, x, -float("inf")), (BLOCK_N, BLOCK_T, 4))
    e = tl.exp(x - tl.max(x, 1)[:, None, :])
    w = tl.reshape(e / tl.sum(e, 1)[:, None, :], (BLOCK_N, 4 * BLOCK_T))
    tl.store(weights + channel * tl.cast(N, tl.int64) + n, w.to(weights.dtype.element_ty), mask=(n < N) & counts)


@triton.jit
def forward(
    features, weights, bias, out, N, H, W, C: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The doubled map, of a run of positions and a block of channels."""
    n, line, row, column = positions(tl.program_id(0), N, H, W, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    some = (c < C)[None, :]
    y00 = tl.zeros((BLOCK_N, BLOCK_C), tl.float32) + load(bias + c, c < C)[None, :]
    y01, y10, y11 = y00, y00, y00
    here, own = features + n[:, None] * C + c[None, :], weights + n
    for i in range(K):
        dy = i - K // 2
        within = (row >= 0) & (row + dy >= 0) & (row + dy < H)
        for j in tl.static_range(K):
            dx = j - K // 2
            inside = within & (column + dx >= 0) & (column + dx < W)
            f = load(here + (dy * W + dx) * C, inside[:, None] & some)
            w = own + (i * K + j) * 4 * tl.cast(N, tl.int64)
            y00 += load(w, inside)[:, None] * f
            y01 += load(w + N, inside)[:, None] * f
            y10 += load(w + 2 * N, inside)[:, None] * f
            y11 += load(w + 3 * N, inside)[:, None] * f
    mask = (n < N)[:, None] & some
    first = out + corner(line, column, W)[:, None] * C + c[None, :]
    below = first + 2 * W * C
    tl.store(first, y00.to(out.dtype.element_ty), mask=mask)
    tl.store(first + C, y01.to(out.dtype.element_ty), mask=mask)
    tl.store(below, y10.to(out.dtype.element_ty), mask=mask)
    tl.store(below + C, y11.to(out.dtype.element_ty), mask=mask)


@triton.jit
def interleave(a, b, COUNT: tl.constexpr):
    """(BLOCK_N, 2 COUNT) of every other tap, twice -> (BLOCK_N, 4 COUNT). No number moves: a thread has whole rows."""
    even, odd = (tl.reshape(a, (a.shape[0], COUNT // 2, 4)), tl.reshape(b, (a.shape[0], COUNT // 2, 4)))
    return tl.reshape(tl.permute(tl.join(even, odd), (0, 1, 3, 2)), (a.shape[0], 4 * COUNT))


@triton.jit
def tap_gradients(
    g00, g01, g10, g11, here, row, column, some, H, W, C: tl.constexpr,
    FIRST: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """dL/dw of every STEP-th tap from FIRST on, COUNT of them, zeros for those beyond the last: (BLOCK_N, 4 COUNT)."""
    if FIRST >= K * K:
        return tl.zeros((g00.shape[0], 4 * COUNT), tl.float32)
    elif COUNT == 1:
        dy: tl.constexpr = FIRST // K - K // 2
        dx: tl.constexpr = FIRST % K - K // 2
        inside = (row >= 0) & (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        f = load(here + (dy * W + dx) * C, inside[:, None] & some)
        upper = tl.join(tl.sum(g00 * f, 1), tl.sum(g10 * f, 1))
        return tl.reshape(tl.join(upper, tl.join(tl.sum(g01 * f, 1), tl.sum(g11 * f, 1))), (g00.shape[0], 4))
    else:
        even = tap_gradients(
            g00, g01, g10, g11, here, row, column, some, H, W, C, FIRST, 2 * STEP, COUNT // 2, K
        )  # fmt: skip
        odd = tap_gradients(
            g00, g01, g10, g11, here, row, column, some, H, W, C, FIRST + STEP, 2 * STEP, COUNT // 2, K
        )  # fmt: skip
        return interleave(even, odd, COUNT)


@triton.jit
def backward_logits(
    grad, features, weights, grad_logits, partials, N, H, W,
    C: tl.constexpr, ROW: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits, zeros in their padding; programs share the runs of positions in order.

    Partials (programs, 4 K K + C): this program's part of the gradients of both biases.
    """
    c, channel = tl.arange(0, BLOCK_C), tl.arange(0, 4 * BLOCK_T)
    some = (c < C)[None, :]
    of_bias = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    of_logits = tl.zeros((BLOCK_N, 4 * BLOCK_T), tl.float32)
    begin, end = run_of(tl.program_id(0), tl.num_programs(0), tl.cdiv(N, BLOCK_N))
    for block in range(begin, end):
        n, line, row, column = positions(block, N, H, W, BLOCK_N)
        exists = (n < N)[:, None]
        first = grad + corner(line, column, W)[:, None] * C + c[None, :]
        below = first + 2 * W * C
        g00, g01 = load(first, exists & some), load(first + C, exists & some)
        g10, g11 = load(below, exists & some), load(below + C, exists & some)
        of_bias += (g00 + g01) + (g10 + g11)
        here = features + n[:, None] * C + c[None, :]
        d = tap_gradients(g00, g01, g10, g11, here, row, column, some, H, W, C, 0, 1, BLOCK_T, K)
        d = tl.reshape(d, (BLOCK_N, BLOCK_T, 4))  # from here on in another layout, that of the weights
        at = weights + channel[None, :] * tl.cast(N, tl.int64) + n[:, None]
        w = load(at, exists & (channel < 4 * K * K)[None, :])
        w = tl.reshape(w, (BLOCK_N, BLOCK_T, 4))
        mean = tl.sum(w * d, 1) / tl.maximum(tl.sum(w, 1), 1e-6)  # rounded weights do not sum to 1
        g = tl.reshape(w * (d - mean[:, None, :]), (BLOCK_N, 4 * BLOCK_T))
        of_logits += g
        to = grad_logits + n[:, None] * ROW + channel[None, :]
        tl.store(to, g.to(grad_logits.dtype.element_ty), mask=exists & (channel < ROW)[None, :])
    part = partials + tl.program_id(0) * (4 * K * K + C)
    tl.store(part + channel % 4 * (K * K) + channel // 4, tl.sum(of_logits, 0), mask=channel < 4 * K * K)
    tl.store(part + 4 * K * K + c, tl.sum(of_bias, 0), mask=c < C)


@triton.jit
def backward_features(
    grad, weights, grad_features, N, H, W, C: tl.constexpr, K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of the features, of a run of positions and a block of channels."""
    n, line, row, column = positions(tl.program_id(0), N, H, W, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    some = (c < C)[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    corners = grad + corner(line, column, W)[:, None] * C + c[None, :]
    below, own = 2 * W * C, weights + n
    for i in range(K):
        dy = i - K // 2
        within = (row >= 0) & (row - dy >= 0) & (row - dy < H)
        for j in tl.static_range(K):
            dx = j - K // 2
            inside = within & (column - dx >= 0) & (column - dx < W)
            mask = inside[:, None] & some
            w = own + ((i * K + j) * 4 * tl.cast(N, tl.int64) - dy * W - dx)  # of the position whose tap is n
            first = corners - (4 * W * dy + 2 * dx) * C
            total += load(w, inside)[:, None] * load(first, mask)
            total += load(w + N, inside)[:, None] * load(first + C, mask)
            total += load(w + 2 * N, inside)[:, None] * load(first + below, mask)
            total += load(w + 3 * N, inside)[:, None] * load(first + below + C, mask)
    at = n[:, None] * C + c[None, :]
    tl.store(grad_features + at, total.to(grad_features.dtype.element_ty), mask=(n < N)[:, None] & some)
