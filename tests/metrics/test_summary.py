import math

import numpy as np
import pytest

from famseg.metrics import summary
from famseg.metrics.summary import summarize


def test_mean_median_and_missing():
    found = summarize([1.0, math.nan, 2.0, 6.0])
    assert (found.mean, found.median, found.count, found.missing) == (3, 2, 3, 1)
    assert found.low < 3 < found.high


def test_nothing_to_summarize():
    found = summarize([math.nan, math.nan])
    assert (found.count, found.missing) == (0, 2)
    assert np.isnan([found.mean, found.median, found.low, found.high]).all()


def test_interval_is_that_of_the_normal_law_on_many_images():
    scores = np.random.default_rng(1).normal(5, 2, size=400)
    found = summarize(scores)
    half = 1.96 * scores.std() / 20
    assert (found.low, found.high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.02)


def test_interval_covers_the_truth_in_19_of_20_samples():
    rng = np.random.default_rng(2)
    samples = [summarize(rng.normal(size=60), draws=300) for _ in range(300)]
    assert 0.91 < np.mean([s.low <= 0 <= s.high for s in samples]) < 0.98


def test_images_of_one_examination_do_not_count_as_many():
    scores = np.random.default_rng(3).normal(size=60).repeat(4)
    alone, grouped = summarize(scores), summarize(scores, groups=np.arange(60).repeat(4).tolist())
    assert alone.mean == grouped.mean
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.2)


def test_deterministic():
    assert summarize([1, 2, 3], draws=50) == summarize([1, 2, 3], draws=50)


@pytest.mark.parametrize("together", [1, 25, 10**9])
def test_no_draw_depends_on_how_many_are_made_at_once(monkeypatch, together):
    monkeypatch.setattr(summary, "TOGETHER", together)
    rng = np.random.default_rng(0)
    means = [np.mean(np.array([1.0, 2.0, 6.0])[rng.integers(3, size=3)]) for _ in range(50)]
    found = summarize([1, 2, 6], draws=50)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]))
