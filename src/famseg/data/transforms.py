"""Letterbox with its exact inverse, and the training augmentation."""

import os
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from torch.nn import functional

from famseg.data.source import Pixels


@dataclass(frozen=True)
class Letterbox:
    """Resize without distortion and pad with zeros to one size, and the way back.

    Attributes:
        size: Height and width of the output, px.
    """

    size: tuple[int, int]

    def area(self, original: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the output that an image of `original` (height, width) fills; the rest is padding."""
        scale = min(self.size[0] / original[0], self.size[1] / original[1])
        resized = [max(1, round(side * scale)) for side in original]
        top, left = ((outer - inner) // 2 for outer, inner in zip(self.size, resized, strict=True))
        return slice(top, top + resized[0]), slice(left, left + resized[1])

    def apply(self, image: Pixels) -> Pixels:
        """uint8 (h, w) -> uint8 `size`; area averages on the way down, linear on the way up."""
        rows, columns = self.area((image.shape[0], image.shape[1]))
        out = np.zeros(self.size, np.uint8)
        out[rows, columns] = _resize(image, rows, columns)
        return out

    def apply_mask(self, mask: Pixels) -> Pixels:
        """Class ids uint8 (h, w) -> `size`, padded with 0.

        Each class is resized as a map of its own and the largest wins, so that borders follow the area of a class
        instead of jumping by whole pixels as in nearest-neighbour resizing.
        """
        rows, columns = self.area((mask.shape[0], mask.shape[1]))
        ids = np.flatnonzero(np.bincount(mask.ravel()))  # much faster than `unique`
        maps = [_resize((mask == number).astype(np.float32), rows, columns) for number in ids]
        out = np.zeros(self.size, np.uint8)
        out[rows, columns] = ids[np.argmax(maps, axis=0)]
        return out

    def restore(self, logits: Tensor, original: tuple[int, int]) -> Tensor:
        """Undo `apply` on logits, which unlike labels may be interpolated.

        Args:
            logits: (B, classes, H, W) at `size`.
            original: Height and width of the image before `apply`.

        Returns:
            (B, classes, height, width).
        """
        rows, columns = self.area(original)
        return functional.interpolate(logits[..., rows, columns], original, mode="bilinear", align_corners=False)


def _resize(values: Any, rows: slice, columns: slice) -> Any:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    shrinks = height * width < values.shape[0] * values.shape[1]
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Augmentation:
    """Random changes that an ultrasound picture could have had; image and mask move together.

    Every draw follows from the seed that is handed in, so that a sample's augmentation does not depend on the worker,
    the process or what was drawn before. A strength of 0 (or a probability of 0) turns a change off.

    Attributes:
        flip: Probability of a left-right flip.
        rotate: Largest rotation, degrees.
        scale: Largest relative change of size.
        shift: Largest shift, as a fraction of the side.
        geometric: Probability of rotation, scale and shift.
        gamma: Largest change of the exponent, percent.
        brightness: Largest change, as a fraction of the full range.
        contrast: Largest relative change.
        speckle: Largest relative change of single pixels (multiplicative noise).
        blur: Largest sigma, px.
        photometric: Probability of each change of brightness, contrast and gamma; half as likely: speckle, blur.
    """

    flip: float = 0.5
    rotate: float = 20.0
    scale: float = 0.2
    shift: float = 0.1
    geometric: float = 0.8
    gamma: float = 30.0
    brightness: float = 0.1
    contrast: float = 0.2
    speckle: float = 0.15
    blur: float = 1.0
    photometric: float = 0.5

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Change a pair.

        Args:
            image: uint8 (H, W).
            mask: uint8 (H, W), small class numbers.
            seed: Everything that is drawn follows from it.

        Returns:
            The changed pair, of the same shapes; what moves in from outside is 0.
        """
        # One stream shared by all transforms: with `set_random_seed` each would draw the same numbers as the others.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        # Maps of each class moved with interpolation and compared: a warped label's border does not step.
        maps = (mask[..., None] == np.arange(mask.max() + 1)).astype(np.float32)
        out = self._pipeline(image=image[..., None], mask=maps)
        return out["image"][..., 0], out["mask"].argmax(axis=-1).astype(np.uint8)

    @cached_property
    def _pipeline(self) -> Any:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the package index on import
        import albumentations as A  # seconds to import, and only training needs it

        affine = A.Affine(
            rotate=(-self.rotate, self.rotate),
            scale=(1 - self.scale, 1 + self.scale),
            translate_percent=(-self.shift, self.shift),
            keep_ratio=True,  # a head must not be squashed
            mask_interpolation=cv2.INTER_LINEAR,
            p=self.geometric,
        )
        often, seldom = self.photometric, self.photometric / 2
        return A.Compose([
            A.HorizontalFlip(p=self.flip),
            affine,
            A.RandomGamma((100 - self.gamma, 100 + self.gamma), p=often),
            A.RandomBrightnessContrast(self.brightness, self.contrast, p=often),
            A.MultiplicativeNoise((1 - self.speckle, 1 + self.speckle), elementwise=True, p=seldom),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0, self.blur), p=seldom if self.blur else 0),
        ])  # fmt: skip
