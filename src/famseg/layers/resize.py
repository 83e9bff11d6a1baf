"""Bilinear resizing that stays fast where a gradient must be the same in every run."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from famseg.kernels import use_triton


def stacked(maps: Sequence[Tensor], backend: str) -> Tensor:
    """Maps behind each other along their channels, each resized to the first one's size.

    Args:
        maps: (B, C_i, H_i, W_i).
        backend: "auto", "torch" or "triton", see `famseg.kernels`.

    Returns:
        (B, sum of C_i, H_0, W_0).
    """
    if use_triton(backend, maps[0]):
        from famseg.kernels.stack import stack  # Triton is imported where it runs

        return stack(maps)
    size = maps[0].shape[-2:]
    return torch.cat([x if x.shape[-2:] == size else resize(x, size) for x in maps], dim=1)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resizing of maps, pixel centres kept in place: (B, C, H, W) -> (B, C, *size).

    On a GPU that must be deterministic, two matrix products. There PyTorch gathers each pixel's four neighbours one map
    after the other, and has their gradients sorted by where they belong.
    """
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return multiplied(x, size)
    return F.interpolate(x, size, mode="bilinear")


def multiplied(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same as products with one matrix of weights for the rows and one for the columns."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rows, columns = (_weights(before, after, wide) for before, after in zip(x.shape[-2:], size, strict=True))
    with torch.autocast(x.device.type, enabled=False):
        y = rows @ wide @ columns.mT
    last = x.is_contiguous(memory_format=torch.channels_last)
    return y.to(x.dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


@torch.no_grad()
def _weights(before: int, after: int, like: Tensor) -> Tensor:
    """(after, before): what each pixel of a line is made of, which is what becomes of the unit vectors."""
    units = torch.eye(before, dtype=like.dtype, device=like.device)
    return F.interpolate(units[None], after, mode="linear")[0].mT
