"""Text on the screen around an ultrasound image: found, blanked."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.data.source import Pixels

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two excluded

_DARK = 3  # grey levels up to here are an empty screen
_PART = 0.01  # of the picture: what is larger is part of the ultrasound image, not writing


def blank_screen(image: Pixels, regions: Sequence[Box] = ()) -> tuple[Pixels, list[Box]]:
    """Blank what is written outside of the ultrasound image, where names are.

    The ultrasound image is the convex hull of the large areas that are not empty, within `regions` where these are
    known. Writing within the hull, or on a large bar of one colour, is not found: look at the pictures.

    Args:
        image: uint8 (H, W).
        regions: Boxes of ultrasound, as a DICOM file lists them.

    Returns:
        The blanked image, and boxes around what was blanked, letters of a line joined.
    """
    allowed = np.zeros(image.shape, bool)
    for left, top, right, bottom in regions or [(0, 0, image.shape[1], image.shape[0])]:
        allowed[max(top, 0) : bottom, max(left, 0) : right] = True
    keep = _hull(np.where(allowed, image, 0).astype(np.uint8)) & allowed
    written = (image > _DARK) & ~keep
    gone = (cv2.dilate(written.astype(np.uint8), np.ones((5, 5))) > 0) & ~keep  # with the faint edges of letters
    return np.where(gone, 0, image).astype(np.uint8), _boxes(written)


def _hull(image: Pixels) -> NDArray[np.bool_]:
    """Convex hull of the large bright areas; everything when there is none."""
    side = max(3, round(min(image.shape) / 60) | 1)
    lit = (cv2.medianBlur(image, side) > _DARK).astype(np.uint8)
    solid = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((side, side)))  # strokes of letters vanish, speckle stays
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [i + 1 for i, area in enumerate(areas) if area >= _PART * image.size or area == areas.max()]
    if not large:
        return np.ones(image.shape, bool)
    points = cv2.findNonZero(np.isin(labels, large).astype(np.uint8))
    hull = np.zeros(image.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    return np.asarray(cv2.dilate(hull, np.ones((2 * side + 1, 2 * side + 1))) > 0)  # the corners that opening took


def _boxes(region: NDArray[np.bool_]) -> list[Box]:
    joined = cv2.dilate(region.astype(np.uint8), np.ones((3, 15)))
    _, labels, _, _ = cv2.connectedComponentsWithStats(joined)
    labels[~region] = 0
    boxes = []
    for number in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == number)
        if len(x):
            boxes.append((int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1))
    return boxes
