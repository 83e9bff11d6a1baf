"""Augmentation in batches, in torch: on a GPU, or wherever the tensors lie."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from famseg.data.augment.draw import Draw
from famseg.data.augment.ultrasound import degrade, speckle


def augment_batch(
    images: Tensor, masks: Tensor, draw: Draw, classes: int, largest_blur: float, ultrasound: bool
) -> tuple[Tensor, Tensor]:
    """Change pairs as `albumented.augment_pair` does, without rounding to whole grey levels in between.

    Args:
        images: uint8 (B, H, W).
        masks: uint8 (B, H, W), below `classes`.
        draw: Tensors (B,).
        classes: Number of classes.
        largest_blur: No blur in `draw` is larger.
        ultrasound: Whether gain, attenuation, shadow or sector may occur in `draw`.

    Returns:
        Images float32 (B, 1, H, W), 0 to 255, and masks int64 (B, H, W).
    """
    grey = images[:, None].float()
    if ultrasound:
        grey = degrade(grey, draw)
    grey, labels = _move(grey, masks, draw, classes)
    one = Draw(*(value.view(-1, 1, 1, 1) for value in draw))
    grey = 255 * (grey / 255).pow(one.gamma)
    grey = (grey * one.contrast + 255 * one.brightness).clamp(0, 255)
    grey = speckle(grey, draw).clamp(0, 255)
    return _blur(grey, draw.blur, largest_blur), labels


def _move(grey: Tensor, masks: Tensor, draw: Draw, classes: int) -> tuple[Tensor, Tensor]:
    """Flip, rotation, scale and shift in one interpolation of the image and of a map of each class.

    The largest map wins, so that a border does not step.
    """
    ids = torch.arange(classes, dtype=masks.dtype, device=masks.device).view(1, -1, 1, 1)
    maps = torch.cat([grey, (masks[:, None] == ids).float()], dim=1)
    grid = F.affine_grid(_backwards(draw, *grey.shape[-2:]), list(maps.shape), align_corners=False)
    moved = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved[:, :1], moved[:, 1:].argmax(1)


def _backwards(draw: Draw, height: int, width: int) -> Tensor:
    """From output to input coordinates, -1 to 1 from border to border: (B, 2, 3)."""
    radians = draw.angle * (math.pi / 180)
    cosine, sine = radians.cos() / draw.scale, radians.sin() / draw.scale
    x, y = 2 * draw.shift_x, 2 * draw.shift_y
    aspect = height / width
    mirror = 1 - 2 * draw.flip
    to_x = torch.stack([cosine, -sine * aspect, -(cosine * x - sine * aspect * y)], dim=1)
    to_y = torch.stack([sine / aspect, cosine, -(sine / aspect * x + cosine * y)], dim=1)
    return torch.stack([to_x * mirror[:, None], to_y], dim=1)


def _blur(grey: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur of (B, 1, H, W), each image with its own sigma, cut off at 3.5 sigma."""
    radius = int(3.5 * largest)
    if radius == 0:
        return grey
    at = torch.arange(-radius, radius + 1, device=grey.device)
    weights = torch.exp(-0.5 * (at / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights * (at.abs() <= (3.5 * sigma[:, None]).floor())
    weights = (weights / weights.sum(1, keepdim=True))[:, None]  # (B, 1, taps)
    padded = F.pad(grey, [radius] * 4, mode="reflect").transpose(0, 1)  # (1, B, ...): one group for each image
    rows = F.conv2d(padded, weights[..., None, :], groups=len(grey))
    return F.conv2d(rows, weights[..., None], groups=len(grey)).transpose(0, 1)
