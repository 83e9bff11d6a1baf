"""Independent strip scans merged into one of rows and one of columns: one launch forward, one backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start

BLOCK_C = 16  # channels of a program


@triton.jit
def merge_kernel(lines, bias, weights, biases, C, LENGTHS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    """Lines (2 k, C), rows first, of weights (C, length), rows first, each centred; and the map itself, a 1 there."""
    COUNT: tl.constexpr = len(LENGTHS)
    LONGEST: tl.constexpr = LENGTHS[COUNT - 1]
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    c_mask = c < C
    bias_sum = tl.zeros((BLOCK_C,), tl.float32)
    for way in tl.static_range(2):
        taps = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
        if way == 0:
            taps += tl.where(k == LONGEST // 2, 1.0, 0.0)[None, :]
        for n in tl.static_range(COUNT):
            tap = k - (LONGEST - LENGTHS[n]) // 2
            mask = c_mask[:, None] & ((tap >= 0) & (tap < LENGTHS[n]))[None, :]
            at = weights[way * COUNT + n] + c[:, None] * LENGTHS[n] + tap[None, :]
            taps += tl.load(at, mask=mask, other=0.0).to(tl.float32)
            bias_sum += tl.load(biases[way * COUNT + n] + c, mask=c_mask, other=0.0).to(tl.float32)
        row = way * LONGEST + k
        tl.store(lines + row[None, :] * C + c[:, None], taps, mask=c_mask[:, None] & (k < LONGEST)[None, :])
    tl.store(bias + c, bias_sum, mask=c_mask)


@triton.jit
def split_kernel(
    dlines, row_stride, channel_stride, dbias, dweights, dbiases, C,
    LENGTHS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of `merge_kernel`'s weights and biases."""
    COUNT: tl.constexpr = len(LENGTHS)
    LONGEST: tl.constexpr = LENGTHS[COUNT - 1]
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    c_mask = c < C
    bias = tl.load(dbias + c, mask=c_mask, other=0.0)
    for way in tl.static_range(2):
        row = way * LONGEST + k
        at = dlines + row[None, :] * row_stride + c[:, None] * channel_stride
        taps = tl.load(at, mask=c_mask[:, None] & (k < LONGEST)[None, :], other=0.0)
        for n in tl.static_range(COUNT):
            tap = k - (LONGEST - LENGTHS[n]) // 2
            mask = c_mask[:, None] & ((tap >= 0) & (tap < LENGTHS[n]))[None, :]
            weight = dweights[way * COUNT + n]
            tl.store(weight + c[:, None] * LENGTHS[n] + tap[None, :], taps.to(weight.dtype.element_ty), mask=mask)
            one = dbiases[way * COUNT + n]
            tl.store(one + c, bias.to(one.dtype.element_ty), mask=c_mask)


@torch.library.custom_op("famseg::merge_scans", mutates_args=())
def merge_scans(weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Taps and bias of one scan of rows and one of columns that do what all these do together, and pass the map on.

    Args:
        weights: (C, 1, 1, k) of the rows, k odd and ascending, then (C, 1, k, 1) of the columns, of the same lengths.
        biases: (C,) of each.

    Returns:
        (2 k, C) of the longest k, rows first, as `strip_scans` takes them, and (C,); float32.
    """
    c, lengths = len(biases[0]), _lengths(weights)
    lines = biases[0].new_empty(2 * lengths[-1], c, dtype=torch.float32)
    bias = biases[0].new_empty(c, dtype=torch.float32)
    sources = tuple(w.contiguous() for w in weights), tuple(b.contiguous() for b in biases)
    start(merge_kernel, (triton.cdiv(c, BLOCK_C),), lines, bias, *sources, c, **_cut(lengths))
    return lines, bias


@merge_scans.register_fake
def _(weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    c, bias = len(biases[0]), biases[0]
    lines = bias.new_empty(2 * _lengths(weights)[-1], c, dtype=torch.float32)
    return lines, bias.new_empty(c, dtype=torch.float32)


@torch.library.custom_op("famseg::split_scans", mutates_args=())
def split_scans(dlines: Tensor, dbias: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    """Gradients of `merge_scans` for all weights, then for all biases."""
    dweights, dbiases = _empty_like(weights), _empty_like(biases)
    c = len(dbias)
    start(
        split_kernel, (triton.cdiv(c, BLOCK_C),),
        dlines, *dlines.stride(), dbias.contiguous(), tuple(dweights), tuple(dbiases), c, **_cut(_lengths(weights)),
    )  # fmt: skip
    return dweights + dbiases


@split_scans.register_fake
def _(dlines: Tensor, dbias: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    return _empty_like(weights) + _empty_like(biases)


def _empty_like(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


def _lengths(weights: list[Tensor]) -> tuple[int, ...]:
    """Of the scans of rows."""
    return tuple(w.shape[-1] for w in weights[: len(weights) // 2])


def _cut(lengths: tuple[int, ...]) -> dict[str, int | tuple[int, ...]]:
    return {"LENGTHS": lengths, "BLOCK_K": triton.next_power_of_2(lengths[-1]), "BLOCK_C": BLOCK_C}


def _keep(ctx, inputs, output) -> None:
    weights, biases = inputs
    ctx.count = len(weights)
    ctx.save_for_backward(*weights, *biases)


def _differentiate(ctx, dlines: Tensor, dbias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    saved = list(ctx.saved_tensors)
    gradients = split_scans(dlines, dbias, saved[: ctx.count], saved[ctx.count :])
    return gradients[: ctx.count], gradients[ctx.count :]


merge_scans.register_autograd(_differentiate, setup_context=_keep)
