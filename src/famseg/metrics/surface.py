"""Distances between the boundaries of two masks, measured once, and the scores that are read from them.

The boundary runs half-way between inside and outside pixels (marching squares), and every point of it counts by the
length that it stands for. Scores that take the outermost pixels for the boundary instead depend on its direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from famseg.biometry.ellipse import pixels
from famseg.biometry.quality import bounding_box

Float = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances from each of two boundaries to the other one, in the unit of the spacing they were measured with.

    Attributes:
        first: (n,) from the points of the first mask's boundary to the second's.
        second: (m,) the other way round.
        first_length: (n,) length of the boundary that each point stands for.
        second_length: (m,)
    """

    first: Float
    second: Float
    first_length: Float
    second_length: Float

    def hausdorff(self, percent: float = 95.0) -> float:
        """Robust Hausdorff distance: the larger of the two directions' percentiles (HD95 by default)."""
        return max(
            _percentile(self.first, self.first_length, percent), _percentile(self.second, self.second_length, percent)
        )

    def assd(self) -> float:
        """Average symmetric surface distance: the mean over both boundaries together."""
        total = self.first @ self.first_length + self.second @ self.second_length
        return float(total / (self.first_length.sum() + self.second_length.sum()))

    def nsd(self, tolerance: float) -> float:
        """Normalized surface Dice: part of both boundaries that lies within the tolerance of the other one.

        Nikolov et al. 2018, arXiv 1809.04430.
        """
        near = self.first_length[self.first <= tolerance].sum() + self.second_length[self.second <= tolerance].sum()
        return float(near / (self.first_length.sum() + self.second_length.sum()))


def surface_distances(first: ArrayLike, second: ArrayLike, spacing: float = 1.0) -> SurfaceDistances:
    """Measure the boundaries of two masks (height, width) against each other.

    Where a mask leaves the picture its boundary is unknown and not scored, but the picture's border closes the outline
    to which distances are taken: two masks of which only one reaches the border are close where they are.

    Args:
        first: non-zero inside.
        second: of the same size.
        spacing: size of a pixel; the distances have its unit.

    Raises:
        ValueError: sizes differ, or a mask is empty: what a missed object costs is for the caller to say.
    """
    a, b = np.asarray(first) != 0, np.asarray(second) != 0
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"two masks (height, width) of one size are needed, got {a.shape} and {b.shape}")
    if not (a.any() and b.any()):
        raise ValueError("an empty mask has no surface")
    points_a, length_a, scored_a = _outline(a)
    points_b, length_b, scored_b = _outline(b)
    to_b = KDTree(points_b).query(points_a[scored_a])[0] * spacing
    to_a = KDTree(points_a).query(points_b[scored_b])[0] * spacing
    if not (len(to_a) or len(to_b)):  # both fill the picture
        return SurfaceDistances(np.zeros(1), np.zeros(1), np.ones(1), np.ones(1))
    return SurfaceDistances(to_b, to_a, length_a[scored_a] * spacing, length_b[scored_b] * spacing)


def _outline(mask: NDArray[np.bool_]) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Marching squares: points (n, 2) as (x, y), the length in px of each, and whether it lies within the picture."""
    height, width = mask.shape
    rows, columns = bounding_box(mask)
    m = np.pad(mask[rows, columns], 2)
    # length of the piece of outline in the cell between four pixels: 1 along the grid, else across a corner
    along = ((m[1:, 1:] == m[1:, :-1]) & (m[:-1, 1:] == m[:-1, :-1])) | (
        (m[1:, 1:] == m[:-1, 1:]) & (m[1:, :-1] == m[:-1, :-1])
    )
    cell = np.where(along, 1.0, math.sqrt(0.5))
    beside, below = pixels(m[1:-1, 1:] != m[1:-1, :-1]), pixels(m[1:, 1:-1] != m[:-1, 1:-1])
    (x, y), (x2, y2) = beside.astype(int).T, below.astype(int).T
    corner = np.array([columns.start, rows.start])
    points = np.concatenate([beside - np.array([1.5, 1.0]), below - np.array([1.0, 1.5])]) + corner
    length = np.concatenate([cell[y, x] + cell[y + 1, x], cell[y2, x2] + cell[y2, x2 + 1]]) / 2
    inside = (points > -0.5).all(axis=1) & (points[:, 0] < width - 0.5) & (points[:, 1] < height - 0.5)
    return points, length, inside


def _percentile(distances: Float, lengths: Float, percent: float) -> float:
    """Smallest distance within which `percent` of the boundary lies; 0 for a boundary outside the picture."""
    if not len(distances):
        return 0.0
    order = np.argsort(distances)
    share = np.cumsum(lengths[order])
    index = int(np.searchsorted(share, share[-1] * percent / 100 * (1 - 1e-12)))
    return float(distances[order[min(index, len(order) - 1)]])
