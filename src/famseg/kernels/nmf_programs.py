"""Triton programs of the factorisation; `famseg.kernels.nmf` holds the mathematics."""

import triton
import triton.language as tl

from famseg.kernels.dots import product_of_factor, product_of_factors

EPS = tl.constexpr(1e-6)


@triton.jit
def load_tile(pointer, rows, columns, stride_row, stride_column, row_count, column_count):
    """A block of a matrix, zeros beyond its end."""
    mask = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    offsets = rows.to(tl.int64)[:, None] * stride_row + columns.to(tl.int64)[None, :] * stride_column
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def store_tile(pointer, value, rows, columns, stride_row, row_count, column_count):
    """The part of a block that lies in the matrix."""
    mask = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    offsets = rows.to(tl.int64)[:, None] * stride_row + columns[None, :]
    tl.store(pointer + offsets, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def on_basis(
    x, x_n, x_c, basis, position, positions, channels, rank,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, TILE: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """X D (TILE, r) and D^T D (r, r) of a tile of positions."""
    r = tl.arange(0, BLOCK_R)
    projected = tl.zeros((TILE, BLOCK_R), tl.float32)
    gram = tl.zeros((BLOCK_R, BLOCK_R), tl.float32)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        block = load_tile(basis, c, r, rank, 1, channels, rank)
        values = load_tile(x, position, c, x_n, x_c, positions, channels)
        projected += product_of_factor(values, block, NARROW)
        gram += product_of_factors(tl.trans(block), block, NARROW)
    return projected, gram


@triton.jit(do_not_specialize=["positions"])
def update_code(
    x, x_b, x_n, x_c, code, basis, parts, positions, channels, rank,
    FIRST: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, TILE: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """The code of a tile of positions, in place; the tile's X^T C and C^T C into `parts` (channels + r, r)."""
    tile, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    x += b * x_b
    code += b * positions * rank
    position, r = tile * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK_R)
    projected, gram = on_basis(
        x, x_n, x_c, basis + b * channels * rank, position, positions, channels, rank, BLOCK_R, BLOCK_C, TILE, NARROW
    )
    if FIRST:
        logits = tl.where((r < rank)[None, :], projected, float("-inf"))
        weights = tl.exp(logits - tl.max(logits, 1)[:, None])
        values = weights / tl.sum(weights, 1)[:, None]
    else:
        values = load_tile(code, position, r, rank, 1, positions, rank)
    values = values * projected / (product_of_factors(values, gram, NARROW) + EPS)  # zeros beyond the end: x is
    store_tile(code, values, position, r, rank, positions, rank)

    parts += (b * tl.num_programs(0) + tile) * (channels + rank) * rank
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        block = load_tile(x, position, c, x_n, x_c, positions, channels)
        store_tile(parts, product_of_factor(tl.trans(block), values, NARROW), c, r, rank, channels, rank)
    square = product_of_factors(tl.trans(values), values, NARROW)
    store_tile(parts + channels * rank, square, r, r, rank, rank, rank)


@triton.jit
def sum_of_parts(parts, stride, rows, row_count, rank, tiles, AT_ONCE: tl.constexpr, BLOCK_R: tl.constexpr):
    """Rows of `tiles` matrices (row_count, rank), each `stride` after the one before, summed in a fixed order."""
    r = tl.arange(0, BLOCK_R)[None, None, :]
    inside = (rows < row_count)[None, :, None] & (r < rank)
    total = tl.zeros((rows.shape[0], BLOCK_R), tl.float32)
    for first in tl.range(0, tiles, AT_ONCE, num_stages=3):
        tile = first + tl.arange(0, AT_ONCE)[:, None, None]
        at = tile.to(tl.int64) * stride + rows[None, :, None] * rank + r
        total += tl.sum(tl.load(parts + at, mask=inside & (tile < tiles), other=0.0), 0)
    return total


@triton.jit(do_not_specialize=["tiles"])
def update_basis(
    basis, parts, channels, rank, tiles,
    AT_ONCE: tl.constexpr, SQUARES_AT_ONCE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """A block of channels of the basis, in place."""
    b = tl.program_id(1).to(tl.int64)
    basis += b * channels * rank
    c, r = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_R)
    stride = (channels + rank) * rank
    parts += b * tiles * stride
    numerator = sum_of_parts(parts, stride, c, channels, rank, tiles, AT_ONCE, BLOCK_R)
    square = sum_of_parts(parts + channels * rank, stride, r, rank, rank, tiles, SQUARES_AT_ONCE, BLOCK_R)
    values = load_tile(basis, c, r, rank, 1, channels, rank)
    values = values * numerator / (product_of_factors(values, square, NARROW) + EPS)
    store_tile(basis, values, c, r, rank, channels, rank)


@triton.jit(do_not_specialize=["positions"])
def project(
    x, x_b, x_n, x_c, code, basis, y, positions, channels, rank,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, TILE: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Y = (C / (C (D^T D) + eps) * (X D)) D^T of a tile of positions."""
    tile, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    basis += b * channels * rank
    position, r = tile * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK_R)
    projected, gram = on_basis(
        x + b * x_b, x_n, x_c, basis, position, positions, channels, rank, BLOCK_R, BLOCK_C, TILE, NARROW
    )
    values = load_tile(code + b * positions * rank, position, r, rank, 1, positions, rank)
    values = values * projected / (product_of_factors(values, gram, NARROW) + EPS)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        block = load_tile(basis, c, r, rank, 1, channels, rank)
        result = product_of_factors(values, tl.trans(block), NARROW)
        store_tile(y + b * positions * channels, result, position, c, channels, positions, channels)
