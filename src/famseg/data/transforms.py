"""Letterbox with its exact inverse, and the training augmentation."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from famseg.data.augment.albumented import augment_pair
from famseg.data.augment.batches import augment_batch
from famseg.data.augment.draw import GAIN_KNOBS, Dice, Draw
from famseg.data.source import Pixels
from famseg.errors import UserError


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


_SHARES = (
    "flip",
    "geometric",
    "photometric",
    "ultrasound",
    "scale",
    "shift",
    "brightness",
    "contrast",
    "speckle",
    "sector",
)
_AT_MOST = dict.fromkeys(_SHARES, 1) | {"gamma": 100, "rotate": 180}


@dataclass(frozen=True)
class Augmentation:
    """Random changes that an ultrasound picture could have had; image and mask move together.

    Every draw follows from the seed that is handed in, so that a sample's augmentation does not depend on the worker,
    the process, the device or what was drawn before. A strength of 0 (or a probability of 0) turns a change off.
    docs/augmentation.md shows each change.

    Attributes:
        engine: Where a run makes the changes: "albumentations", one by one in the loader; "gpu", in batches on the
            device of the network; "auto", there if it is a GPU.
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
        ultrasound: Probability of each of the four that follow.
        attenuation: Largest loss at the bottom of the picture, dB.
        gain: Largest change by a knob of the gain curve, dB.
        shadow: Largest loss behind a reflector, dB.
        sector: Largest part of the opening that a narrower sector lacks; the label stays whole, as HC18's outlines do.
    """

    engine: str = "auto"
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
    ultrasound: float = 0.0
    attenuation: float = 12.0
    gain: float = 6.0
    shadow: float = 25.0
    sector: float = 0.35

    def __post_init__(self) -> None:
        """Refuse what no picture could have.

        Raises:
            UserError: an unknown engine, or a number out of its range.
        """
        if self.engine not in ("auto", "albumentations", "gpu"):
            raise UserError(f"data.augment.engine={self.engine}: give auto, albumentations or gpu.")
        for key, value in vars(self).items():
            most = _AT_MOST.get(key, math.inf)
            if key != "engine" and not 0 <= value <= most:
                raise UserError(f"data.augment.{key}={value}: give a number from 0{f' to {most}' * (most < math.inf)}.")

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Change a pair with albumentations.

        Args:
            image: uint8 (H, W).
            mask: uint8 (H, W), small class numbers.
            seed: Everything that is drawn follows from it.

        Returns:
            The changed pair, of the same shapes; what moves in from outside is 0.
        """
        return augment_pair(image, mask, Draw(*self.draw(seed).tolist()))

    def batch(self, images: Tensor, masks: Tensor, draws: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Change pairs where they lie; but for rounding to grey levels, as `__call__` does.

        Args:
            images: uint8 (B, H, W).
            masks: uint8 (B, H, W), below `classes`.
            draws: float32 (B, parameters), rows of `draw`.
            classes: Number of classes.

        Returns:
            Images float32 (B, 1, H, W), 0 to 255, and masks int64 (B, H, W).
        """
        return augment_batch(images, masks, Draw.batch(draws), classes, self.blur, self.ultrasound > 0)

    def draw(self, seed: int) -> NDArray[np.float32]:
        """The values of a `Draw` that follow from a seed."""
        dice = Dice(seed)
        return np.array([*self._scanner(dice), *self._geometry(dice), *self._photometry(dice)], np.float32)

    def _scanner(self, dice: Dice) -> list[float]:
        often = self.ultrasound
        gain = _some(dice.chance(often), [dice.between(-self.gain, self.gain) for _ in range(GAIN_KNOBS)])
        attenuation = _some(dice.chance(often), [dice.between(0, self.attenuation)])
        shadow = _some(dice.chance(often), [dice.between(self.shadow / 3, self.shadow)])
        shape = [dice.between(-0.8, 0.8), dice.between(0.04, 0.16), dice.between(0.1, 0.6)]
        sector = _some(dice.chance(often), [dice.between(0, self.sector)])
        return [*gain, *attenuation, *shadow, *shape, *sector, dice.between(-1, 1)]

    def _geometry(self, dice: Dice) -> list[float]:
        flip, moved = dice.chance(self.flip), dice.chance(self.geometric)
        angle = dice.between(-self.rotate, self.rotate)
        scale = dice.between(-self.scale, self.scale)
        right, down = dice.between(-self.shift, self.shift), dice.between(-self.shift, self.shift)
        angle, scale, right, down = _some(moved, [angle, scale, right, down])
        return [flip, angle, 1 + scale, right, down]

    def _photometry(self, dice: Dice) -> list[float]:
        often, seldom = self.photometric, self.photometric / 2
        (gamma,) = _some(dice.chance(often), [dice.between(-self.gamma, self.gamma)])
        levels = [dice.between(-self.contrast, self.contrast), dice.between(-self.brightness, self.brightness)]
        contrast, brightness = _some(dice.chance(often), levels)
        (speckle,) = _some(dice.chance(seldom), [self.speckle])
        seed = float(int(dice.between(0, 2**24)))
        (blur,) = _some(dice.chance(seldom), [dice.between(0, self.blur)])
        return [1 + gamma / 100, 1 + contrast, brightness, speckle, seed, blur]


def _some(happens: bool, values: list[float]) -> list[float]:
    """The values, or zeros: no change."""
    return values if happens else [0.0] * len(values)
