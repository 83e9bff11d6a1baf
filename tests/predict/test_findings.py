import math

import numpy as np
import pytest

from famseg.biometry import Ellipse, Flag
from famseg.errors import UserError
from famseg.inference import Segmentation
from famseg.prediction.findings import MEANINGS, examine, in_words, parse_weeks, weeks_and_days

CLASSES = {"BG": 0, "FL": 1, "FB": 2}
HEAD = Ellipse(190, 120, 110, 85, 0.4)


def segmentation(head=True, femur=slice(20, 150)):
    mask = np.zeros((260, 360), np.uint8)
    mask[HEAD.mask(260, 360)] = 2 if head else 0
    mask[240:250, femur] = 1
    return Segmentation(mask, np.where(mask > 0, 0.9, 1.0).astype(np.float32))


def test_lengths_ages_and_centiles():
    row = examine(segmentation(), CLASSES, 0.25, weeks=20.0).row()
    assert row["hc_mm"] == pytest.approx(HEAD.perimeter() * 0.25, abs=0.3)
    assert row["fl_mm"] == pytest.approx(32.5, abs=0.2)
    assert row["ga_hadlock_from"] == row["ga_intergrowth_from"] == "HC+FL"
    assert 17 < row["ga_hadlock_low"] < row["ga_hadlock_weeks"] < row["ga_hadlock_high"] < 22
    assert 0 < row["hc_centile"] < 100
    assert (row["confidence_fb"], row["confidence_fl"]) == (0.9, 0.9)


def test_without_pixel_size_there_are_no_millimetres_and_no_age():
    row = examine(segmentation(), CLASSES, math.nan, weeks=20.0).row()
    assert row["spacing_mm"] == row["hc_mm"] == row["fl_mm"] == row["ga_hadlock_weeks"] == row["hc_centile"] == ""
    assert row["flags_fb"] == "no_pixel_size"


def test_a_femur_cut_off_by_the_border_dates_nothing():
    findings = examine(segmentation(femur=slice(0, 130)), CLASSES, 0.25)
    assert Flag.TOUCHES_BORDER in findings.flags()["FL"]
    assert findings.row()["fl_mm"] > 0
    assert findings.row()["ga_hadlock_from"] == "HC"


@pytest.mark.parametrize(
    ("head", "flag"),
    [(Ellipse(190, 10, 110, 85, 0.0), Flag.CUT_OFF), (Ellipse(190, 120, 150, 60, 0.0), Flag.IMPLAUSIBLE)],
)
def test_a_head_that_is_mostly_guessed_dates_nothing(head, flag):
    mask = np.where(head.mask(260, 360), 2, 0).astype(np.uint8)
    row = examine(Segmentation(mask, np.ones(mask.shape, np.float32)), CLASSES, 0.25).row()
    assert flag in row["flags_fb"].split()
    assert row["hc_mm"] > 0
    assert (row["ga_hadlock_weeks"], row["ga_hadlock_flag"]) == ("", "not_measured")
    assert row["ga_intergrowth_weeks"] == ""


def test_a_head_outside_the_range_of_the_formula_has_no_age():
    row = examine(segmentation(femur=slice(0, 0)), CLASSES, 0.8).row()
    assert row["hc_mm"] > 360
    assert (row["ga_hadlock_weeks"], row["ga_hadlock_flag"]) == ("", "out_of_range")


def test_a_network_that_knows_no_femur_says_nothing_of_it():
    row = examine(segmentation(femur=slice(0, 0)), {"BG": 0, "FB": 2}, 0.25).row()
    assert not [key for key in row if "fl" in key.split("_") and not key.endswith("flag")]


@pytest.mark.parametrize(("text", "weeks"), [("20", 20), ("20.5", 20.5), ("20+3", 20 + 3 / 7), ("20w3d", 20 + 3 / 7)])
def test_ages_that_are_understood(text, weeks):
    assert parse_weeks(text) == pytest.approx(weeks)
    assert weeks_and_days(parse_weeks("20+3")) == "20w3d"


@pytest.mark.parametrize("text", ["", "twenty", "20+9", "20+-1", "20.5+3", "20d", "20 3", "13.9", "41", "nan", "1e9"])
def test_ages_that_are_refused(text):
    with pytest.raises(UserError, match="age "):
        parse_weeks(text)


def test_centiles_end_below_100():
    words = [in_words(centile) for centile in (math.nan, 0.0, 0.99, 1.0, 50.4, 99.0, 99.9, 100.0)]
    assert words == ["-", "<1", "<1", "1", "50", "99", ">99", ">99"]


def test_every_flag_has_words():
    assert set(MEANINGS) == set(Flag)
