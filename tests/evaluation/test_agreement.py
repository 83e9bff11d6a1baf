import math
import sys

import numpy as np
import pytest

from famseg.evaluation.agreement import agreement, write_agreement


def rows(true, predicted, length="hc"):
    return [{f"{length}_mm": t, f"{length}_mm_predicted": p} for t, p in zip(true, predicted, strict=True)]


def test_limits_by_hand():
    found = agreement(rows([100, 200, 300, 400], [101, 203, 299, 401]), "hc", range(4))
    assert found.bias == pytest.approx(1.0)
    assert found.sd == pytest.approx(math.sqrt(8 / 3))
    assert found.limits() == pytest.approx((1 - 1.96 * 1.632993, 1 + 1.96 * 1.632993))
    assert found.uncertainty()[1] == pytest.approx(3.182446 * 1.632993 / 2, rel=1e-5)  # Student's t of 3


@pytest.mark.slow
def test_many_images_that_are_independent_have_the_intervals_of_the_paper():
    true = np.full(4000, 100.0)
    found = agreement(rows(true, true + np.random.default_rng(0).normal(0.5, 2, 4000)), "hc", range(4000))
    of_bias = 1.96 * 2 / math.sqrt(4000)
    assert found.uncertainty() == pytest.approx((math.sqrt(3) * of_bias, of_bias, math.sqrt(3) * of_bias), rel=0.05)


def test_intervals_hold_the_truth_though_images_of_one_subject_are_alike():
    """30 subjects of three images; taken for independent, they held the bias in 73 to 82 % of such tables."""
    rng, subjects, true = np.random.default_rng(0), np.repeat(np.arange(30), 3), np.full(90, 100.0)
    held = np.zeros(3)
    for _ in range(500):
        errors = 0.5 + 1.5 * rng.normal(size=30)[subjects] + rng.normal(size=90)
        found = agreement(rows(true, true + errors), "hc", subjects.tolist())
        right = 0.5 + math.hypot(1.5, 1) * 1.96 * np.array([-1, 0, 1])
        (low, high), halves = found.limits(), np.array(found.uncertainty())
        held += abs([low, found.bias, high] - right) < halves
    assert 0.93 < held[1] / 500 < 0.98
    assert min(held) / 500 > 0.87


def test_a_second_copy_of_every_image_says_nothing_new():
    true, subjects = np.full(60, 100.0), list(range(60))
    errors = np.random.default_rng(0).normal(0.5, 2, 60)
    once = agreement(rows(true, true + errors), "hc", subjects)
    twice = agreement(rows(np.tile(true, 2), np.tile(true + errors, 2)), "hc", subjects * 2)
    assert twice.uncertainty() == pytest.approx(once.uncertainty(), rel=0.02)


def test_one_subject_says_nothing_of_others(tmp_path):
    table = rows([100, 200, 300], [101, 203, 299])
    assert np.isnan(agreement(table, "hc", ["anna"] * 3).uncertainty()).all()
    assert len(write_agreement(tmp_path, table, ["anna"] * 3)) == 1


def test_a_miss_is_counted_and_an_unknown_truth_is_none():
    found = agreement([*rows([100, 200, math.nan], [math.nan, 201, 5]), {"file": "no head"}], "hc", "abcd")
    assert (found.true.tolist(), found.predicted.tolist(), found.missed) == ([200], [201], 1)
    assert found.groups.tolist() == [0]


def test_95_percent_lie_within_the_limits():
    rng = np.random.default_rng(0)
    true = rng.uniform(80, 350, 4000)
    found = agreement(rows(true, true + rng.normal(0.5, 2, 4000)), "hc", range(4000))
    low, high = found.limits()
    assert ((found.differences > low) & (found.differences < high)).mean() == pytest.approx(0.95, abs=0.01)


def test_plots_of_what_there_is(tmp_path):
    table = rows([100, 200, 300], [101, 203, 299]) + rows([20.0], [21.0], "fl")
    assert [path.name for path in write_agreement(tmp_path / "new", table, "abca")] == ["agreement_hc.png"]
    assert (tmp_path / "new" / "agreement_hc.png").stat().st_size > 10_000
    assert write_agreement(tmp_path, [], []) == []


def test_constant_values_are_drawn(tmp_path):
    assert len(write_agreement(tmp_path, rows([100.0, 100.0], [100.0, 100.0]), "ab")) == 1


def test_nothing_global_is_touched(tmp_path):
    before = "matplotlib.pyplot" in sys.modules  # another test may have imported it
    write_agreement(tmp_path, rows([100, 200], [101, 203]), "ab")
    assert ("matplotlib.pyplot" in sys.modules) == before
