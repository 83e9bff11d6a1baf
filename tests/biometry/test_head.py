import math

import numpy as np
import pytest

from famseg.biometry import Ellipse, Flag, measure_head

SKULL = Ellipse(310.3, 240.8, 200.4, 158.2, 0.6)
MASK = SKULL.mask(480, 600)


def test_measurements_in_mm():
    head = measure_head(MASK, 0.2)
    assert head.hc_mm == pytest.approx(0.2 * SKULL.perimeter(), abs=0.05)
    assert head.ofd_mm == pytest.approx(0.2 * 2 * SKULL.a, abs=0.05)
    assert head.bpd_mm == pytest.approx(0.2 * 2 * SKULL.b, abs=0.05)
    assert head.residual_mm < 0.1
    assert head.flags == ()


def test_calipers_are_as_far_apart_as_the_numbers():
    head = measure_head(MASK, 0.2)
    lengths = {name: 0.2 * math.dist(*ends) for name, ends in head.calipers().items()}
    assert lengths == pytest.approx({"ofd": head.ofd_mm, "bpd": head.bpd_mm})
    assert abs(SKULL.distances(np.concatenate(list(head.calipers().values())))).max() < 0.5


def test_unknown_pixel_size_gives_no_millimetres_but_the_ellipse():
    head = measure_head(MASK, math.nan)
    assert math.isnan(head.hc_mm)
    assert head.flags == (Flag.NO_PIXEL_SIZE,)
    assert head.ellipse.perimeter() == pytest.approx(SKULL.perimeter(), abs=0.5)


def test_a_head_that_leaves_the_picture_is_measured_from_its_arc():
    head = measure_head(MASK[:, :440], 0.2)
    assert head.flags == (Flag.TOUCHES_BORDER,)
    assert head.hc_mm == pytest.approx(0.2 * SKULL.perimeter(), abs=0.1)


def test_a_rough_outline_is_flagged():
    square = np.zeros((200, 200), bool)
    square[40:160, 40:160] = True
    assert measure_head(square, 0.2).flags == (Flag.NOT_ELLIPTIC,)


@pytest.mark.parametrize(
    ("mask", "flag"),
    [
        (np.zeros((50, 50)), Flag.EMPTY),
        (np.ones((50, 50)), Flag.NOT_MEASURABLE),
        (np.eye(1), Flag.NOT_MEASURABLE),
        (np.pad(np.ones((1, 1)), 9), Flag.NOT_MEASURABLE),
    ],
)
def test_nothing_to_measure(mask, flag):
    head = measure_head(mask, 0.2)
    assert math.isnan(head.hc_mm)
    assert flag in head.flags
    assert head.calipers() == {}
