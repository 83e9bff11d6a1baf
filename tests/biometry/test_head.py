import math
import os

import numpy as np
import pytest

from famseg.biometry import Ellipse, Flag, measure_head
from famseg.data.hc18 import HC18

SKULL = Ellipse(310.3, 240.8, 200.4, 158.2, 0.6)
MASK = SKULL.mask(480, 600)

ROW, COLUMN = np.mgrid[:192, :288]


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


@pytest.mark.parametrize(
    ("centre", "flags"), [(150, ()), (90, (Flag.CUT_OFF,)), (0, (Flag.CUT_OFF,)), (-60, (Flag.CUT_OFF,))]
)
def test_a_head_that_the_border_cuts_off_is_flagged(centre, flags):
    """93, 78, 50 and 31 % of its area are within."""
    assert measure_head(Ellipse(400, centre, 260, 200, 0).mask(540, 800), 0.2).flags == (Flag.TOUCHES_BORDER, *flags)


@pytest.mark.parametrize("turn", [0, 0.7, 2.5])
@pytest.mark.parametrize(("index", "flags"), [(0.66, ()), (0.96, ()), (0.57, (Flag.IMPLAUSIBLE,))])
def test_an_ellipse_too_narrow_for_a_head_is_flagged(index, flags, turn):
    assert measure_head(Ellipse(250, 250, 200, 200 * index, turn).mask(500, 500), 0.2).flags == flags


@pytest.mark.parametrize("radius", [4, 8, 20])
def test_a_small_head_at_the_border_is_seen_in_full(radius):
    flags = measure_head(Ellipse(50, radius - 0.6, radius, 0.8 * radius, np.pi / 2).mask(100, 100), 0.2).flags
    assert Flag.TOUCHES_BORDER in flags
    assert Flag.CUT_OFF not in flags


@pytest.mark.slow
@pytest.mark.skipif("FAMSEG_HC18" not in os.environ, reason="FAMSEG_HC18 does not point to HC18's folder")
def test_no_real_head_is_called_cut_off_or_implausible():
    source = HC18(os.environ["FAMSEG_HC18"])
    flagged = {
        sample.name: flags
        for sample in (source[index] for index in range(len(source)))
        if (flags := {Flag.CUT_OFF, Flag.IMPLAUSIBLE} & {*measure_head(sample.mask, sample.spacing).flags})
    }
    assert flagged == {}


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
        (abs(ROW - 96 - 0.3 * (COLUMN - 144)) < 15, Flag.NOT_MEASURABLE),  # a stripe: its ellipse is 15,000 px long
        (abs(ROW - 96) < 0.15 * COLUMN, Flag.NOT_MEASURABLE),  # a wedge
        (ROW > (COLUMN - 144) ** 2 / 40 + 100, Flag.NOT_MEASURABLE),
    ],
)
def test_nothing_to_measure(mask, flag):
    head = measure_head(mask, 0.2)
    assert math.isnan(head.hc_mm)
    assert flag in head.flags
    assert head.calipers() == {}
