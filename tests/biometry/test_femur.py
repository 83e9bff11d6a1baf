import math

import numpy as np
import pytest

from famseg.biometry import Flag, measure_femur


def bar(rng, *, thickness, square_ends, bow=0.0, size=260):
    """Mask and true length in px of a bar at a random angle and place, ends round or square to its chord."""
    length = rng.uniform(4.5 * thickness, 220)
    angle, sag = rng.uniform(0, math.pi), rng.uniform(-bow, bow) * length
    cx, cy = size / 2 + rng.uniform(-10, 10, size=2)
    y, x = np.mgrid[:size, :size]
    u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
    if square_ends:
        return (abs(u) <= length / 2) & (abs(v - sag * (1 - (2 * u / length) ** 2)) <= thickness / 2), length
    half_chord = (length - thickness) / 2
    beside = v - sag * (1 - np.clip(u / half_chord, -1, 1) ** 2)
    return np.hypot(np.maximum(abs(u) - half_chord, 0), beside) <= thickness / 2, length


@pytest.mark.parametrize("square_ends", [False, True])
@pytest.mark.parametrize("bow", [0.0, 0.08])
def test_length_of_1000_random_bars_within_a_pixel(square_ends, bow):
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(250):
        mask, length = bar(rng, thickness=rng.uniform(4, 24), square_ends=square_ends, bow=bow)
        errors.append(measure_femur(mask, 1.0).fl_mm - length)
    assert abs(np.mean(errors)) < 0.1
    assert np.abs(errors).max() < 1.0


def test_tips_lie_on_the_ends():
    mask = np.zeros((40, 120), bool)
    mask[15:24, 20:101] = True
    femur = measure_femur(mask, 0.1)
    assert femur.tips == pytest.approx(np.array([[19.5, 19], [100.5, 19]]), abs=0.05)
    assert femur.fl_mm == pytest.approx(8.1, abs=0.01)
    assert femur.width_mm == pytest.approx(0.9, abs=0.01)
    assert femur.flags == ()
    assert femur.calipers()["fl"] is femur.tips


def test_unknown_pixel_size_gives_no_millimetres_but_the_tips():
    mask, length = bar(np.random.default_rng(0), thickness=10, square_ends=False)
    femur = measure_femur(mask, math.nan)
    assert math.isnan(femur.fl_mm)
    assert femur.flags == (Flag.NO_PIXEL_SIZE,)
    assert math.dist(*femur.tips) == pytest.approx(length, abs=1)


def test_flags_of_what_is_hardly_a_femur():
    y, x = np.mgrid[:60, :60]
    disc = np.hypot(x - 30, y - 30) < 12
    assert measure_femur(disc, 0.1).flags == (Flag.NOT_ELONGATED,)
    assert measure_femur(disc[:, 25:], 0.1).flags == (Flag.TOUCHES_BORDER, Flag.NOT_ELONGATED)


def test_a_ragged_end_moves_the_tip_by_less_than_its_teeth():
    mask = np.zeros((60, 160), bool)
    mask[20:41, 20:121] = True
    mask[30, 121:126] = True  # one tooth of 5 px
    assert 101 <= measure_femur(mask, 1.0).fl_mm < 103


def test_femur_of_one_line_of_pixels():
    line = np.zeros((9, 60))
    line[4, 10:40] = 1
    assert measure_femur(line, 1.0).fl_mm == pytest.approx(30, abs=0.6)


@pytest.mark.parametrize(
    ("mask", "flag"),
    [
        (np.zeros((50, 50)), Flag.EMPTY),
        (np.ones((50, 50)), Flag.NOT_MEASURABLE),
        (np.pad(np.ones((2, 2)), 9), Flag.NOT_MEASURABLE),
    ],
)
def test_nothing_to_measure(mask, flag):
    femur = measure_femur(mask, 0.2)
    assert math.isnan(femur.fl_mm)
    assert flag in femur.flags
    assert femur.calipers() == {}
