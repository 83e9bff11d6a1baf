"""The factorisation of the Hamburger: two launches a step, one for the last update and one for its gradient.

Per image X (N positions, channels) ~ C D^T with code C (N, r) and basis D (channels, r), all non-negative. The plain
twin is `famseg.layers.hamburger.NMF`.

  start:  C = softmax(X D) over r
  a step: C <- C * (X D) / (C (D^T D) + eps)      one program a tile of positions, or a run of tiles; it also leaves
                                                  their part of X^T C and of C^T C
          D <- D * (X^T C) / (D (C^T C) + eps)    one program a block of channels; adds the parts in their order
  last:   Y = (K * (X D)) D^T,  K = C / (C (D^T D) + eps),  with C and D constants (the one-step gradient)

Y is linear in X, and the map is its own transpose: dX = (K * (dY D)) D^T, the same program. X is what a ReLU gave: dX
is zero where X is, so that it is already the gradient of the ReLU's argument.

Precision: factors, quotients and sums are float32. X stays in its dtype; where that is bf16, a float32 operand of a
product enters as the sum of two bf16 numbers, 16 bits of mantissa. A float32 X is multiplied in float32, without tf32.
Tiles and runs depend on nothing but channels, rank and dtype: an image's result does not depend on its batch.
"""

from typing import Any

import torch
from torch import Tensor

TILE = 64  # positions of a program
CHANNELS = 64  # channels that it takes at once, where it does not hold all
MOST, MOST_RANK = 256, 16  # channels and rank of a bf16 map whose tiles a program holds whole
SHARED = 112 * 1024  # bytes that a GPU must be able to lend such a program: 96 KiB, and a margin
RUN = 4  # such tiles of a program that updates the code
STAGES = 2  # of them in its memory, so that two programs share a processor: one loads while the other one works
BASIS_CHANNELS = 16  # channels of a program that updates the basis
PARTS = 4096  # numbers of the parts that it loads at once: it waits for memory once if it has the registers
REGISTERS = 128
WARPS = 4
WIDEST = 128  # of ranks: what the blocks of a program hold


def fits(rank: int) -> bool:
    """Whether the programs hold factors of this rank."""
    return rank <= WIDEST


def factorise(x: Tensor, basis: Tensor, steps: int) -> Tensor:
    """Non-negative x (B, N, channels), any strides, and the first basis (channels, rank) -> the same as x, low rank.

    Its gradient is already that of the numbers that a ReLU made x of.
    """
    code, basis = factors(x.detach(), basis.float(), steps)
    result: Tensor = project(x, code, basis)
    return result


@torch.library.custom_op("famseg::nmf_factors", mutates_args=())
def factors(x: Tensor, basis: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """-> code (B, N, rank), basis (B, channels, rank) after `steps` steps, float32, without gradient."""
    from famseg.kernels import nmf_programs as programs
    from famseg.kernels.launch import start

    code, result = _empty_factors(x, basis)
    batch, positions, channels = x.shape
    rank = basis.shape[1]
    sizes, constants = (positions, channels, rank), _constants(x, rank)
    whole = _holds(x, rank)
    kernel = programs.update_code_of_run if whole else programs.update_code
    run = {"RUN": RUN, "STAGES": STAGES} if whole else {}
    runs = _tiles(positions, TILE * run.get("RUN", 1))
    block = constants["BLOCK_R"]
    parts = x.new_empty(batch, runs, channels + rank, rank, dtype=torch.float32)  # of X^T C, and C^T C below it
    result.copy_(basis.expand_as(result))
    for step in range(steps):
        start(
            kernel, (runs, batch),
            x, *x.stride(), code, result, parts, *sizes,
            FIRST=step == 0, TILE=TILE, BLOCK_C=_width(channels, whole), num_warps=WARPS, **run, **constants,
        )  # fmt: skip
        start(
            programs.update_basis, (_tiles(channels, BASIS_CHANNELS), batch),
            result, parts, channels, rank, runs,
            AT_ONCE=_at_once(BASIS_CHANNELS, block), SQUARES_AT_ONCE=_at_once(block, block),
            BLOCK_C=BASIS_CHANNELS, num_warps=WARPS, maxnreg=REGISTERS, **constants,
        )  # fmt: skip
    return code, result


@factors.register_fake
def _(x: Tensor, basis: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    return _empty_factors(x, basis)


@torch.library.custom_op("famseg::nmf_project", mutates_args=())
def project(x: Tensor, code: Tensor, basis: Tensor) -> Tensor:
    """The last update of the code times the basis, (B, N, channels); its gradient goes to x alone."""
    return _project(x, None, code, basis)


@torch.library.custom_op("famseg::nmf_project_backward", mutates_args=())
def project_backward(dy: Tensor, x: Tensor, code: Tensor, basis: Tensor) -> Tensor:
    """The gradient of x: zero where x is."""
    return _project(dy, x, code, basis)


def _project(x: Tensor, mask: Tensor | None, code: Tensor, basis: Tensor) -> Tensor:
    from famseg.kernels import nmf_programs as programs
    from famseg.kernels.launch import start

    y = x.new_empty(x.shape)
    batch, positions, channels = x.shape
    rank, other = basis.shape[2], x if mask is None else mask
    whole = _holds(x, rank)
    start(
        programs.project, (_tiles(positions, TILE), batch),
        x, *x.stride(), other, *other.stride(), code, basis, y, positions, channels, rank,
        MASKED=mask is not None, TILE=TILE, BLOCK_C=_width(channels, whole), num_warps=WARPS,
        num_stages=1 if whole else 3, **_constants(x, rank),
    )  # fmt: skip
    return y


@project.register_fake
def _(x: Tensor, code: Tensor, basis: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@project_backward.register_fake
def _(dy: Tensor, x: Tensor, code: Tensor, basis: Tensor) -> Tensor:
    return dy.new_empty(dy.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    return project_backward(dy, *ctx.saved_tensors), None, None


project.register_autograd(_backward, setup_context=_setup_context)


def _empty_factors(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    code = x.new_empty(*x.shape[:2], basis.shape[1], dtype=torch.float32)
    return code, x.new_empty(x.shape[0], *basis.shape, dtype=torch.float32)


def _tiles(length: int, tile: int) -> int:
    return (length + tile - 1) // tile


def _holds(x: Tensor, rank: int) -> bool:
    """Whether a program has registers and shared memory for tiles of all channels, and sums of so many."""
    from famseg.kernels.tiles import lends  # not without Triton

    return x.dtype == torch.bfloat16 and x.shape[2] <= MOST and rank <= MOST_RANK and lends(x.device, SHARED)


def _width(channels: int, whole: bool) -> int:
    """Channels that a program takes at once."""
    return _block(channels) if whole else CHANNELS


def _block(length: int) -> int:
    return max(16, 1 << (length - 1).bit_length())


def _at_once(rows: int, columns: int) -> int:
    return max(1, PARTS // (rows * columns))


def _constants(x: Tensor, rank: int) -> dict[str, Any]:
    return {"BLOCK_R": _block(rank), "NARROW": x.dtype == torch.bfloat16}
