"""FAM's softmax and weighted reassembly in Triton; the plain twin is `famseg.layers.fam.reassemble`.

Maps are channels last: a program works on a run of positions n of the small map, all of them counted through,
n = (b H + h) W + w. The softmax turns the logits, (N, ROW) in memory with ROW >= 4 K K, into weights that lie tap by
tap, (4 K K, N): all further reads are contiguous then. Logits' channels beyond 4 K K are padding. Backward needs no
more than the weights and the features:

    dL/dw[t] = sum_c g[c] (f[n + t, c] - f[n, c])      up to a summand shared by the taps, which the softmax cancels;
                                                       without it, half precision would lose what differs between taps
    dL/dl[t] = w[t] (dL/dw[t] - sum_s w[s] dL/dw[s])
    dL/df[n] = sum_t w[t, n - t] g[n - t]              a gather: nothing is added in an order that could change
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.partials import merged
from famseg.layers.fam import MAX_CHANNELS, PHASES

POSITIONS = 64  # of a program of the softmax


@triton.jit
def _softmax(logits, logit_bias, weights, N, ROW, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr):
    n = (tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    t = tl.arange(0, BLOCK_T)[None, :]
    mask = (n < N) & (t < TAPS)
    for phase in tl.static_range(4):
        x = tl.load(logits + n * ROW + phase * TAPS + t, mask=mask, other=-float("inf")).to(tl.float32)
        x += tl.load(logit_bias + phase * TAPS + t, mask=t < TAPS, other=0.0).to(tl.float32)
        x = tl.where(n < N, x, 0.0)  # no inf - inf beyond the last position
        e = tl.exp(x - tl.max(x, 1)[:, None])
        w = e / tl.sum(e, 1)[:, None]
        tl.store(weights + (phase * TAPS + t) * N + n, w.to(weights.dtype.element_ty), mask=mask)


@triton.jit
def _softmax_backward(
    weights, grad_weights, grad, partials, N, ROW, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr
):
    """Partials (programs, 4 TAPS): this program's sums of the gradient, which are the bias's."""
    n = (tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    t = tl.arange(0, BLOCK_T)[None, :]
    mask = (n < N) & (t < TAPS)
    for phase in tl.static_range(4):
        at = (phase * TAPS + t) * N + n
        w = tl.load(weights + at, mask=mask, other=0.0).to(tl.float32)
        d = tl.load(grad_weights + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(w * d, 1) / tl.maximum(tl.sum(w, 1), 1e-6)  # rounded weights do not sum to 1
        g = w * (d - mean[:, None])
        tl.store(grad + n * ROW + phase * TAPS + t, g.to(grad.dtype.element_ty), mask=mask)
        to = partials + (tl.program_id(0) * 4 + phase) * TAPS + tl.arange(0, BLOCK_T)
        tl.store(to, tl.sum(g, 0), mask=tl.arange(0, BLOCK_T) < TAPS)
    for padding in range(4 * TAPS, ROW, BLOCK_T):
        channel = padding + t
        zero = tl.zeros((BLOCK_N, BLOCK_T), grad.dtype.element_ty)
        tl.store(grad + n * ROW + channel, zero, mask=(n < N) & (channel < ROW))


@triton.jit
def _position(program, W, BLOCK_N: tl.constexpr):
    """Positions n of a program (int64: they become offsets), their lines b H + h and columns w."""
    n = program * BLOCK_N + tl.arange(0, BLOCK_N)  # divided as int32, which is several times faster
    return n.to(tl.int64), n // W, n % W


@triton.jit
def _corner(line, column, W):
    """Position of the doubled map at row 2 (b H + h), column 2 w."""
    return line.to(tl.int64) * (4 * W) + 2 * column


@triton.jit
def _forward(features, weights, bias, out, N, H, W, C, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    n, line, column = _position(tl.program_id(0), W, BLOCK_N)
    row = line % H
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    y00 = tl.zeros((BLOCK_N, BLOCK_C), tl.float32) + b[None, :]
    y01, y10, y11 = y00, y00, y00
    for t in range(K * K):
        dy, dx = t // K - K // 2, t % K - K // 2
        inside = (n < N) & (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        at = (n + dy * W + dx)[:, None] * C + c[None, :]
        f = tl.load(features + at, mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        w = weights + t * N + n
        y00 += tl.load(w, mask=inside, other=0.0).to(tl.float32)[:, None] * f
        y01 += tl.load(w + K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None] * f
        y10 += tl.load(w + 2 * K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None] * f
        y11 += tl.load(w + 3 * K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None] * f
    mask = (n < N)[:, None] & (c < C)[None, :]
    first = out + _corner(line, column, W)[:, None] * C + c[None, :]
    below = first + 2 * W * C
    tl.store(first, y00.to(out.dtype.element_ty), mask=mask)
    tl.store(first + C, y01.to(out.dtype.element_ty), mask=mask)
    tl.store(below, y10.to(out.dtype.element_ty), mask=mask)
    tl.store(below + C, y11.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward_weights(
    grad, features, grad_weights, N, H, W, C, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    n, line, column = _position(tl.program_id(0), W, BLOCK_N)
    row = line % H
    c = tl.arange(0, BLOCK_C)
    mask = (n < N)[:, None] & (c < C)[None, :]
    first = grad + _corner(line, column, W)[:, None] * C + c[None, :]
    below = first + 2 * W * C
    g00 = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    g01 = tl.load(first + C, mask=mask, other=0.0).to(tl.float32)
    g10 = tl.load(below, mask=mask, other=0.0).to(tl.float32)
    g11 = tl.load(below + C, mask=mask, other=0.0).to(tl.float32)
    centre = tl.load(features + n[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    for t in range(K * K):
        dy, dx = t // K - K // 2, t % K - K // 2
        inside = (n < N) & (row + dy >= 0) & (row + dy < H) & (column + dx >= 0) & (column + dx < W)
        at = (n + dy * W + dx)[:, None] * C + c[None, :]
        f = tl.load(features + at, mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32) - centre
        d = grad_weights + t * N + n
        kind = grad_weights.dtype.element_ty
        tl.store(d, tl.sum(g00 * f, 1).to(kind), mask=n < N)
        tl.store(d + K * K * N, tl.sum(g01 * f, 1).to(kind), mask=n < N)
        tl.store(d + 2 * K * K * N, tl.sum(g10 * f, 1).to(kind), mask=n < N)
        tl.store(d + 3 * K * K * N, tl.sum(g11 * f, 1).to(kind), mask=n < N)


@triton.jit
def _backward_features(
    grad, weights, grad_features, N, H, W, C, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):
    n, line, column = _position(tl.program_id(0), W, BLOCK_N)
    row = line % H
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for t in range(K * K):
        dy, dx = t // K - K // 2, t % K - K // 2
        inside = (n < N) & (row - dy >= 0) & (row - dy < H) & (column - dx >= 0) & (column - dx < W)
        m = n - dy * W - dx  # the position whose tap t is n
        mask = inside[:, None] & (c < C)[None, :]
        first = grad + _corner(line - dy, column - dx, W)[:, None] * C + c[None, :]
        below = first + 2 * W * C
        w = weights + t * N + m
        w00 = tl.load(w, mask=inside, other=0.0).to(tl.float32)[:, None]
        w01 = tl.load(w + K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None]
        w10 = tl.load(w + 2 * K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None]
        w11 = tl.load(w + 3 * K * K * N, mask=inside, other=0.0).to(tl.float32)[:, None]
        total += w00 * tl.load(first, mask=mask, other=0.0).to(tl.float32)
        total += w01 * tl.load(first + C, mask=mask, other=0.0).to(tl.float32)
        total += w10 * tl.load(below, mask=mask, other=0.0).to(tl.float32)
        total += w11 * tl.load(below + C, mask=mask, other=0.0).to(tl.float32)
    mask = (n < N)[:, None] & (c < C)[None, :]
    at = n[:, None] * C + c[None, :]
    tl.store(grad_features + at, total.to(grad_features.dtype.element_ty), mask=mask)


def reassemble(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> Tensor:
    """Softmax over the taps, weighted sum of each position's neighbourhood, once per output phase, and a bias.

    Shapes: features (B, C, H, W) with C <= MAX_CHANNELS, logits (B, 4 K K or more, H, W) of the same dtype, of which
    only the first 4 K K count, logit_bias (4 K K,), bias (C,) -> (B, C, 2 H, 2 W), channels last.
    """
    return _op(_last(features), _last(logits), logit_bias, bias)[0]  # type: ignore[no-any-return]


def _last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def _blocks(channels: int, held: int, limit: int) -> tuple[int, int]:
    """Positions and channels of a program that holds some `held` values per channel block, `limit` channels at most."""
    block_c = min(limit, max(16, triton.next_power_of_2(channels)))
    return max(16, min(128, held // block_c)), block_c


@torch.library.custom_op("famseg::reassemble", mutates_args=())
def _op(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = features.shape
    number, taps = batch * height * width, logit_bias.numel() // PHASES
    weights = features.new_empty(PHASES * taps, number)
    out = _empty_last(features, (batch, channels, 2 * height, 2 * width))
    block_t = triton.next_power_of_2(taps)
    _softmax[(triton.cdiv(number, POSITIONS),)](
        logits, logit_bias, weights, number, logits.shape[1], taps, POSITIONS, block_t
    )
    block_n, block_c = _blocks(channels, 2048, 64)
    grid = (triton.cdiv(number, block_n), triton.cdiv(channels, block_c))
    _forward[grid](features, weights, bias, out, number, height, width, channels, math.isqrt(taps), block_n, block_c)
    return out, weights


@_op.register_fake
def _(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = features.shape
    weights = features.new_empty(logit_bias.shape[0], batch * height * width)
    return _empty_last(features, (batch, channels, 2 * height, 2 * width)), weights


@torch.library.custom_op("famseg::reassemble_backward", mutates_args=())
def _backward_op(grad: Tensor, features: Tensor, weights: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features, of the logits (B, row, H, W), and of their bias (4 K K,), float32."""
    batch, channels, height, width = features.shape
    number, taps = batch * height * width, weights.shape[0] // PHASES
    grad_features, grad_weights = torch.empty_like(features), torch.empty_like(weights)
    grad_logits = _empty_last(features, (batch, row, height, width))
    programs = triton.cdiv(number, POSITIONS)
    partials = features.new_empty(programs, PHASES * taps, dtype=torch.float32)
    sizes = (number, height, width, channels, math.isqrt(taps))
    block_n, block_c = _blocks(channels, 2048, 64)
    grid = (triton.cdiv(number, block_n), triton.cdiv(channels, block_c))
    _backward_features[grid](grad, weights, grad_features, *sizes, block_n, block_c)
    block_n, block_c = _blocks(channels, 2048, MAX_CHANNELS)
    _backward_weights[(triton.cdiv(number, block_n),)](grad, features, grad_weights, *sizes, block_n, block_c)
    block_t = triton.next_power_of_2(taps)
    _softmax_backward[(programs,)](weights, grad_weights, grad_logits, partials, number, row, taps, POSITIONS, block_t)
    return grad_features, grad_logits, merged(partials)


@_backward_op.register_fake
def _(grad: Tensor, features: Tensor, weights: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, height, width = features.shape
    grad_logits = _empty_last(features, (batch, row, height, width))
    return torch.empty_like(features), grad_logits, weights.new_empty(weights.shape[0], dtype=torch.float32)


def _empty_last(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _save(ctx, inputs, output) -> None:
    features, logits, logit_bias, bias = inputs
    ctx.save_for_backward(features, output[1])
    ctx.row, ctx.dtypes = logits.shape[1], (logit_bias.dtype, bias.dtype)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    features, weights = ctx.saved_tensors
    grad_features, grad_logits, sums = _backward_op(_last(grad), features, weights, ctx.row)
    of_logits, of_output = ctx.dtypes
    total = grad.sum((0, 2, 3), dtype=torch.float32)
    return grad_features, grad_logits, sums.to(of_logits), total.to(of_output)


_op.register_autograd(_gradients, setup_context=_save)
