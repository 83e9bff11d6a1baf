"""Boundary IoU: overlap of the masks' margins, which large masks with good insides do not get for free."""

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from famseg.biometry.quality import bounding_box


def boundary_iou(first: ArrayLike, second: ArrayLike, width: float | None = None) -> float:
    """Intersection over union of the parts of two masks (height, width) next to their boundaries.

    Cheng et al. 2021, arXiv 2103.16562, Eq. (1), with Euclidean distance; the picture's border counts as boundary, as
    there. NaN when both masks are empty.

    Args:
        first: non-zero inside.
        second: of the same size.
        width: of the margin in px; the paper's 2 % of the picture's diagonal when None.
    """
    a, b = np.asarray(first) != 0, np.asarray(second) != 0
    union = a | b
    if not union.any():
        return math.nan
    if width is None:
        width = 0.02 * math.hypot(*a.shape)
    box = bounding_box(union)
    margin_a, margin_b = _margin(a[box], width), _margin(b[box], width)
    return float(np.count_nonzero(margin_a & margin_b) / np.count_nonzero(margin_a | margin_b))


def _margin(mask: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.asarray(mask & (depth <= max(width, 1)))
