"""Augmentation of one pair at a time by albumentations, in the loader's processes."""

import os
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from famseg.data.augment.draw import GAIN_KNOBS, Draw
from famseg.data.augment.ultrasound import degrade, speckle
from famseg.data.source import Pixels

NEUTRAL = Draw()


def augment_pair(image: Pixels, mask: Pixels, draw: Draw) -> tuple[Pixels, Pixels]:
    """Change a pair as a draw says.

    Args:
        image: uint8 (H, W).
        mask: uint8 (H, W), small class numbers.
        draw: Floats.

    Returns:
        The changed pair, of the same shapes; what moves in from outside is 0.
    """
    changed = _gain_and_shape(image, draw)
    changed, mask = _move(changed, mask, draw)
    return _photometric(changed, draw), mask


def _gain_and_shape(image: Pixels, draw: Draw) -> Pixels:
    if draw[:GAIN_KNOBS] == NEUTRAL[:GAIN_KNOBS] and not (draw.attenuation or draw.shadow or draw.sector):
        return image
    return _with_torch(degrade, image, draw)


def _move(image: Pixels, mask: Pixels, draw: Draw) -> tuple[Pixels, Pixels]:
    if draw.flip:
        image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    if (draw.angle, draw.scale, draw.shift_x, draw.shift_y) == (0, 1, 0, 0):
        return image, mask
    # Maps of each class moved with interpolation and compared: a warped label's border does not step.
    maps = (mask[..., None] == np.arange(mask.max() + 1)).astype(np.float32)
    how = {"matrix": _forwards(draw, *image.shape), "output_shape": image.shape}
    affine = _albumentations().affine
    moved = affine.apply_to_mask(maps, **how).reshape(*mask.shape, -1)
    return affine.apply(image, **how), moved.argmax(axis=-1).astype(np.uint8)


def _forwards(draw: Draw, height: int, width: int) -> NDArray[np.float64]:
    """From input to output pixels, (3, 3): about the centre, then shifted."""
    x, y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = draw.scale * np.cos(np.deg2rad(draw.angle)), draw.scale * np.sin(np.deg2rad(draw.angle))
    right, down = x + draw.shift_x * width, y + draw.shift_y * height
    return np.array(
        [
            [cosine, sine, right - cosine * x - sine * y],
            [-sine, cosine, down + sine * x - cosine * y],
            [0, 0, 1],
        ]
    )


def _photometric(image: Pixels, draw: Draw) -> Pixels:
    library = _albumentations()
    out: Any = image[..., None]
    if draw.gamma != 1:
        out = library.gamma.apply(out, gamma=draw.gamma)
    if draw.contrast != 1 or draw.brightness != 0:
        out = library.levels.apply(out, alpha=draw.contrast, beta=255 * draw.brightness)
    if draw.speckle:
        out = _with_torch(speckle, out.reshape(image.shape), draw)[..., None]
    if int(3.5 * draw.blur):
        kernel = np.exp(-0.5 * (np.arange(-int(3.5 * draw.blur), int(3.5 * draw.blur) + 1) / draw.blur) ** 2)
        out = library.blur.apply(out, kernel=kernel / kernel.sum())
    return np.asarray(out, np.uint8).reshape(image.shape)


def _with_torch(change: Any, image: Pixels, draw: Draw) -> Pixels:
    """A change that the batches make too, of one image."""
    grey = torch.from_numpy(image)[None, None].float()
    one = Draw.batch(torch.tensor([draw], dtype=torch.float32))
    return change(grey, one)[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()  # type: ignore[no-any-return]


@cache
def _albumentations() -> SimpleNamespace:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the package index on import
    import albumentations as A  # seconds to import, and only training needs it

    return SimpleNamespace(
        affine=A.Affine(mask_interpolation=cv2.INTER_LINEAR),
        gamma=A.RandomGamma(),
        levels=A.RandomBrightnessContrast(),
        blur=A.GaussianBlur(),
    )
