"""The sums that cross-entropy and Dice are made of, in one pass over the logits; the plain twin is `famseg.losses`.

No probability, logarithm or target is ever stored: forward reads logits and mask and writes a few numbers per program,
backward reads them again and writes the gradient. With p = softmax(z), m(j) = j for a class that the image knows and 0
for any other, P_k = sum of p_j over m(j) = k, and q the softmax over the classes with m(j) = y alone:

    sums = [sum -log P_y, then for each class: sum P_k 1[y = k], sum P_k, sum 1[y = k]]
    dL/dz_j = d0 (p_j - q_j) + p_j (d_m(j) - sum_i p_i d_m(i)),    d0 = dL/dsums[0], d_k = dL/dP_k at the pixel
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # pixels of a program


@triton.jit
def _probabilities(z, known, at, sk, b, y, mask, CLASSES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Softmaxes p and q (pixels, BLOCK_K), m(j) (pixels, BLOCK_K), and -log P_y (pixels, 1)."""
    k = tl.arange(0, BLOCK_K)[None, :]
    there = mask[:, None] & (k < CLASSES)
    apart = tl.load(known + b[:, None] * CLASSES + k, mask=there, other=0) != 0
    kind = tl.where(apart, k, 0)
    nowhere = -float("inf")
    x = tl.load(z + at[:, None] + k * sk, mask=there, other=nowhere).to(tl.float32)
    x = tl.where(mask[:, None], x, 0.0)  # no inf - inf beyond the last pixel
    right = (kind == y[:, None]) & (k < CLASSES)
    top = tl.max(x, 1)[:, None]
    top_right = tl.max(tl.where(right, x, nowhere), 1)[:, None]
    top_right = tl.where(mask[:, None], top_right, 0.0)
    e, e_right = tl.exp(x - top), tl.where(right, tl.exp(x - top_right), 0.0)
    total, total_right = tl.sum(e, 1)[:, None], tl.sum(e_right, 1)[:, None]
    entropy = (top - top_right) + tl.log(total) - tl.log(total_right)
    return e / total, e_right / total_right, kind, entropy


@triton.jit
def _pixels(H, W, sb, sh, sw, BLOCK_N: tl.constexpr):
    """Pixels n of a program, their images b, and where their logits begin."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # divided as int32, which is several times faster
    b, y, x = n // (H * W), n // W % H, n % W
    return n.to(tl.int64), b, b.to(tl.int64) * sb + y * sh + x * sw


@triton.jit
def _forward(
    z, target, known, partial, N, H, W, sb, sk, sh, sw,
    CLASSES: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n, b, at = _pixels(H, W, sb, sh, sw, BLOCK_N)
    mask = n < N
    y = tl.load(target + n, mask=mask, other=-1).to(tl.int32)
    p, _, kind, entropy = _probabilities(z, known, at, sk, b, y, mask, CLASSES, BLOCK_K)
    out = partial + tl.program_id(0).to(tl.int64) * (1 + 3 * CLASSES)
    tl.store(out, tl.sum(tl.sum(tl.where(mask[:, None], entropy, 0.0), 1), 0))
    for c in tl.static_range(CLASSES):
        share = tl.where(mask, tl.sum(tl.where(kind == c, p, 0.0), 1), 0.0)  # P_c
        tl.store(out + 1 + c, tl.sum(tl.where(y == c, share, 0.0), 0))
        tl.store(out + 1 + CLASSES + c, tl.sum(share, 0))
        tl.store(out + 1 + 2 * CLASSES + c, tl.sum((y == c).to(tl.float32), 0))


@triton.jit
def _backward(
    z, target, known, upstream, grad, N, H, W, sb, sk, sh, sw, gb, gk, gh, gw,
    CLASSES: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n, b, at = _pixels(H, W, sb, sh, sw, BLOCK_N)
    mask = n < N
    y = tl.load(target + n, mask=mask, other=-1).to(tl.int32)
    p, q, kind, _ = _probabilities(z, known, at, sk, b, y, mask, CLASSES, BLOCK_K)
    k = tl.arange(0, BLOCK_K)[None, :]
    classes = (k < CLASSES) & mask[:, None]
    overlap = tl.load(upstream + 1 + kind, mask=classes, other=0.0)
    d = tl.load(upstream + 1 + CLASSES + kind, mask=classes, other=0.0) + tl.where(kind == y[:, None], overlap, 0.0)
    g = tl.load(upstream) * (p - q) + p * (d - tl.sum(p * d, 1)[:, None])
    _, _, to = _pixels(H, W, gb, gh, gw, BLOCK_N)
    tl.store(grad + to[:, None] + k * gk, g.to(grad.dtype.element_ty), mask=classes)


def sums(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """(1 + 3 K,) float32: the cross-entropy, and for each class its overlap, its probability and its pixels.

    Shapes: logits (B, K, H, W) of any strides, mask (B, H, W) int64, known (B, K) bool with a true first column.
    """
    result: Tensor = _op(logits, mask.contiguous(), known.contiguous())
    return result


def _launch(kernel, logits: Tensor, mask: Tensor, *arguments, more=()) -> None:
    batch, classes, height, width = logits.shape
    number = batch * height * width
    sizes = (number, height, width, *logits.stride(), *more)
    block = max(16, BLOCK // triton.next_power_of_2(classes))
    kernel[(triton.cdiv(number, block),)](
        logits, mask, *arguments, *sizes, classes, triton.next_power_of_2(classes), block
    )


@torch.library.custom_op("famseg::loss_sums", mutates_args=())
def _op(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    classes = logits.shape[1]
    programs = triton.cdiv(mask.numel(), max(16, BLOCK // triton.next_power_of_2(classes)))
    partial = logits.new_empty(programs, 1 + 3 * classes, dtype=torch.float32)
    _launch(_forward, logits, mask, known, partial)
    return partial.sum(0)


@_op.register_fake
def _(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    return logits.new_empty(1 + 3 * logits.shape[1], dtype=torch.float32)


@torch.library.custom_op("famseg::loss_sums_backward", mutates_args=())
def _backward_op(upstream: Tensor, logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    grad = torch.empty_like(logits)
    _launch(_backward, logits, mask, known, upstream, grad, more=grad.stride())
    return grad


@_backward_op.register_fake
def _(upstream: Tensor, logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    return torch.empty_like(logits)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, upstream):
    return _backward_op(upstream.contiguous(), *ctx.saved_tensors), None, None


_op.register_autograd(_gradients, setup_context=_save)
