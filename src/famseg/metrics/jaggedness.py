"""How stair-stepped a mask's contour is, in px: what overlap and distance scores hardly see."""

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from famseg.biometry.quality import main_object

Float = NDArray[np.float64]

FINE = 1.5
"""Gaussian in px along the contour that takes the pixel grid's own steps away."""
COARSE = 24.0
"""Radius in px of the disc that steps are measured against, and reach along the contour to either side."""
STEP = 2.0
"""Distance in px of the points at which the contour is measured."""


def jaggedness(mask: ArrayLike) -> float:
    r"""Stair-step index of the largest object in a mask (height, width), in px of the picture; NaN without one.

    The outer contour is smoothed at a fine scale (`FINE`) and compared with what a disc of radius R = `COARSE` leaves
    of it when rolled along its outside. With points c_i every 2 px, the notch at c_i is as deep as

        d_i = max(0, max over a, b of  h - s t / 2R),   J = sqrt(mean over i of d_i^2)

    where the chord from c_{i-a} to c_{i+b} (a, b up to R along the contour) passes at the distance h outside c_i, and
    the foot of c_i divides the chord into s and t: s t / 2R is how far the disc through the chord's ends bulges inwards
    there. Points on the picture's border are left out.

    A convex contour has no notch, however pointed, nor has one that bends inwards less than the disc: J = 0 but for
    the pixel grid (below 0.05). An ellipse redrawn in blocks of 1, 2, 4, 8, 16 px has J = 0.01, 0.15, 0.65, 1.75, 2.9.
    """
    largest, _ = main_object(mask)
    contour = _contour(largest)
    height, width = largest.shape
    if len(contour) < 8:
        return math.nan
    inner = (contour > 0.5).all(axis=1) & (contour[:, 0] < width - 1.5) & (contour[:, 1] < height - 1.5)
    return float(np.sqrt(np.mean(_notches(contour)[inner] ** 2))) if inner.any() else math.nan


def _contour(mask: NDArray[np.bool_]) -> Float:
    """Outer contour (n, 2) as (x, y), smoothed, a point every `STEP` px."""
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len, default=np.empty((0, 1, 2)))[:, 0].astype(np.float64)
    if len(outline) < 8:
        return outline[:0]
    fine = _resampled(outline, 0.5)
    return _resampled(gaussian_filter1d(fine, FINE / 0.5, axis=0, mode="wrap"), STEP)


def _resampled(closed: Float, step: float) -> Float:
    """Points at equal steps, near `step`, along a closed polygon."""
    polygon = np.concatenate([closed, closed[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(polygon, axis=0).T))])
    at = np.linspace(0, along[-1], max(round(along[-1] / step), 3), endpoint=False)
    return np.stack([np.interp(at, along, polygon[:, 0]), np.interp(at, along, polygon[:, 1])], axis=1)


def _notches(contour: Float) -> Float:
    """Depth (n,) in px of each point below the rolling disc."""
    n = len(contour)
    reach = range(1, min(round(COARSE / STEP), (n - 1) // 2) + 1)
    x, y = contour.T
    clockwise = np.sign(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    after = np.stack([np.roll(contour, -b, axis=0) - contour for b in reach])  # (b, n, 2)
    deepest = np.zeros(n)
    for a in reach:
        before = np.roll(contour, a, axis=0) - contour  # (n, 2)
        cross = before[:, 0] * after[..., 1] - before[:, 1] * after[..., 0]
        chord = np.hypot(before[:, 0] - after[..., 0], before[:, 1] - after[..., 1])
        h = clockwise * cross / np.maximum(chord, 1e-9)
        st = h**2 - before[:, 0] * after[..., 0] - before[:, 1] * after[..., 1]
        depth = np.where(st >= 0, h - st / (2 * COARSE), 0)  # st < 0: the chord does not pass the point
        np.maximum(deepest, depth.max(axis=0), out=deepest)
    return deepest
