import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from famseg.biometry import Ellipse
from famseg.metrics.boundary_iou import boundary_iou


def slow_margin(mask, width):
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    near = cdist(inside, outside).min(axis=1) <= width
    margin = np.zeros_like(padded)
    margin[tuple(inside[near].T)] = True
    return margin


@pytest.mark.parametrize("width", [1, 3.5, 100])
def test_against_all_pairs_of_pixels(width):
    a, b = Ellipse(15, 12, 13, 8, 0.3).mask(24, 30), Ellipse(19, 13, 12, 9, 0.1).mask(24, 30)  # b is cut by the border
    first, second = slow_margin(a, width), slow_margin(b, width)
    assert boundary_iou(a, b, width) == pytest.approx((first & second).sum() / (first | second).sum())


def test_width_is_two_per_cent_of_the_diagonal():
    a, b = Ellipse(310, 240, 200, 160, 0.3).mask(540, 800), Ellipse(316, 243, 200, 160, 0.3).mask(540, 800)
    assert boundary_iou(a, b) == boundary_iou(a, b, 0.02 * math.hypot(540, 800))


def test_it_sees_a_shift_that_overlap_hardly_does():
    a, b = Ellipse(310, 240, 200, 160, 0.3).mask(540, 800), Ellipse(316, 243, 200, 160, 0.3).mask(540, 800)
    assert (a & b).sum() / (a | b).sum() > 0.95
    assert boundary_iou(a, b) < 0.7


def test_ends_of_the_scale():
    a = np.zeros((40, 50), bool)
    a[5:15, 5:15] = True
    assert boundary_iou(a, a) == 1
    assert boundary_iou(a, np.roll(a, 20, axis=1)) == 0
    assert boundary_iou(a, np.zeros_like(a)) == 0
    assert math.isnan(boundary_iou(np.zeros_like(a), np.zeros_like(a)))
