"""Femur length from a mask of the femur's shaft."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from famseg.biometry.ellipse import boundary_points, pixels
from famseg.biometry.quality import Flag, main_object

_CAP = 0.7  # part of the half width, on both sides of the mid-line, whose boundary points make the tip
_SLENDER = 2.0  # length over width


@dataclass(frozen=True)
class Femur:
    """Measurement of a femur; NaN where there is nothing to measure, and the flags say why.

    Attributes:
        fl_mm: femur length, the straight distance between the tips of the shaft.
        width_mm: mean width of the mask.
        tips: (2, 2) both ends (x, y) in px, the left one first; None where there are none.
        flags: reasons to doubt the number.
    """

    fl_mm: float
    width_mm: float
    tips: NDArray[np.float64] | None
    flags: tuple[Flag, ...]

    def calipers(self) -> dict[str, NDArray[np.float64]]:
        """End points (2, 2), each (x, y) in px, of "fl"; empty where nothing was measured."""
        return {} if self.tips is None else {"fl": self.tips}


def measure_femur(mask: ArrayLike, spacing: float) -> Femur:
    """Measure the femur in a mask.

    Args:
        mask: (height, width), non-zero on the femur; the largest component is measured, its holes filled.
        spacing: mm per px; NaN when unknown, which leaves the tips in px.
    """
    largest, flags = main_object(mask)
    if Flag.EMPTY in flags:
        return Femur(math.nan, math.nan, None, tuple(flags))
    try:
        tips, width = _tips(largest)
    except ValueError:
        return Femur(math.nan, math.nan, None, (*flags, Flag.NOT_MEASURABLE))
    length = float(np.hypot(*(tips[1] - tips[0])))
    if length < _SLENDER * width:
        flags.append(Flag.NOT_ELONGATED)
    if math.isnan(spacing):
        flags.append(Flag.NO_PIXEL_SIZE)
    return Femur(length * spacing, width * spacing, tips, tuple(flags))


def _tips(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Both ends (2, 2) in px, sub-pixel, and the width in px of an elongated region.

    The mid-line is a parabola along the region's long axis. At each end the boundary points near the mid-line make a
    second parabola, across the chord: its height on the mid-line is the tip. That is right for square and for round
    ends, where the farthest pair of boundary points is too long on thick square ends by the diagonal.

    Raises:
        ValueError: too small.
    """
    inside = pixels(mask)
    centre = inside.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov((inside - centre).T)) if len(inside) > 9 else (np.zeros(2), np.eye(2))
    if variance[1] < 1:
        raise ValueError("too small for a femur")
    axes = axes[:, ::-1] * (1 if axes[0, 1] >= 0 else -1)  # long axis first, towards the right
    inside, points = (inside - centre) @ axes, (boundary_points(mask) - centre) @ axes
    left, right = (points[:, 0].min(), points[:, 0].max()) if len(points) else (0.0, 0.0)
    if right - left < 1:
        raise ValueError("no ends within the picture")
    width = len(inside) / math.sqrt(12 * variance[1])  # a bar of length l has variance l^2 / 12 along its axis
    mid_line = _parabola(inside[:, 0], inside[:, 1])
    inset = min(width / 2, 0.45 * (right - left))
    ends = np.array([left + inset, right - inset])
    caps = np.stack([ends, np.polyval(mid_line, ends)], axis=1)
    chord = (caps[1] - caps[0]) / np.hypot(*(caps[1] - caps[0]))
    tips = np.stack([_tip(points, caps[0], -chord, width), _tip(points, caps[1], chord, width)])
    return tips @ axes.T + centre, width


def _tip(
    points: NDArray[np.float64], cap: NDArray[np.float64], outwards: NDArray[np.float64], width: float
) -> NDArray[np.float64]:
    """The boundary's point on the line from the end's middle `cap` outwards, by a parabola through its neighbours."""
    along = (points - cap) @ outwards
    across = (points - cap) @ [-outwards[1], outwards[0]]
    near = (abs(across) <= max(_CAP * width / 2, 1.5)) & (along > 0)
    if near.sum() < 4:
        return np.asarray(cap + outwards * width / 2)
    height = _parabola(across[near], along[near])[-1]
    return np.asarray(cap + outwards * np.clip(height, 0, along[near].max() + 0.5))


def _parabola(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares (c2, c1, c0) of y = c2 x^2 + c1 x + c0; the smallest ones where the points leave a choice."""
    return np.asarray(np.linalg.lstsq(np.vander(x, 3), y)[0], dtype=np.float64)
