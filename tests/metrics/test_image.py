import math

import numpy as np
import pytest

from famseg.biometry import Ellipse
from famseg.metrics.image import measure_image, score_boundary

CLASSES = {"BG": 0, "FL": 1, "FB": 2}
SKULL = Ellipse(330, 260, 210, 165, 0.3)


def scene(shift=0.0):
    """Ids of a head and a femur, 540 x 800."""
    ids = np.zeros((540, 800), np.uint8)
    ids[Ellipse(330 + shift, 260, 210, 165, 0.3).mask(540, 800)] = 2
    ids[40:54, 600 + int(shift) : 760 + int(shift)] = 1
    return ids


def test_a_perfect_prediction():
    row = measure_image(scene(), scene(), CLASSES, 0.2)
    assert (row["hd95_mm_fb"], row["assd_mm_fl"], row["nsd_fb"], row["boundary_iou_fl"]) == (0, 0, 1, 1)
    assert row["missed_fb"] == row["false_alarm_fb"] == 0
    assert row["jaggedness_fb"] < 0.05
    assert row["hc_mm"] == row["hc_mm_predicted"] == pytest.approx(0.2 * SKULL.perimeter(), abs=0.05)
    assert row["fl_mm_predicted"] == pytest.approx(32, abs=0.1)
    assert row["flags_fb"] == row["flags_fl"] == ""


def test_distances_in_mm_and_px():
    row = measure_image(scene(), scene(shift=10), CLASSES, 0.2)
    assert row["hd95_mm_fb"] == pytest.approx(0.2 * row["hd95_px_fb"])
    assert row["hd95_px_fb"] == pytest.approx(10, abs=0.5)
    assert 0 < row["nsd_fb"] < 1
    assert 0 < row["boundary_iou_fb"] < 1


def test_a_missed_object_costs_the_diagonal():
    truth, nothing = scene() == 2, np.zeros((540, 800), bool)
    row = score_boundary(truth, nothing, 0.2)
    assert row["hd95_px"] == row["assd_px"] == math.hypot(540, 800)
    assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(0.2 * math.hypot(540, 800))
    assert (row["nsd"], row["boundary_iou"], row["missed"], row["false_alarm"]) == (0, 0, 1, 0)
    assert math.isnan(row["jaggedness"])


def test_a_false_alarm_costs_as_much():
    truth, nothing = scene() == 2, np.zeros((540, 800), bool)
    row = score_boundary(nothing, truth, 0.2)
    assert row["hd95_px"] == math.hypot(540, 800)
    assert (row["nsd"], row["boundary_iou"], row["missed"], row["false_alarm"]) == (0, 0, 0, 1)


def test_failing_never_improves_the_mean():
    truth, far = np.zeros((2, 60, 80), bool)
    truth[5:15, 5:15] = far[45:55, 65:75] = True
    worst = score_boundary(truth, far, 0.2)
    missed = score_boundary(truth, np.zeros_like(truth), 0.2)
    assert missed["hd95_mm"] > worst["hd95_mm"]
    assert missed["boundary_iou"] <= worst["boundary_iou"]


def test_a_class_in_neither_has_no_scores():
    nothing = np.zeros((50, 60), bool)
    row = score_boundary(nothing, nothing, 0.2)
    assert row.pop("missed") == row.pop("false_alarm") == 0
    assert np.isnan(list(row.values())).all()


def test_without_pixel_size_there_are_no_millimetres():
    row = measure_image(scene(), scene(shift=10), CLASSES, math.nan)
    in_mm = [row[k] for k in row if "_mm" in k or k.startswith("nsd")]
    assert np.isnan(in_mm).all()
    assert row["hd95_px_fb"] > 0
    assert row["boundary_iou_fb"] > 0
    assert row["flags_fb"] == "no_pixel_size"


def test_known_values_replace_those_of_the_true_mask():
    row = measure_image(scene(), scene(), CLASSES, 0.2, {"hc_mm": 123.0, "fl_mm": math.nan})
    assert row["hc_mm"] == 123
    assert row["fl_mm"] == pytest.approx(32, abs=0.1)
    assert row["hc_mm_predicted"] != 123


def test_every_image_has_the_same_columns():
    empty = np.zeros((540, 800), np.uint8)
    rows = [measure_image(a, b, CLASSES, s) for a, b, s in [(scene(), empty, 0.2), (empty, scene(), math.nan)]]
    assert rows[0].keys() == rows[1].keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_no_mask_is_too_odd():
    rng = np.random.default_rng(0)
    for i in range(150):
        shape, block = rng.integers(1, 14, size=2), np.ones((1 + i % 3, 1 + i % 3), int)
        a, b = ((rng.random(shape) < rng.random()) * rng.integers(0, 3, size=shape) for _ in range(2))
        row = measure_image(np.kron(a, block), np.kron(b, block), CLASSES, 0.2)
        assert not np.isinf([value for value in row.values() if not isinstance(value, str)]).any()
