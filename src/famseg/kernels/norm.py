"""Batch norm of training, with GELU behind it if asked for: two passes over the map forward and two backward.

Maps (B, C, H, W) are channels last: R = B H W rows of C channels in memory. With m_i the mean of a chunk's R_i rows,
q_i the sum of their (x - m_i)^2, m = the mean of all rows and r = 1 / sqrt(their variance + eps):

    m = sum R_i m_i / R,   variance = sum (q_i + R_i (m_i - m)^2) / R
    n = (x - m) r,   z = n weight + bias,   y = gelu(z)
    dz = dy gelu'(z),   dbias = sum dz,   dweight = sum dz n,   dx = weight r (dz - dbias / R - n dweight / R) [+ other]

`other` is the gradient of x from another reader, see `famseg.kernels.sharing`.

A chunk sums differences from the mean of its first tile, so that neither a mean far from zero nor one odd pixel costs
digits. Backward keeps no map but x: z is computed again. Sums are float32 partials in a fixed order, whose number
depends on nothing but the shape.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from famseg.kernels.gelu import gelu_of, gelu_slope
from famseg.kernels.launch import start
from famseg.kernels.partials import LAUNCH, merged
from famseg.kernels.rows import REGISTERS, rows_at, rows_of
from famseg.kernels.sharing import sharing
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, row_of, run_of

AT_ONCE, FEW = 1024, 4  # chunks, no fewer than there are, and channels of a program of `statistics_kernel`


@triton.jit
def rows_in(chunk, steps, R, ROWS: tl.constexpr):
    """Rows of a chunk, or of a block of chunks; the last ones may have none."""
    return tl.minimum(tl.maximum(R - chunk * steps * ROWS, 0), steps * ROWS)


@triton.jit(do_not_specialize=["R"])
def moments_kernel(x, partials, R, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Partials (2, chunks, C): this chunk's m_i and q_i."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    tiles = tl.cdiv(R, ROWS)
    steps = tl.cdiv(tiles, chunks)
    rows = rows_in(chunk, steps, R, ROWS)
    at, mask = rows_at(chunk * steps, R, C, c, ROWS, EVEN)
    some = tl.sum(block_of(x + at, mask), 0)
    start = some / tl.maximum(tl.minimum(rows, ROWS), 1)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    squares = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for tile in range(chunk * steps, min((chunk + 1) * steps, tiles)):
        at, mask = rows_at(tile, R, C, c, ROWS, EVEN)
        d = tl.where(mask, block_of(x + at, mask) - start[None, :], 0.0)
        total += d
        squares += d * d
    shift = tl.sum(total, 0) / tl.maximum(rows, 1)
    rest = tl.maximum(tl.sum(squares, 0) - rows * shift * shift, 0.0)
    tl.store(partials + chunk * C + c, start + shift, mask=c_mask)
    tl.store(partials + (chunks + chunk) * C + c, rest, mask=c_mask)


@triton.jit(do_not_specialize=["R", "chunks"])
def statistics_kernel(
    partials, stats, mean, variance, batches, momentum, eps, chunks, R, C,
    ROWS: tl.constexpr, AT_ONCE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """Stats (2, C) = m and r; the running mean and variance move towards the batch's, and one more batch is counted."""
    c = tl.program_id(0) * FEW + tl.arange(0, FEW)
    c_mask = c < C
    i = tl.arange(0, AT_ONCE)
    mask = over(i < chunks, c_mask, False)
    at = partials + i[:, None] * C + c[None, :]
    means, rests = block_of(at, mask), block_of(at + chunks * C, mask)  # all loads start before any sum
    start = tl.load(partials + c, mask=c_mask, other=0.0)
    mean_before, variance_before = tl.load(mean + c, mask=c_mask), tl.load(variance + c, mask=c_mask)
    batches_before = tl.load(batches)
    rows = rows_in(i, tl.cdiv(tl.cdiv(R, ROWS), chunks), R, ROWS)[:, None].to(tl.float32)  # none behind the last chunk
    d = means - start[None, :]
    within = tl.sum(rests, 0)
    shift = tl.sum(rows * d, 0) / R
    d -= shift[None, :]
    m = start + shift
    v = (within + tl.sum(rows * d * d, 0)) / R
    tl.store(stats + c, m, mask=c_mask)
    tl.store(stats + C + c, tl.rsqrt(v + eps), mask=c_mask)
    tl.store(mean + c, mean_before + momentum * (m - mean_before), mask=c_mask)
    unbiased = v * (R / tl.maximum(R - 1, 1).to(tl.float32))
    tl.store(variance + c, variance_before + momentum * (unbiased - variance_before), mask=c_mask)
    if tl.program_id(0) == 0:
        tl.store(batches, batches_before + 1)


@triton.jit(do_not_specialize=["R"])
def norm_kernel(
    x, weight, bias, stats, y, R, C,
    GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Y = z, or with GELU gelu(z)."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    scale = row_of(stats, 1, C, c, c_mask) * row_of(weight, 0, C, c, c_mask)
    z = (block_of(x + at, mask) - row_of(stats, 0, C, c, c_mask)) * scale + row_of(bias, 0, C, c, c_mask)
    if GELU:
        z = gelu_of(z)
    tl.store(y + at, z.to(y.dtype.element_ty), mask=mask)


@triton.jit
def normalised_at(x, weight, bias, stats, at, mask, C, c, c_mask):
    """N and z of a block."""
    n = (block_of(x + at, mask) - row_of(stats, 0, C, c, c_mask)) * row_of(stats, 1, C, c, c_mask)
    return n, n * row_of(weight, 0, C, c, c_mask) + row_of(bias, 0, C, c, c_mask)


@triton.jit
def slope_at(dy, x, weight, bias, stats, at, mask, C, c, c_mask, GELU: tl.constexpr):
    """Dz and n of a block."""
    dz = block_of(dy + at, mask)
    n, z = normalised_at(x, weight, bias, stats, at, mask, C, c, c_mask)
    if GELU:
        dz *= gelu_slope(z)
    return dz, n


@triton.jit
def slope_of_map(dz, n, weight, stats, sums, R, C, c, c_mask):
    """Dx of a block of dz and n, from the sums (2, C) = dweight and dbias."""
    centred = dz - (row_of(sums, 1, C, c, c_mask) + n * row_of(sums, 0, C, c, c_mask)) / R
    return centred * (row_of(stats, 1, C, c, c_mask) * row_of(weight, 0, C, c, c_mask))


@triton.jit(do_not_specialize=["R"])
def gradient_sums_kernel(
    dy, x, weight, bias, stats, partials, R, C,
    GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Partials (2, chunks, C): this chunk's sums of dz n and of dz."""
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    of_weight = tl.zeros((ROWS, BLOCK_C), tl.float32)
    of_bias = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, chunks, tl.cdiv(R, ROWS))
    for tile in range(begin, end):
        at, mask = rows_at(tile, R, C, c, ROWS, EVEN)
        dz, n = slope_at(dy, x, weight, bias, stats, at, mask, C, c, c_mask, GELU)
        of_weight += dz * n
        of_bias += dz
    tl.store(partials + chunk * C + c, tl.sum(of_weight, 0), mask=c_mask)
    tl.store(partials + (chunks + chunk) * C + c, tl.sum(of_bias, 0), mask=c_mask)


@triton.jit(do_not_specialize=["R"])
def norm_backward_kernel(
    dy, x, weight, bias, stats, sums, other, dx, R, C,
    OTHER: tl.constexpr, GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Dx, from the sums (2, C) = dweight and dbias."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = rows_at(tl.program_id(0), R, C, c, ROWS, EVEN)
    dz, n = slope_at(dy, x, weight, bias, stats, at, mask, C, c, c_mask, GELU)
    value = slope_of_map(dz, n, weight, stats, sums, R, C, c, c_mask)
    if OTHER:
        value += block_of(other + at, mask)
    tl.store(dx + at, value.to(dx.dtype.element_ty), mask=mask)


def suits(norm: nn.Module, x: Tensor) -> bool:
    """Whether this norm is now one that the kernels compute: of this device's batch, with running statistics.

    One value of a channel has no variance, and no values have no mean: there the module speaks for itself.
    """
    if x.numel() <= x.shape[1]:
        return False
    if type(norm) is not nn.BatchNorm2d or not norm.training:  # a norm over several devices is another class
        return False
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, gelu: bool) -> Tensor:
    """What the module does in training, and GELU after it if asked for; its buffers are updated.

    Args:
        x: (B, C, H, W).
        norm: see `suits`.
        gelu: whether the exact GELU follows.

    Returns:
        (B, C, H, W), channels last, in x's dtype.
    """
    x = channels_last(x)
    result: Tensor = normalise(x, norm.weight, norm.bias, updated_statistics(x, norm), gelu)
    return result


def batch_norm_shared(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """`batch_norm` without GELU, and x for another reader, whose gradient it adds to its own."""
    x = channels_last(x)
    return normalise_shared(x, norm.weight, norm.bias, updated_statistics(x, norm), False)


def updated_statistics(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """The statistics of x; the norm's buffers are updated."""
    buffers = norm.running_mean, norm.running_var, norm.num_batches_tracked
    stats: Tensor = statistics(x.detach(), *buffers, norm.momentum, norm.eps)
    return stats


@torch.library.custom_op("famseg::norm_statistics", mutates_args=("mean", "variance", "batches"))
def statistics(x: Tensor, mean: Tensor, variance: Tensor, batches: Tensor, momentum: float, eps: float) -> Tensor:
    """Mean and 1 / deviation of the channels of x, (2, C) float32; the running statistics are updated."""
    rows = rows_of(x)
    channels, chunks = rows.channels, rows.chunks()
    partials = torch.empty(2, chunks, channels, dtype=torch.float32, device=x.device)
    stats = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    start(
        moments_kernel, (chunks, rows.blocks),
        x, partials, rows.number, rows.channels_argument, **rows.arguments, maxnreg=REGISTERS,
    )  # fmt: skip
    start(
        statistics_kernel, (triton.cdiv(channels, FEW),),
        partials, stats, mean, variance, batches, momentum, eps, chunks, rows.number, channels, rows.height,
        AT_ONCE, FEW, **LAUNCH,
    )  # fmt: skip
    return stats


@statistics.register_fake
def _(x: Tensor, mean: Tensor, variance: Tensor, batches: Tensor, momentum: float, eps: float) -> Tensor:
    return x.new_empty(2, x.shape[1], dtype=torch.float32)


@torch.library.custom_op("famseg::normalise", mutates_args=())
def normalise(x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, gelu: bool) -> Tensor:
    """The norm by given statistics; its gradient is that of the batch norm whose statistics they are."""
    rows = rows_of(x)
    y = empty_map(x)
    start(
        norm_kernel, rows.tiles,
        x, weight, bias, stats, y, rows.number, rows.channels_argument, GELU=gelu, **rows.arguments,
    )  # fmt: skip
    return y


@normalise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, gelu: bool) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::normalise_backward", mutates_args=())
def normalise_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, gelu: bool, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which `other`, channels last, is added, and of weight and bias as one (2, C), float32."""
    dy, rows = channels_last(dy), rows_of(x)
    channels, chunks = rows.channels, rows.chunks()
    partials = torch.empty(2, chunks, channels, dtype=torch.float32, device=x.device)
    sizes, options = (rows.number, rows.channels_argument), {"GELU": gelu, **rows.arguments}
    dx = empty_map(x)
    start(
        gradient_sums_kernel, (chunks, rows.blocks),
        dy, x, weight, bias, stats, partials, *sizes, **options, maxnreg=REGISTERS,
    )  # fmt: skip
    sums = merged(partials, 1)
    start(
        norm_backward_kernel, rows.tiles,
        dy, x, weight, bias, stats, sums, dy if other is None else other, dx, *sizes,
        OTHER=other is not None, **options,
    )  # fmt: skip
    return dx, sums


@normalise_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stats: Tensor, gelu: bool, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return empty_map(x), torch.empty_like(stats)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.gelu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, None, None]:
    x, weight, bias, stats = ctx.saved_tensors
    dx, sums = normalise_backward(dy, x, weight, bias, stats, ctx.gelu, other)
    return dx, sums[0].to(weight.dtype), sums[1].to(bias.dtype), None, None


normalise.register_autograd(_differentiate, setup_context=_keep)
normalise_shared = sharing(normalise, _keep, _differentiate)
