import itertools
import math

import numpy as np
import pytest

from famseg.report.statistics import holm, over_images, over_seeds


def test_holm_by_hand():
    # 4 tests: 4 * 0.01, 3 * 0.02, 2 * 0.03 (raised to the one before), 1 * 0.04 (raised)
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_leaves_untested_pairs_out_of_the_family():
    corrected = holm([0.02, math.nan, 0.03])
    assert math.isnan(corrected[1])
    assert corrected[0] == pytest.approx(0.04)  # of two, not of three


def test_holm_of_some_of_a_larger_family():
    # of six tests: 6 * 0.01, 5 * 0.02, 4 * 0.5 (at most 1); the three that are not shown count as larger
    assert holm([0.5, 0.01, 0.02], times=2) == pytest.approx([1.0, 0.06, 0.1])


def test_the_best_of_equal_settings_is_seldom_called_better():
    rng = np.random.default_rng(4)
    alarms = []
    for _ in range(400):
        scores = rng.normal(0, 1, (9, 5))  # settings, seeds
        best = int(scores.mean(1).argmax())
        p = [over_seeds(scores[best], scores[i]).p for i in range(9) if i != best]
        alarms.append((min(holm(p)) < 0.05, min(holm(p, times=9 / 2)) < 0.05))
    plain, for_all_pairs = np.mean(alarms, axis=0)
    assert plain > 0.06
    assert for_all_pairs <= 0.05


def test_seeds_agree_with_the_textbook_formula():
    a, b = [0.91, 0.93, 0.92], [0.90, 0.91, 0.91]
    d = np.array([0.01, 0.02, 0.01])
    found = over_seeds(a, b)
    half = 4.302652729911275 * d.std(ddof=1) / math.sqrt(3)  # 97.5 % point of t with 2 degrees of freedom
    assert (found.difference, found.low, found.high) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # closed form for 2 degrees of freedom


def test_one_seed_has_a_difference_and_no_test():
    found = over_seeds([0.9], [0.8])
    assert found.difference == pytest.approx(0.1)
    assert math.isnan(found.p)
    assert math.isnan(found.low)


def test_differences_without_spread_are_not_called_certain():
    assert math.isnan(over_seeds([0.5, 0.6, 0.7], [0.4, 0.5, 0.6]).p)
    assert over_seeds([0.5, 0.6], [0.5, 0.6]).p == 1.0


def test_a_seed_without_a_score_is_left_out():
    assert over_seeds([0.9, math.nan, 0.8], [0.8, 0.5, 0.75]).units == 2


def test_sign_flips_agree_with_counting_all_of_them():
    d = np.array([0.3, 0.1, -0.05, 0.2, 0.15, -0.1, 0.25])
    signs = np.array(list(itertools.product([1, -1], repeat=len(d))))
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-12)
    assert over_images(d, range(len(d))).p == pytest.approx(exact)


def test_images_of_one_examination_count_once():
    d = np.repeat([0.3, 0.1, -0.05, 0.2, 0.15], 20)
    groups = np.repeat(np.arange(5), 20).tolist()
    found = over_images(d, groups)
    assert (found.units, found.pairs) == (5, 100)
    assert found.p >= 2 / 2**5  # no sign flip of five examinations gives less
    assert over_images(d, range(100)).p < 0.001  # what counting them alone would claim


def test_planted_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.05, 120)
    groups = (np.arange(120) // 2).tolist()
    assert over_images(noise + 0.03, groups).p < 0.001
    assert over_images(noise - noise.mean() + 0.001, groups).p > 0.5


def test_five_percent_of_false_alarms_where_there_is_no_difference():
    rng = np.random.default_rng(2)
    groups = (np.arange(20) // 2).tolist()
    shared = rng.normal(0, 0.05, (120, 10)).repeat(2, axis=1)  # alike within an examination
    alarms = np.mean([over_images(row + rng.normal(0, 0.01, 20), groups).p < 0.05 for row in shared])
    assert 0.01 <= alarms <= 0.09


def test_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    groups = (np.arange(80) // 2).tolist()
    inside = []
    for _ in range(70):
        d = rng.normal(0.02, 0.05, 40).repeat(2) + rng.normal(0, 0.01, 80)
        found = over_images(d, groups)
        inside.append(found.low <= 0.02 <= found.high)
    assert 0.87 <= np.mean(inside) <= 0.995  # 95 % wanted; the percentile bootstrap of 40 groups is a little narrow


def test_no_pairs_no_number():
    found = over_images([math.nan, math.nan], ["a", "b"])
    assert math.isnan(found.difference)
    assert found.pairs == 0
