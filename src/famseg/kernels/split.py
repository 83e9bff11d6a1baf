"""A channels-last map split into views of its channels, whose gradients are joined in one pass.

Autograd's own way is `cat`, which takes several times as long as its bytes where the parts are narrow.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from famseg.kernels.launch import start
from famseg.kernels.rows import rows_at, rows_of
from famseg.kernels.tiles import channels_last


@triton.jit(do_not_specialize=["N"])
def join_kernel(whole, parts, widths, N, C, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr):
    """N pixels of C channels: those of each part, of its width, behind each other, then zeros."""
    begin = tl.program_id(1) * BLOCK_C
    value = tl.zeros((ROWS, BLOCK_C), whole.dtype.element_ty)
    first = begin  # of this block's channels, counted from the part's first
    for i in tl.static_range(len(parts)):
        if (first < widths[i]) & (first + BLOCK_C > 0):
            c = first + tl.arange(0, BLOCK_C)
            at, there = rows_at(tl.program_id(0), N, widths[i], c, ROWS, False)
            mask = there & (c >= 0)[None, :]
            value = tl.where(mask, tl.load(parts[i] + at, mask=mask, other=0.0), value)
        first -= widths[i]
    at, mask = rows_at(tl.program_id(0), N, C, begin + tl.arange(0, BLOCK_C), ROWS, EVEN)
    tl.store(whole + at, value, mask=mask)


def split(x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """The first channels of x (B, C, H, W) as views (B, H, W, width); what is left of C is left out."""
    x = channels_last(x)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return _views(x, widths)  # torch.compile's backward graph has a cat to fuse
    parts: tuple[Tensor, ...] = _Split.apply(x, widths)
    return parts


def _views(x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.split(x.permute(0, 2, 3, 1), [*widths, x.shape[1] - sum(widths)], dim=-1)[:-1]


class _Split(torch.autograd.Function):
    """A custom op may not return views of its input."""

    @staticmethod
    def forward(x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
        return _views(x, widths)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.channels = inputs[0].shape[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _joined(gradients, ctx.channels).permute(0, 3, 1, 2), None


def _joined(parts: Sequence[Tensor], channels: int) -> Tensor:
    whole = parts[0].new_empty(*parts[0].shape[:-1], channels)
    rows = rows_of(whole.permute(0, 3, 1, 2))
    dense, widths = tuple(part.contiguous() for part in parts), tuple(part.shape[-1] for part in parts)
    start(join_kernel, rows.tiles, whole, dense, widths, rows.number, channels, **rows.arguments)
    return whole
