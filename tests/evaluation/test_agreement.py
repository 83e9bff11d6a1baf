import math
import sys

import numpy as np
import pytest

from famseg.evaluation.agreement import agreement, write_agreement


def rows(true, predicted, length="hc"):
    return [{f"{length}_mm": t, f"{length}_mm_predicted": p} for t, p in zip(true, predicted, strict=True)]


def test_limits_by_hand():
    found = agreement(rows([100, 200, 300, 400], [101, 203, 299, 401]), "hc")
    assert found.bias == pytest.approx(1.0)
    assert found.sd == pytest.approx(math.sqrt(8 / 3))
    assert found.limits() == pytest.approx((1 - 1.96 * 1.632993, 1 + 1.96 * 1.632993))
    of_bias, of_limit = found.uncertainty()
    assert of_bias == pytest.approx(3.182446 * 1.632993 / 2, rel=1e-5)  # Student's t of 3 degrees of freedom
    assert of_limit == pytest.approx(math.sqrt(3) * of_bias)


def test_a_miss_is_counted_and_an_unknown_truth_is_none():
    found = agreement([*rows([100, 200, math.nan], [math.nan, 201, 5]), {"file": "no head"}], "hc")
    assert (found.true.tolist(), found.predicted.tolist(), found.missed) == ([200], [201], 1)


def test_95_percent_lie_within_the_limits():
    rng = np.random.default_rng(0)
    true = rng.uniform(80, 350, 4000)
    found = agreement(rows(true, true + rng.normal(0.5, 2, 4000)), "hc")
    low, high = found.limits()
    assert ((found.differences > low) & (found.differences < high)).mean() == pytest.approx(0.95, abs=0.01)


def test_plots_of_what_there_is(tmp_path):
    table = rows([100, 200, 300], [101, 203, 299]) + rows([20.0], [21.0], "fl")
    assert [path.name for path in write_agreement(tmp_path / "new", table)] == ["agreement_hc.png"]
    assert (tmp_path / "new" / "agreement_hc.png").stat().st_size > 10_000
    assert write_agreement(tmp_path, []) == []


def test_constant_values_are_drawn(tmp_path):
    assert len(write_agreement(tmp_path, rows([100.0, 100.0], [100.0, 100.0]))) == 1


def test_nothing_global_is_touched(tmp_path):
    before = "matplotlib.pyplot" in sys.modules  # another test may have imported it
    write_agreement(tmp_path, rows([100, 200], [101, 203]))
    assert ("matplotlib.pyplot" in sys.modules) == before
