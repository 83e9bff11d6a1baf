"""What an augmentation draws for one sample: plain numbers that follow from a seed, whoever applies them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

Number = Any  # a float of one sample, or a tensor (B,) of many

GAIN_KNOBS = 5  # of the gain curve, spread evenly over the depth


class Draw(NamedTuple):
    """Parameters of one sample's changes, in the order in which these are made; the defaults change nothing.

    Attributes:
        gain_0: Gain at the probe, dB, and at `GAIN_KNOBS` evenly spaced depths in all, linear in between.
        attenuation: Loss at the bottom of the picture, dB, linear in depth.
        shadow: Loss behind a reflector, dB.
        shadow_at: Its direction, -1 to 1 over the opening of the probe.
        shadow_width: Half of its width, in the same unit.
        shadow_from: Depth where it begins, as a fraction of the height.
        sector: Part of the opening that is cut away; 0: the picture is not cut.
        sector_at: Where the cut sector points to, -1 to 1 of what was cut away.
        flip: 1 for a left-right flip.
        angle: Rotation, degrees, anticlockwise as seen.
        scale: Factor of size.
        shift_x: Shift to the right, as a fraction of the width.
        shift_y: Shift down, as a fraction of the height.
        gamma: Exponent.
        contrast: Factor of grey levels.
        brightness: Added, as a fraction of the full range.
        speckle: Largest relative change of single pixels.
        speckle_seed: Of these changes: a whole number below 2**24, so that a float32 holds it.
        blur: Sigma, px; 0: none.
    """

    gain_0: Number = 0.0
    gain_1: Number = 0.0
    gain_2: Number = 0.0
    gain_3: Number = 0.0
    gain_4: Number = 0.0
    attenuation: Number = 0.0
    shadow: Number = 0.0
    shadow_at: Number = 0.0
    shadow_width: Number = 0.1
    shadow_from: Number = 0.0
    sector: Number = 0.0
    sector_at: Number = 0.0
    flip: Number = 0.0
    angle: Number = 0.0
    scale: Number = 1.0
    shift_x: Number = 0.0
    shift_y: Number = 0.0
    gamma: Number = 1.0
    contrast: Number = 1.0
    brightness: Number = 0.0
    speckle: Number = 0.0
    speckle_seed: Number = 0.0
    blur: Number = 0.0

    @classmethod
    def batch(cls, rows: Tensor) -> "Draw":
        """(B, parameters) -> one tensor (B,) for each parameter."""
        return cls(*rows.unbind(1))


class Dice:
    """Uniform numbers that follow from a seed.

    Whoever draws takes all its numbers, also those that it does not use, so that a change of one strength leaves the
    other draws as they were.
    """

    def __init__(self, seed: int, count: int = 2 * len(Draw._fields)) -> None:
        words = np.random.SeedSequence(seed).generate_state(count, np.uint64) >> np.uint64(11)
        self._numbers: Iterator[float] = iter((words * 2.0**-53).tolist())

    def between(self, low: float, high: float) -> float:
        """A number from low to high."""
        return low + (high - low) * next(self._numbers)

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return next(self._numbers) < probability
