"""What can be wrong with a mask that is measured, and the one object in it that is."""

from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_SPECK = 0.01  # further components up to this part of the largest one's area are not worth a flag


class Flag(StrEnum):
    """Reasons not to trust a measurement, or for there being none."""

    EMPTY = "empty"
    """The mask holds no pixel: nothing was measured."""
    NOT_MEASURABLE = "not_measurable"
    """Too small, or within the picture no boundary makes its shape (a stripe, a wedge): nothing was measured."""
    NO_PIXEL_SIZE = "no_pixel_size"
    """Millimetres per pixel are unknown: no millimetres."""
    TOUCHES_BORDER = "touches_border"
    """The object may go on outside the picture: a femur is measured too short, a head from the arc that is seen."""
    SEVERAL_COMPONENTS = "several_components"
    """More than specks lie apart from the largest component, which alone is measured."""
    NOT_ELLIPTIC = "not_elliptic"
    """The head's boundary is more than 2 % of its mean radius (rms) from the fitted ellipse."""
    CUT_OFF = "cut_off"
    """The head leaves the picture, and its boundary within covers less than 75 % of the fitted ellipse."""
    IMPLAUSIBLE = "implausible"
    """BPD is less than 60 % of OFD (cephalic index): hardly a head."""
    NOT_ELONGATED = "not_elongated"
    """The femur is less than twice as long as thick: hardly a femur."""


def main_object(mask: ArrayLike) -> tuple[NDArray[np.bool_], list[Flag]]:
    """Largest 8-connected component of a mask (height, width), holes filled, and what is to be said of it.

    Raises:
        ValueError: the mask is not two-dimensional.
    """
    binary = np.asarray(mask) != 0
    if binary.ndim != 2:
        raise ValueError(f"a mask has two dimensions (height, width), got shape {binary.shape}")
    if not binary.any():
        return binary, [Flag.EMPTY]
    box = bounding_box(binary)
    count, labels = cv2.connectedComponents(binary[box].view(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)[1:]  # OpenCV's statistics take three times as long
    largest = np.zeros_like(binary)
    largest[box] = _filled(labels == 1 + int(areas.argmax()))
    flags = []
    if areas.sum() - areas.max() > _SPECK * areas.max():
        flags.append(Flag.SEVERAL_COMPONENTS)
    if largest[[0, -1]].any() or largest[:, [0, -1]].any():
        flags.append(Flag.TOUCHES_BORDER)
    return largest, flags


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a mask (height, width) from its first pixel to its last; it holds one at least."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, thickness=cv2.FILLED)
    return np.asarray(filled).view(np.bool_)
