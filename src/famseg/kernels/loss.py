"""The sums that cross-entropy and Dice are made of, in one pass over the logits, and the loss that follows from them.

The plain twin is `famseg.losses`. No probability, logarithm or target is ever stored: forward reads logits and mask and
writes a few numbers per program, backward reads them again and writes the gradient. With p = softmax(z), m(j) = j for a
class that the image knows and 0 for any other, P_k = sum of p_j over m(j) = k, and q the softmax over the classes with
m(j) = y alone:

    sums = [sum -log P_y, then for each class: sum P_k 1[y = k], sum P_k, sum 1[y = k]]
    dL/dz_j = d0 (p_j - q_j) + p_j (d_m(j) - sum_i p_i d_m(i)),    d0 = dL/dsums[0], d_k = dL/dP_k at the pixel

A program works on pixels of one image, so that m is the same for all. A class is a vector of pixels, in one thread with
the pixel's other classes: nothing passes between threads but the sums, once for each program. They are float32 partials
in a fixed order. The loss that follows from them is one launch, where PyTorch has thirty, which nothing can run beside.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.tiles import over, put, run_of

HELD = 1024  # logits in a program, of as many classes as the next power of two
PROGRAMS = 1056  # partial sums; a constant, so that no result depends on the machine
IMAGES = 32  # whose known classes are loaded at once


@triton.jit
def offsets_of(n, W, sh, sw, DENSE: tl.constexpr):
    """Of pixels in their image; DENSE: the next row begins where a row ends."""
    if DENSE:
        return n * sw
    else:
        return n // W * sh + n % W * sw


@triton.jit
def kinds_of(known, b, CLASSES: tl.constexpr):
    """m(j) of each class j, in image b."""
    kinds = ()
    for j in tl.static_range(CLASSES):
        kinds = kinds + (tl.where(tl.load(known + b * CLASSES + j) != 0, j, 0),)  # type: ignore[assignment]
    return kinds


@triton.jit
def logits_at(z, at, sk, mask, CLASSES: tl.constexpr):
    """Of each class, zero off the image."""
    x = ()
    for j in tl.static_range(CLASSES):
        x = x + (tl.load(z + at + j * sk, mask=mask, other=0.0).to(tl.float32),)  # type: ignore[assignment]
    return x


@triton.jit
def of_target(x, kinds, y, CLASSES: tl.constexpr):
    """The logits of the classes with m(j) = y; minus infinity for the others."""
    right = ()
    for j in tl.static_range(CLASSES):
        right = right + (tl.where(y == kinds[j], x[j], -float("inf")),)  # type: ignore[assignment]
    return right


@triton.jit
def exponentials(x, CLASSES: tl.constexpr):
    """exp(x_j - top) of each class, their sum, and top, the largest x_j."""
    top = x[0]
    for j in tl.static_range(1, CLASSES):
        top = tl.maximum(top, x[j])
    e = (tl.exp(x[0] - top),)
    total = e[0]
    for j in tl.static_range(1, CLASSES):
        e = e + (tl.exp(x[j] - top),)  # type: ignore[assignment]
        total += e[j]
    return e, total, top


@triton.jit
def pixels_at(n, z, target, kinds, b, N, W, sb, sk, sh, sw, CLASSES: tl.constexpr, DENSE: tl.constexpr):
    """Which pixels n image b has, their class y, and `exponentials` of all classes and of those with m(j) = y."""
    mask = n < N
    y = tl.load(target + b * N + n, mask=mask, other=0).to(tl.int32)
    x = logits_at(z + b * sb, offsets_of(n, W, sh, sw, DENSE), sk, mask, CLASSES)
    return mask, y, exponentials(x, CLASSES), exponentials(of_target(x, kinds, y, CLASSES), CLASSES)


@triton.jit
def store_merged(to, sums, kinds, CLASSES: tl.constexpr):
    """Totals of vectors, one for each class j, as sums for m(j)."""
    background = tl.sum(sums[0], 0)
    for j in tl.static_range(1, CLASSES):
        total = tl.sum(sums[j], 0)
        tl.store(to + j, tl.where(kinds[j] == j, total, 0.0))
        background += tl.where(kinds[j] == j, 0.0, total)
    tl.store(to, background)


@triton.jit(do_not_specialize=["N", "W", "sb", "sh"])
def sums_kernel(
    z, target, known, partials, N, W, sb, sk, sh, sw,
    CLASSES: tl.constexpr, BLOCK: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Partials (images, chunks, 1 + 3 CLASSES), for images of N pixels."""
    chunk, chunks, b = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    kinds = kinds_of(known, b, CLASSES)
    entropy = tl.zeros((BLOCK,), tl.float32)
    overlap = (entropy,) * CLASSES
    probability = (entropy,) * CLASSES
    pixels = (entropy,) * CLASSES
    begin, end = run_of(chunk, chunks, tl.cdiv(N, BLOCK))
    for tile in range(begin, end):
        n = tile * BLOCK + tl.arange(0, BLOCK)
        mask, y, every, right = pixels_at(n, z, target, kinds, b, N, W, sb, sk, sh, sw, CLASSES, DENSE)
        e, total, top = every
        _, total_right, top_right = right
        entropy += tl.where(mask, (top - top_right) + tl.log(total / total_right), 0.0)
        scale = tl.where(mask, 1.0 / total, 0.0)
        for j in tl.static_range(CLASSES):
            p = e[j] * scale
            overlap = put(overlap, j, overlap[j] + tl.where(y == kinds[j], p, 0.0))
            probability = put(probability, j, probability[j] + p)
            pixels = put(pixels, j, pixels[j] + tl.where(mask & (y == j), 1.0, 0.0))
    to = partials + (b * chunks + chunk) * (1 + 3 * CLASSES)
    tl.store(to, tl.sum(entropy, 0))
    store_merged(to + 1, overlap, kinds, CLASSES)
    store_merged(to + 1 + CLASSES, probability, kinds, CLASSES)
    for j in tl.static_range(CLASSES):
        tl.store(to + 1 + 2 * CLASSES + j, tl.sum(pixels[j], 0))


@triton.jit(do_not_specialize=["N", "W", "sb", "sh", "gb", "gh"])
def gradient_kernel(
    z, target, known, upstream, grad, N, W, sb, sk, sh, sw, gb, gk, gh, gw,
    CLASSES: tl.constexpr, BLOCK: tl.constexpr, DENSE: tl.constexpr, DENSE_GRAD: tl.constexpr,
):  # fmt: skip
    """Grad, for upstream (1 + 3 CLASSES,)."""
    b = tl.program_id(1).to(tl.int64)
    kinds = kinds_of(known, b, CLASSES)
    of_entropy = tl.load(upstream)
    of_overlap, of_probability = (), ()
    for j in tl.static_range(CLASSES):
        at = upstream + 1 + kinds[j]
        of_overlap = of_overlap + (tl.load(at),)  # type: ignore[assignment]
        of_probability = of_probability + (tl.load(at + CLASSES),)  # type: ignore[assignment]
    begin, end = run_of(tl.program_id(0), tl.num_programs(0), tl.cdiv(N, BLOCK))
    for tile in range(begin, end):
        n = tile * BLOCK + tl.arange(0, BLOCK)
        mask, y, every, right = pixels_at(n, z, target, kinds, b, N, W, sb, sk, sh, sw, CLASSES, DENSE)
        e, total, _ = every
        e_right, total_right, _ = right
        scale, scale_right = 1.0 / total, of_entropy / total_right
        slopes = ()
        mean = tl.zeros((BLOCK,), tl.float32)
        for j in tl.static_range(CLASSES):
            d = of_probability[j] + tl.where(y == kinds[j], of_overlap[j], 0.0)
            mean += e[j] * scale * d
            slopes = slopes + (of_entropy + d,)  # type: ignore[assignment]
        to = grad + b * gb + offsets_of(n, W, gh, gw, DENSE_GRAD)
        for j in tl.static_range(CLASSES):
            g = e[j] * scale * (slopes[j] - mean) - e_right[j] * scale_right
            tl.store(to + j * gk, g.to(grad.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B"])
def loss_kernel(
    sums, known, loss, slopes, B, by_entropy, by_dice, smooth,
    CLASSES: tl.constexpr, IMAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of B images as `loss_of` says, and its slopes (1 + 3 CLASSES,) along the sums."""
    k = tl.arange(0, BLOCK)
    there, labelled = k < CLASSES, tl.zeros((BLOCK,), tl.float32)
    for first in range(0, B, IMAGES):
        b = first + tl.arange(0, IMAGES)
        marks = tl.load(known + b[:, None] * CLASSES + k[None, :], mask=over(b < B, there, False), other=0)
        labelled = tl.maximum(labelled, tl.max((marks != 0).to(tl.float32), 0))
    overlap = tl.load(sums + 1 + k, mask=there, other=0.0)
    probability = tl.load(sums + 1 + CLASSES + k, mask=there, other=0.0)
    pixels = tl.load(sums + 1 + 2 * CLASSES + k, mask=there, other=0.0)
    total = tl.where(labelled > 0, probability + pixels + smooth, 1.0)  # else 0 / 0 without smooth
    ratio = (2 * overlap + smooth) / total
    share = by_dice * labelled / tl.sum(labelled, 0)
    tl.store(loss, by_entropy * tl.load(sums) + by_dice - tl.sum(share * ratio, 0))
    tl.store(slopes, by_entropy)
    tl.store(slopes + 1 + k, -2 * share / total, mask=there)
    of_total = share * ratio / total
    tl.store(slopes + 1 + CLASSES + k, of_total, mask=there)
    tl.store(slopes + 1 + 2 * CLASSES + k, of_total, mask=there)


def sums(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """(1 + 3 K,) float32: the cross-entropy, and for each class its overlap, its probability and its pixels.

    Shapes: logits (B, K, H, W) of any strides, mask (B, H, W) int64, known (B, K) bool with a true first column.
    """
    result: Tensor = _op(logits, mask.contiguous(), known.contiguous())
    return result


@torch.library.custom_op("famseg::loss_sums", mutates_args=())
def _op(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    batch, classes, height, width = logits.shape
    chunks, block = _cut(logits)
    partials = torch.empty(batch, chunks, 1 + 3 * classes, dtype=torch.float32, device=logits.device)
    sizes, options = (height * width, width, *logits.stride()), {"DENSE": _is_dense(logits)}
    start(sums_kernel, (chunks, batch), logits, mask, known, partials, *sizes, CLASSES=classes, BLOCK=block, **options)
    return merged(partials.flatten(0, 1))


@_op.register_fake
def _(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    return logits.new_empty(1 + 3 * logits.shape[1], dtype=torch.float32)


@torch.library.custom_op("famseg::loss_sums_backward", mutates_args=())
def _backward_op(upstream: Tensor, logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    batch, classes, height, width = logits.shape
    chunks, block = _cut(logits)
    grad = torch.empty_like(logits)
    sizes = height * width, width, *logits.stride(), *grad.stride()
    options = {"DENSE": _is_dense(logits), "DENSE_GRAD": _is_dense(grad)}
    start(
        gradient_kernel, (chunks, batch),
        logits, mask, known, upstream, grad, *sizes, CLASSES=classes, BLOCK=block, **options,
    )  # fmt: skip
    return grad


@_backward_op.register_fake
def _(upstream: Tensor, logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    return torch.empty_like(logits)


def _cut(logits: Tensor) -> tuple[int, int]:
    """Programs of an image, and pixels that a program has at once."""
    batch, classes, height, width = logits.shape
    block = max(128, HELD // triton.next_power_of_2(classes))
    return min(triton.cdiv(height * width, block), triton.cdiv(PROGRAMS, batch)), block


def _is_dense(x: Tensor) -> bool:
    """Whether the next row begins where a row ends."""
    return x.stride(2) == x.shape[3] * x.stride(3)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, upstream):
    return _backward_op(upstream.contiguous(), *ctx.saved_tensors), None, None


_op.register_autograd(_gradients, setup_context=_save)


def loss_of(sums: Tensor, known: Tensor, by_entropy: float, by_dice: float, smooth: float) -> Tensor:
    """by_entropy * cross-entropy + by_dice * (1 - mean over the labelled classes of their Dice), a scalar, float32.

    The Dice is (2 overlap + smooth) / (probability + pixels + smooth). A class is labelled if an image knows it.

    Args:
        sums: (1 + 3 K,), see `sums`.
        known: (B, K) bool with a true first column.
        by_entropy: weight of the summed cross-entropy.
        by_dice: weight of the Dice loss.
        smooth: pixels.
    """
    return _loss_op(sums, known.contiguous(), by_entropy, by_dice, smooth)[0]  # type: ignore[no-any-return]


@torch.library.custom_op("famseg::loss_of_sums", mutates_args=())
def _loss_op(sums: Tensor, known: Tensor, by_entropy: float, by_dice: float, smooth: float) -> tuple[Tensor, Tensor]:
    """The loss and its slopes."""
    loss, slopes, (batch, classes) = sums.new_empty(()), torch.empty_like(sums), known.shape
    start(
        loss_kernel, (1,),
        sums, known, loss, slopes, batch, by_entropy, by_dice, smooth,
        CLASSES=classes, IMAGES=IMAGES, BLOCK=triton.next_power_of_2(classes),
    )  # fmt: skip
    return loss, slopes


@_loss_op.register_fake
def _(sums: Tensor, known: Tensor, by_entropy: float, by_dice: float, smooth: float) -> tuple[Tensor, Tensor]:
    return sums.new_empty(()), torch.empty_like(sums)


def _save_slopes(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _along_slopes(ctx, upstream, _):
    (slopes,) = ctx.saved_tensors
    return upstream * slopes, None, None, None, None


_loss_op.register_autograd(_along_slopes, setup_context=_save_slopes)
