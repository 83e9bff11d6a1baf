"""What every network here asks of its images, and how it takes those of any size."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from famseg.errors import UserError

STRIDE = 32  # of the deepest map of every network here; images are padded to a multiple of it


def padded(image: Tensor, in_channels: int) -> Tensor:
    """Repeat the border of images (B, in_channels, H, W) below and on the right, up to multiples of 32.

    Raises:
        UserError: images of other channels or smaller than 32 px.
    """
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise UserError(
            f"The network takes images of shape (batch, {in_channels}, height, width), not "
            f"{tuple(image.shape)}. Set model.in_channels or convert the images."
        )
    height, width = image.shape[-2:]
    if height < STRIDE or width < STRIDE:
        raise UserError(f"An image of {height} x {width} px is too small: it needs {STRIDE} x {STRIDE} at least.")
    # Written so that torch.export can follow the sizes through the strides, as it cannot with -side % STRIDE.
    below, right = ((side + STRIDE - 1) // STRIDE * STRIDE - side for side in (height, width))
    if not _follows_sizes() and below == right == 0:
        return image  # to pad by nothing would be to copy
    return F.pad(image, (0, right, 0, below), mode="replicate")


def _follows_sizes() -> bool:
    """Whether a compiler or exporter records what happens to images of any size."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def cropped(logits: Tensor, image: Tensor) -> Tensor:
    """Take the padding away again: logits (B, classes, >= H, >= W) of images (B, C, H, W) -> (B, classes, H, W)."""
    height, width = image.shape[-2:]
    return logits[..., :height, :width]


def require_batch(image: Tensor, name: str) -> None:
    """Refuse to train a network with a batch norm of globally pooled maps on one image: it has no variance.

    Raises:
        UserError: a batch of one; `name` is the network's in the message.
    """
    if len(image) == 1 and not torch.distributed.is_initialized():
        raise UserError(f"{name} normalises over the batch and cannot train on one image at a time: data.batch_size=2.")
