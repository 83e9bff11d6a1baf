"""Triton programs of the factorisation; `famseg.kernels.nmf` holds the mathematics."""

import triton
import triton.language as tl

from famseg.kernels.dots import (
    halves,
    product,
    product_of_factor,
    product_of_factors,
    square_of_factor,
    square_of_halves,
    whole,
    whole_square,
    width,
)

EPS = tl.constexpr(1e-6)
CHANNELS = tl.constexpr(64)  # that `project` writes at once


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
        values = load_tile(x, position, c, x_n, x_c, positions, channels)
        block = load_tile(basis, c, r, rank, 1, channels, rank)
        projected += product_of_factor(values, block, NARROW)
        gram += square_of_factor(block, NARROW)
    return projected, gram


@triton.jit
def next_code(
    code, position, projected, gram, positions, rank,
    FIRST: tl.constexpr, BLOCK_R: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """C * (X D) / (C (D^T D) + eps) of a tile of positions; FIRST: C is softmax(X D)."""
    r = tl.arange(0, BLOCK_R)
    if FIRST:
        logits = tl.where((r < rank)[None, :], projected, float("-inf"))
        weights = tl.exp(logits - tl.max(logits, 1)[:, None])
        values = weights / tl.sum(weights, 1)[:, None]
    else:
        values = load_tile(code, position, r, rank, 1, positions, rank)
    return values * projected / (product_of_factors(values, gram, NARROW) + EPS)  # zeros beyond the end: x is


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
    basis += b * channels * rank
    position, r = tile * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK_R)
    projected, gram = on_basis(x, x_n, x_c, basis, position, positions, channels, rank, BLOCK_R, BLOCK_C, TILE, NARROW)
    values = next_code(code, position, projected, gram, positions, rank, FIRST, BLOCK_R, NARROW)
    store_tile(code, values, position, r, rank, positions, rank)

    parts += (b * tl.num_programs(0) + tile) * (channels + rank) * rank
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        block = load_tile(x, position, c, x_n, x_c, positions, channels)
        store_tile(parts, product_of_factor(tl.trans(block), values, NARROW), c, r, rank, channels, rank)
    square = square_of_factor(values, NARROW)
    store_tile(parts + channels * rank, square, r, r, rank, rank, rank)


@triton.jit(do_not_specialize=["positions"])
def update_code_of_run(
    x, x_b, x_n, x_c, code, basis, parts, positions, channels, rank,
    FIRST: tl.constexpr, RUN: tl.constexpr, STAGES: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, TILE: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """`update_code` of RUN tiles, each of all channels at once: x is read once, and the tiles leave one part."""
    run, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    x += b * x_b
    code += b * positions * rank
    basis += b * channels * rank
    c, r = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_R)
    block = halves(load_tile(basis, c, r, rank, 1, channels, rank), NARROW)
    gram = whole_square(square_of_halves(block, NARROW), NARROW)
    WIDTH: tl.constexpr = width(BLOCK_R, NARROW)
    products = tl.zeros((BLOCK_C, WIDTH), tl.float32)
    square = tl.zeros((WIDTH, WIDTH), tl.float32)
    for tile in tl.range(run * RUN, tl.minimum(run * RUN + RUN, tl.cdiv(positions, TILE)), num_stages=STAGES):
        position = tile * TILE + tl.arange(0, TILE)
        pixels = load_tile(x, position, c, x_n, x_c, positions, channels)
        projected = whole(product(pixels, block, NARROW), NARROW)
        values = next_code(code, position, projected, gram, positions, rank, FIRST, BLOCK_R, NARROW)
        store_tile(code, values, position, r, rank, positions, rank)
        values = halves(values, NARROW)
        products += product(tl.trans(pixels), values, NARROW)
        square += square_of_halves(values, NARROW)
    parts += (b * tl.num_programs(0) + run) * (channels + rank) * rank
    store_tile(parts, whole(products, NARROW), c, r, rank, channels, rank)
    store_tile(parts + channels * rank, whole_square(square, NARROW), r, r, rank, rank, rank)


@triton.jit
def sum_of_parts(parts, stride, rows, row_count, rank, tiles, AT_ONCE: tl.constexpr, BLOCK_R: tl.constexpr):
    """Rows of `tiles` matrices (row_count, rank), each `stride` after the one before, summed in their order."""
    r = tl.arange(0, BLOCK_R)
    total = tl.zeros((rows.shape[0], BLOCK_R), tl.float32)
    for first in range(0, tiles, AT_ONCE):
        for i in tl.static_range(AT_ONCE):
            there = tl.where(first + i < tiles, row_count, 0)
            total += load_tile(parts, rows, r, rank, 1, there, rank)
            parts += stride
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
    values = load_tile(basis, c, r, rank, 1, channels, rank)
    stride = (channels + rank) * rank
    parts += b * tiles * stride
    numerator = sum_of_parts(parts, stride, c, channels, rank, tiles, AT_ONCE, BLOCK_R)
    square = sum_of_parts(parts + channels * rank, stride, r, rank, rank, tiles, SQUARES_AT_ONCE, BLOCK_R)
    values = values * numerator / (product_of_factors(values, square, NARROW) + EPS)
    store_tile(basis, values, c, r, rank, channels, rank)


@triton.jit(do_not_specialize=["positions"])
def project(
    x, x_b, x_n, x_c, mask, mask_b, mask_n, mask_c, code, basis, y, positions, channels, rank,
    MASKED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, TILE: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Y = (C / (C (D^T D) + eps) * (X D)) D^T of a tile of positions; MASKED: zero where `mask` is not positive."""
    tile, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    basis += b * channels * rank
    mask += b * mask_b
    position, r = tile * TILE + tl.arange(0, TILE), tl.arange(0, BLOCK_R)
    projected, gram = on_basis(
        x + b * x_b, x_n, x_c, basis, position, positions, channels, rank, BLOCK_R, BLOCK_C, TILE, NARROW
    )
    values = next_code(code + b * positions * rank, position, projected, gram, positions, rank, False, BLOCK_R, NARROW)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        block = load_tile(basis, c, r, rank, 1, channels, rank)
        result = product_of_factors(values, tl.trans(block), NARROW)
        if MASKED:
            result = tl.where(load_tile(mask, position, c, mask_n, mask_c, positions, channels) > 0, result, 0.0)
        store_tile(y + b * positions * channels, result, position, c, channels, positions, channels)
