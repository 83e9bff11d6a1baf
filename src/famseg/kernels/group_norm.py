"""The end of the Hamburger, y = relu(x + groupnorm(h)), in the maps' own dtype and layout.

PyTorch's group norm is float32 under autocast and not channels last: six copies of the map, and a sum in float32.
Here forward reads h for its statistics and again with x for the result; backward reads y, dy and h twice. With m the
mean of an image's group, n its numbers and r = 1 / sqrt(their variance + eps):

    scale = weight r,    shift = bias - m scale,    y = relu(x + h scale + shift)
    g = dy where y > 0,    dx = g,    dbias = sum g,    dweight = r sum g (h - m)
    dh = scale g + by_h h - r [sum weight g] / n - m by_h,    by_h = -r^3 [sum weight g (h - m)] / n

where [...] are over the group, the other sums over a channel. Maps (B, C, H, W) are channels last: per image, pixels
(N, C) in memory. Sums are float32 partials in a fixed order, per image and channel, joined as in `famseg.kernels.norm`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.partials import merged
from famseg.kernels.rows import REGISTERS, Rows, rows_of
from famseg.kernels.tiles import block_of, channels_last, empty_map, over, run_of
from famseg.streams import for_weight

HELD = 4096  # values of the map that a program holds at once
CHUNKS = 64  # partial sums of an image; a constant, so that no result depends on the machine


@triton.jit
def per_channel(values, b, C, c, c_mask):
    """Numbers of image b's channels c, (B, C) float32, as [1, block_c]."""
    return tl.load(values + b * C + c, mask=c_mask, other=0.0)[None, :]


@triton.jit
def rows_of_run(begin, end, N, ROWS: tl.constexpr):
    """Pixels of a run of tiles."""
    return tl.minimum(end * ROWS, N) - begin * ROWS


@triton.jit(do_not_specialize=["N"])
def moments_kernel(h, partials, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Partials (2, B, chunks, C): a chunk's mean of h, and its sum of squared distances from that."""
    chunk, b = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    mean, squares = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = tile * ROWS + tl.arange(0, ROWS)
        mask = over(n < N, c_mask, EVEN)
        value = block_of(h + (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], mask)
        before, rows = (tile - begin) * ROWS, rows_of_run(tile, tile + 1, N, ROWS)
        own = tl.sum(value, 0) / rows
        d = tl.where(mask, value - own[None, :], 0.0)
        apart = own - mean
        squares += tl.sum(d * d, 0) + apart * apart * (before * rows / (before + rows))
        mean += apart * (rows / (before + rows))
    to = partials + (b * tl.num_programs(0) + chunk) * C + c
    tl.store(to, mean, mask=c_mask)
    tl.store(to + tl.num_programs(1) * tl.num_programs(0) * C, squares, mask=c_mask)


@triton.jit
def group_at(chunks, C, WIDTH: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Of program (group, b): its channels and which exist, and the same of its partials (B, chunks, C)."""
    b, i, k = tl.program_id(1), tl.arange(0, CHUNKS), tl.arange(0, BLOCK)
    c = tl.program_id(0) * WIDTH + k
    return c, k < WIDTH, (b * chunks + i)[:, None] * C + c[None, :], (i < chunks)[:, None] & (k < WIDTH)[None, :]


@triton.jit(do_not_specialize=["N", "chunks"])
def statistics_kernel(
    partials, weight, bias, stats, eps, N, chunks, C,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Stats (4, B, C) = m, r, scale and shift of an image's group of WIDTH channels."""
    c, c_mask, at, mask = group_at(chunks, C, WIDTH, CHUNKS, BLOCK)
    b, kind = tl.program_id(1), tl.num_programs(1) * C
    begin, end = run_of(tl.arange(0, CHUNKS), chunks, tl.cdiv(N, ROWS))
    count = tl.where(mask, rows_of_run(begin, end, N, ROWS)[:, None], 0)
    start = tl.load(partials + b * chunks * C + tl.program_id(0) * WIDTH)  # of about the size of all means
    d = block_of(partials + at, mask) - start
    shift = tl.sum(tl.sum(count * d, 0), 0) / (N * WIDTH)
    squares = block_of(partials + chunks * kind + at, mask) + count * (d - shift) * (d - shift)
    m = start + shift
    r = tl.rsqrt(tl.sum(tl.sum(squares, 0), 0) / (N * WIDTH) + eps)
    scale = tl.load(weight + c, mask=c_mask, other=0.0).to(tl.float32) * r
    to = stats + b * C + c
    tl.store(to, m, mask=c_mask)
    tl.store(to + kind, r, mask=c_mask)
    tl.store(to + 2 * kind, scale, mask=c_mask)
    tl.store(to + 3 * kind, tl.load(bias + c, mask=c_mask, other=0.0).to(tl.float32) - m * scale, mask=c_mask)


@triton.jit(do_not_specialize=["N"])
def norm_kernel(x, h, scale, shift, y, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Y = relu(x + h scale + shift), scale and shift (B, C)."""
    b = tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
    value = block_of(x + at, mask) + block_of(h + at, mask) * per_channel(scale, b, C, c, c_mask)
    value += per_channel(shift, b, C, c, c_mask)
    tl.store(y + at, tl.maximum(value, 0.0).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N"])
def gradient_sums_kernel(dy, y, h, mean, partials, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """Partials (2, B, chunks, C): a chunk's sums of g and of g (h - mean), g = dy where y > 0."""
    chunk, b = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    middle = per_channel(mean, b, C, c, c_mask)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    product = tl.zeros((ROWS, BLOCK_C), tl.float32)
    begin, end = run_of(chunk, tl.num_programs(0), tl.cdiv(N, ROWS))
    for tile in range(begin, end):
        n = tile * ROWS + tl.arange(0, ROWS)
        at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
        g = tl.where(block_of(y + at, mask) > 0, block_of(dy + at, mask), 0.0)
        total += g
        product += g * (block_of(h + at, mask) - middle)
    to = partials + (b * tl.num_programs(0) + chunk) * C + c
    tl.store(to, tl.sum(total, 0), mask=c_mask)
    tl.store(to + tl.num_programs(1) * tl.num_programs(0) * C, tl.sum(product, 0), mask=c_mask)


@triton.jit(do_not_specialize=["N", "chunks"])
def slopes_kernel(
    partials, weight, stats, factors, parameters, N, chunks, C,
    WIDTH: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of an image's group: factors (2, B, C) of h and of 1 in dh; parameters (2, B, C), its part of both."""
    c, c_mask, at, mask = group_at(chunks, C, WIDTH, CHUNKS, BLOCK)
    b, kind = tl.program_id(1), tl.num_programs(1) * C
    total = tl.sum(block_of(partials + at, mask), 0)
    product = tl.sum(block_of(partials + chunks * kind + at, mask), 0)
    w = tl.load(weight + c, mask=c_mask, other=0.0).to(tl.float32)
    first = stats + b * C + tl.program_id(0) * WIDTH
    m, r = tl.load(first), tl.load(first + kind)
    by_h = -r * r * r * tl.sum(w * product, 0) / (N * WIDTH)
    to = factors + b * C + c
    tl.store(to, by_h, mask=c_mask)
    tl.store(to + kind, -r * tl.sum(w * total, 0) / (N * WIDTH) - m * by_h, mask=c_mask)
    to = parameters + b * C + c
    tl.store(to, product * r, mask=c_mask)
    tl.store(to + kind, total, mask=c_mask)


@triton.jit(do_not_specialize=["N"])
def norm_backward_kernel(
    dy, y, h, scale, by_h, shift, dx, dh, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """Dx = g = dy where y > 0, dh = g scale + h by_h + shift, factors (B, C)."""
    b = tl.program_id(1)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = c < C
    at, mask = (b.to(tl.int64) * N + n[:, None]) * C + c[None, :], over(n < N, c_mask, EVEN)
    g = tl.where(block_of(y + at, mask) > 0, block_of(dy + at, mask), 0.0)
    tl.store(dx + at, g.to(dx.dtype.element_ty), mask=mask)
    value = g * per_channel(scale, b, C, c, c_mask) + block_of(h + at, mask) * per_channel(by_h, b, C, c, c_mask)
    tl.store(dh + at, (value + per_channel(shift, b, C, c, c_mask)).to(dh.dtype.element_ty), mask=mask)


def add_norm_relu(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """relu(x + groupnorm(h)).

    Args:
        x: (B, C, H, W).
        h: the same, in the same dtype.
        weight: (C,), of the norm.
        bias: (C,).
        groups: of the channels, which they divide.
        eps: added to the variance.

    Returns:
        (B, C, H, W), channels last, in x's dtype.
    """
    return _op(x, h, weight, bias, groups, eps)[0]  # type: ignore[no-any-return]


@torch.library.custom_op("famseg::add_norm_relu", mutates_args=())
def _op(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and the stats of each image's groups as (4, B, C), see `statistics_kernel`."""
    x, h = channels_last(x), channels_last(h)
    rows, y, stats = _cut(h), empty_map(x), _empty_stats(h, 4)
    partials, chunks = _empty_partials(h, rows)
    start(
        moments_kernel, (chunks, len(h), rows.blocks),
        h, partials, rows.number, rows.channels, **rows.arguments, maxnreg=REGISTERS,
    )  # fmt: skip
    start(
        statistics_kernel, (groups, len(h)),
        partials, weight, bias, stats, eps, rows.number, chunks, rows.channels,
        ROWS=rows.height, **_group(rows, groups),
    )  # fmt: skip
    start(
        norm_kernel, (rows.tiles[0], len(h), rows.blocks),
        x, h, stats[2], stats[3], y, rows.number, rows.channels, **rows.arguments,
    )  # fmt: skip
    return y, stats


@_op.register_fake
def _(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    return empty_map(x), _empty_stats(h, 4)


@torch.library.custom_op("famseg::add_norm_relu_backward", mutates_args=())
def _backward_op(
    dy: Tensor, y: Tensor, h: Tensor, stats: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `add_norm_relu` for x and h, and for weight and bias as one (2, C), float32."""
    dy, h = channels_last(dy), channels_last(h)
    rows, dx, dh = _cut(h), empty_map(h), empty_map(h)
    factors, parameters = _empty_stats(h, 2), _empty_stats(h, 2)
    partials, chunks = _empty_partials(h, rows)
    start(
        gradient_sums_kernel, (chunks, len(h), rows.blocks),
        dy, y, h, stats[0], partials, rows.number, rows.channels, **rows.arguments,
    )  # fmt: skip
    start(
        slopes_kernel, (groups, len(h)),
        partials, weight, stats, factors, parameters, rows.number, chunks, rows.channels,
        **_group(rows, groups),
    )  # fmt: skip
    start(
        norm_backward_kernel, (rows.tiles[0], len(h), rows.blocks),
        dy, y, h, stats[2], *factors, dx, dh, rows.number, rows.channels, **rows.arguments,
    )  # fmt: skip
    return dx, dh, for_weight(merged, parameters, 1)


@_backward_op.register_fake
def _(dy: Tensor, y: Tensor, h: Tensor, stats: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(h), empty_map(h), h.new_empty(2, h.shape[1], dtype=torch.float32)


def _empty_stats(h: Tensor, kinds: int) -> Tensor:
    return h.new_empty(kinds, *h.shape[:2], dtype=torch.float32)


def _empty_partials(h: Tensor, rows: Rows) -> tuple[Tensor, int]:
    """(2, B, chunks, C), and the chunks."""
    chunks = min(CHUNKS, rows.tiles[0])
    return torch.empty(2, len(h), chunks, rows.channels, dtype=torch.float32, device=h.device), chunks


def _group(rows: Rows, groups: int) -> dict[str, int]:
    """What a kernel takes that works on one group; nothing of an image's size."""
    width = rows.channels // groups
    return {"WIDTH": width, "CHUNKS": triton.next_power_of_2(CHUNKS), "BLOCK": triton.next_power_of_2(width)}


def _cut(h: Tensor) -> Rows:
    """Of one image."""
    return rows_of(h[:1], HELD)


def _keep(ctx, inputs, output) -> None:
    _, h, weight, bias, ctx.groups, _ = inputs
    ctx.save_for_backward(output[0], h, output[1], weight)
    ctx.bias_dtype = bias.dtype
    ctx.set_materialize_grads(False)


def _differentiate(ctx, dy, _):
    *saved, weight = ctx.saved_tensors
    dx, dh, (of_weight, of_bias) = _backward_op(dy, *saved, weight, ctx.groups)
    return dx, dh, of_weight.to(weight.dtype), of_bias.to(ctx.bias_dtype), None, None


_op.register_autograd(_differentiate, setup_context=_keep)
