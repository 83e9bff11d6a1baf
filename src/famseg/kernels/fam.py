"""FAM's softmax and weighted reassembly in Triton; the plain twin is `famseg.layers.fam.reassemble`.

Maps are channels last: a program works on a run of positions n of the small map, all of them counted through,
n = (b H + h) W + w. The logits' rows, (N, ROW) in memory with ROW >= 4 K K, hold the four phases of a tap side by side:
a row is one run of memory, read and written 16 bytes at a time. Channels beyond 4 K K are padding. The softmax turns
them into weights (4 K K, N), the same order of channels: all further reads of those are contiguous then. Backward needs
no more than the weights and the features:

    dL/dw[t] = sum_c g[c] f[n + t, c]              kept in float32: half precision would lose what differs between taps
    dL/dl[t] = w[t] (dL/dw[t] - sum_s w[s] dL/dw[s])
    dL/df[n] = sum_t w[t, n - t] g[n - t]          a gather: nothing is added in an order that could change

dL/dw never reaches memory: a program holds those of all taps of its positions.
"""

import math

import torch
import triton
from torch import Tensor

from famseg.kernels import fam_programs as programs
from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import PROGRAMS
from famseg.kernels.tiles import channels_last, empty_map
from famseg.layers.fam import MAX_CHANNELS, PHASES
from famseg.streams import for_weight

FEW = 16  # taps, in the power of two that holds them


def reassemble(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> Tensor:
    """Softmax over the taps, weighted sum of each position's neighbourhood, once per output phase, and a bias.

    Shapes: features (B, C, H, W) with C <= MAX_CHANNELS, logits (B, 4 K K or more, H, W) of the same dtype, of which
    only the first 4 K K count, logit_bias (4 K K,), bias (C,) -> (B, C, 2 H, 2 W), channels last. Tap t of phase p is
    channel 4 t + p of the logits, and number p K K + t of their bias, as in the layer's parameters.
    """
    return _op(channels_last(features), channels_last(logits), logit_bias, bias)[0]  # type: ignore[no-any-return]


def _block_c(channels: int, limit: int) -> int:
    """The power of two of channels that a program has, `limit` at most."""
    return int(min(limit, max(16, triton.next_power_of_2(channels))))


def _blocks(channels: int) -> tuple[int, int]:
    """Positions and channels of a program."""
    block_c = _block_c(channels, 64)
    return 1024 // block_c, block_c


def _block_t(row: int) -> int:
    """The power of two of taps that holds a row of logits."""
    return triton.next_power_of_2(triton.cdiv(row, PHASES))  # type: ignore[no-any-return]


def _of_softmax(block_t: int) -> tuple[int, int]:
    """Positions and warps of a program: the taps of a position lie in one warp."""
    return (64, 4) if block_t <= FEW else (16, 1)


def _of_logits(channels: int, block_t: int) -> tuple[int, int, int]:
    """Positions and channels of a program of the logits' gradient, and how many programs an H100 runs at once.

    A program is one warp, whose threads have 8 values of a map. Spread over four warps, the sums over taps would be
    joined in shared memory, by Triton 3.6 through a single bank of it: one thread of a warp after the other.
    """
    block_c = _block_c(channels, MAX_CHANNELS)
    return 256 // block_c, block_c, (3 if block_t <= FEW else 2) * PROGRAMS


@torch.library.custom_op("famseg::reassemble", mutates_args=())
def _op(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = features.shape
    number, taps = batch * height * width, logit_bias.numel() // PHASES
    weights = features.new_empty(PHASES * taps, number)
    out = empty_map(features, size=(2 * height, 2 * width))
    block_t = _block_t(PHASES * taps)
    block_n, warps = _of_softmax(block_t)
    start(
        programs.softmax, (triton.cdiv(number, block_n),),
        logits, logit_bias, weights, number, logits.shape[1], taps, block_n, block_t, num_warps=warps,
    )  # fmt: skip
    block_n, block_c = _blocks(channels)
    grid = (triton.cdiv(number, block_n), triton.cdiv(channels, block_c))
    start(
        programs.forward, grid,
        features, weights, bias, out, number, height, width, channels, math.isqrt(taps), block_n, block_c,
    )  # fmt: skip
    return out, weights


@_op.register_fake
def _(features: Tensor, logits: Tensor, logit_bias: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, height, width = features.shape
    weights = features.new_empty(logit_bias.shape[0], batch * height * width)
    return empty_map(features, size=(2 * height, 2 * width)), weights


@torch.library.custom_op("famseg::reassemble_backward", mutates_args=())
def _backward_op(grad: Tensor, features: Tensor, weights: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the features, of the logits (B, row, H, W), and of both biases (4 K K + C,), float32."""
    batch, channels, height, width = features.shape
    number, kernel = batch * height * width, math.isqrt(weights.shape[0] // PHASES)
    grad_features, grad_logits = torch.empty_like(features), empty_map(features, row)
    block_n, block_c = _blocks(channels)
    grid = (triton.cdiv(number, block_n), triton.cdiv(channels, block_c))
    start(
        programs.backward_features, grid,
        grad, weights, grad_features, number, height, width, channels, kernel, block_n, block_c,
    )  # fmt: skip
    block_t = _block_t(row)
    block_n, block_c, most = _of_logits(channels, block_t)
    chunks = min(most, triton.cdiv(number, block_n))
    partials = features.new_empty(chunks, len(weights) + channels, dtype=torch.float32)
    start(
        programs.backward_logits, (chunks,),
        grad, features, weights, grad_logits, partials, number, height, width,
        channels, row, kernel, block_n, block_c, block_t, num_warps=1,
    )  # fmt: skip
    return grad_features, grad_logits, for_weight(merged, partials)


@_backward_op.register_fake
def _(grad: Tensor, features: Tensor, weights: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
    of_biases = weights.new_empty(weights.shape[0] + features.shape[1], dtype=torch.float32)
    return torch.empty_like(features), empty_map(features, row), of_biases


def _save(ctx, inputs, output) -> None:
    features, logits, logit_bias, bias = inputs
    ctx.save_for_backward(features, output[1])
    ctx.row, ctx.dtypes = logits.shape[1], (logit_bias.dtype, bias.dtype)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    features, weights = ctx.saved_tensors
    grad_features, grad_logits, of_biases = _backward_op(channels_last(grad), features, weights, ctx.row)
    of_logits, of_output = of_biases.split([weights.shape[0], features.shape[1]])
    return grad_features, grad_logits, of_logits.to(ctx.dtypes[0]), of_output.to(ctx.dtypes[1])


_op.register_autograd(_gradients, setup_context=_save)
