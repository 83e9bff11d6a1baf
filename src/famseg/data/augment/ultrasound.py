"""Changes that a scanner makes: depth attenuation, gain curve, acoustic shadow, sector, speckle.

A B-mode picture shows the logarithm of the echo, so that a loss of so many dB takes as many grey levels away
everywhere. What is black stays black.
"""

import torch
from torch import Tensor

from famseg.data.augment.draw import GAIN_KNOBS, Draw

RANGE_DB = 60.0  # between black and white
APEX = -0.5  # where the beams of the probe meet, in heights below the upper edge
BLACK = 16.0  # grey levels below this one follow a gain in part only


def degrade(image: Tensor, draw: Draw) -> Tensor:
    """Gain curve, attenuation, shadow and sector.

    Args:
        image: (B, 1, H, W), 0 to 255.
        draw: Tensors (B,).

    Returns:
        (B, 1, H, W), 0 to 255.
    """
    height, width = image.shape[-2:]
    depth, angle, radius = _beams(height, width, image.device)
    column = [_column(value) for value in draw]
    one = Draw(*column)  # (B, 1, 1, 1)
    decibels = _gain(one, depth) - one.attenuation * depth - _shadow(one, depth, angle)
    lit = (image / BLACK).clamp(max=1)
    image = (image + 255 / RANGE_DB * decibels * lit).clamp(0, 255)
    return image * _sector(one, angle, radius, height)


def speckle(image: Tensor, draw: Draw) -> Tensor:
    """Multiply every pixel (B, 1, H, W) by 1 + u, u uniform within the draw's `speckle`."""
    height, width = image.shape[-2:]
    key = _hash(draw.speckle_seed.long())[:, None]  # (B, 1)
    pixel = torch.arange(height * width, device=image.device)
    words = _hash(pixel * 0x9E3779B1 + key)  # (B, H * W)
    noise = (words >> 8).float() * 2.0**-23 - 1  # -1 to 1
    return image * (1 + _column(draw.speckle) * noise.view(-1, 1, height, width))


def _column(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def _beams(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (H, 1), 0 to 1; direction (H, W), -1 and 1 at the sides at half depth; distance (H, W) from the apex."""
    depth = ((torch.arange(height, device=device) + 0.5) / height)[:, None]
    across = (torch.arange(width, device=device) + 0.5 - width / 2) / height  # in heights
    half_opening = torch.atan2(torch.tensor(width / 2 / height), torch.tensor(0.5 - APEX)).item()
    angle = torch.atan2(across.expand(height, -1), depth - APEX) / half_opening
    return depth, angle, torch.hypot(across, depth - APEX)


def _gain(draw: Draw, depth: Tensor) -> Tensor:
    """Of the curve, in dB (B, 1, H, 1): a line from knob to knob."""
    knobs = torch.cat([draw.gain_0, draw.gain_1, draw.gain_2, draw.gain_3, draw.gain_4], dim=1)  # (B, knobs, 1, 1)
    number = torch.arange(GAIN_KNOBS, device=depth.device).view(-1, 1, 1)
    near = (1 - (depth * (GAIN_KNOBS - 1) - number).abs()).clamp(min=0)  # (knobs, H, 1)
    return (knobs * near).sum(1, keepdim=True)


def _shadow(draw: Draw, depth: Tensor, angle: Tensor) -> Tensor:
    """Loss in dB (B, 1, H, W) behind a reflector, with soft sides."""
    beside = (angle - draw.shadow_at).abs()
    inside = torch.sigmoid((draw.shadow_width - beside) / (0.15 * draw.shadow_width))
    loss: Tensor = draw.shadow * inside
    return loss * torch.sigmoid((depth - draw.shadow_from) / 0.015)


def _sector(draw: Draw, angle: Tensor, radius: Tensor, height: int) -> Tensor:
    """1 inside of the sector that is left, 0 outside, (B, 1, H, W), with a border of one pixel."""
    sides = 1 - draw.sector - (angle - draw.sector_at * draw.sector).abs()
    floor = 1 - APEX - radius
    inside = (sides * radius * height + 0.5).clamp(0, 1) * (floor * height + 0.5).clamp(0, 1)
    return torch.where(draw.sector > 0, inside, 1.0)


def _hash(words: Tensor) -> Tensor:
    """Mixes the lower 32 bits of whole numbers (a multiply-xorshift hash): the same on every device."""
    words = words & 0xFFFFFFFF
    words = ((words ^ (words >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    words = ((words ^ (words >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return words ^ (words >> 16)
