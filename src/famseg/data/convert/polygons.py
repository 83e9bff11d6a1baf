"""Polygons to pixels."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def polygon_mask(points: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a polygon, bool (height, width); even-odd where it crosses itself.

    Args:
        points: (n, 2), (x, y) with (0, 0) the outer corner of the first pixel, as annotation tools count.
        height: px.
        width: px.
    """
    vertices = np.asarray(points, dtype=np.float64).reshape(-1, 2) - 0.5  # to pixel centres at integers
    x, y = vertices.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    flips = np.zeros((height, width + 1), bool)
    for row in range(height):
        crossing = (y <= row) != (next_y <= row)
        if crossing.any():
            share = (row - y[crossing]) / (next_y[crossing] - y[crossing])
            at = x[crossing] + share * (next_x[crossing] - x[crossing])
            columns = np.clip(np.ceil(at), 0, width).astype(int)  # the first pixel on the right of each crossing
            np.logical_xor.at(flips[row], columns, True)
    return np.logical_xor.accumulate(flips, axis=1)[:, :width]


def ellipse_points(cx: float, cy: float, radius: float, count: int = 256) -> NDArray[np.float64]:
    """A circle as a polygon (count, 2)."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], axis=1)
