import math

import numpy as np
import pytest

from famseg.biometry import Ellipse, hadlock_1984, intergrowth_21st

GOLDEN = {100: (14.660, 14.188), 175: (20.018, 20.221), 250: (27.148, 27.115), 320: (36.070, 35.742)}


@pytest.mark.parametrize("hc", GOLDEN)
def test_age_by_head_circumference(hc):
    assert (hadlock_1984(hc_mm=hc).weeks, intergrowth_21st(hc_mm=hc).weeks) == pytest.approx(GOLDEN[hc], abs=5e-4)


@pytest.mark.parametrize("hc", [175, 320])
def test_known_wrong_variants_are_told_apart(hc):
    cm = hc / 10
    squared = 8.96 + 0.540 * cm + 0.0003 * cm**2
    log1p = math.exp(0.05970 * math.log1p(hc) ** 2 + 6.409e-9 * hc**3 + 3.3258) / 7
    assert abs(hadlock_1984(hc_mm=hc).weeks - squared) > 1
    assert abs(intergrowth_21st(hc_mm=hc).weeks - log1p) > 0.05


def test_circumference_by_mean_diameter_is_another_age():
    bpd, ofd = 66.0, 94.0
    ours = hadlock_1984(hc_mm=Ellipse(0, 0, ofd / 2, bpd / 2, 0).perimeter())
    assert ours.weeks - hadlock_1984(hc_mm=math.pi * (bpd + ofd) / 2).weeks > 0.15


@pytest.mark.parametrize(
    ("given", "weeks"),
    [
        ({"bpd_mm": 50}, 9.54 + 7.41 + 4.19),
        ({"fl_mm": 31}, 10.35 + 7.626 + 1.6337),
        ({"hc_mm": 175, "fl_mm": 31}, 11.19 + 0.07 * 17.5 * 3.1 + 0.263 * 17.5),
        ({"hc_mm": 175, "bpd_mm": 48, "fl_mm": 31}, 11.38 + 0.07 * 17.5 * 3.1 + 0.98 * 4.8),
        ({"bpd_mm": 48, "fl_mm": 31}, 10.5 + 0.197 * 4.8 * 3.1 + 0.95 * 3.1 + 0.73 * 4.8),
        ({"hc_mm": 175, "bpd_mm": 48}, 10.32 + 0.009 * 17.5**2 + 1.32 * 4.8 + 0.00012 * 17.5**3),
    ],
)
def test_hadlock_takes_the_equation_for_what_is_given(given, weeks):
    assert hadlock_1984(**given).weeks == pytest.approx(weeks)


def test_all_equations_agree_on_a_fetus_of_20_weeks():
    ages = [
        hadlock_1984(hc_mm=174),
        hadlock_1984(bpd_mm=47),
        hadlock_1984(fl_mm=32),
        hadlock_1984(174, 47),
        hadlock_1984(174, fl_mm=32),
        hadlock_1984(bpd_mm=47, fl_mm=32),
        hadlock_1984(174, 47, 32),
        intergrowth_21st(174),
        intergrowth_21st(174, 32),
    ]
    assert [age.weeks for age in ages] == pytest.approx([20] * len(ages), abs=0.4)
    assert len({age.method for age in ages}) == len(ages)


@pytest.mark.parametrize(
    "age",
    [
        hadlock_1984(hc_mm=67.9),
        hadlock_1984(hc_mm=360.1),
        hadlock_1984(hc_mm=-5),
        hadlock_1984(bpd_mm=103),
        hadlock_1984(hc_mm=175, fl_mm=84),
        intergrowth_21st(hc_mm=97),
        intergrowth_21st(hc_mm=350),
        intergrowth_21st(hc_mm=0),
        intergrowth_21st(hc_mm=175, fl_mm=-3),
        intergrowth_21st(hc_mm=math.inf),
    ],
)
def test_out_of_range_is_nan_and_a_flag(age):
    assert age.flag == "out_of_range"
    assert np.isnan([age.weeks, age.low, age.high]).all()


@pytest.mark.parametrize("age", [hadlock_1984(), intergrowth_21st(), intergrowth_21st(fl_mm=30)])
def test_without_measurements_there_is_no_age(age):
    assert math.isnan(age.weeks)
    assert age.flag == "not_measured"


def test_intervals_only_where_published():
    early, later = intergrowth_21st(175, 31), intergrowth_21st(320, 66)
    assert early.high - early.weeks == early.weeks - early.low == pytest.approx(1 + (early.weeks - 14) / 12)
    assert math.isnan(later.low)
    assert math.isnan(intergrowth_21st(175).low)
    assert hadlock_1984(175).high == pytest.approx(1.08 * hadlock_1984(175).weeks)
    assert math.isnan(hadlock_1984(bpd_mm=47).high)


def test_completed_days():
    assert hadlock_1984(hc_mm=175).days == 140  # 20.018 weeks: 20 + 0
