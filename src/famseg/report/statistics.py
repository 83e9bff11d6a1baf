"""Paired comparisons of two settings, over seeds and over images, and what may be said of them."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from famseg.metrics.summary import summarize

LEVEL = 0.05
RESAMPLES = 9999  # of the permutation test: p is at least 1 / (RESAMPLES + 1)


@dataclass(frozen=True)
class Comparison:
    """The mean of paired differences, a less b.

    Attributes:
        difference: mean difference; NaN where there are no pairs.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided, before any correction; NaN where nothing can be tested.
        units: independent pairs behind it: seeds, or groups (examinations) of images.
        pairs: pairs: seeds or images.
    """

    difference: float
    low: float
    high: float
    p: float
    units: int
    pairs: int


def over_seeds(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare two settings by training again: Student's paired t-test, and his interval.

    With the three to five seeds that a study affords no rank or permutation test can reach 5 % (2 of 2^5 signs are
    6 %), so that normal differences are assumed. Differences without any spread are not tested.

    Args:
        a: (n,) a score per seed.
        b: (n,) of the same seeds in the same order.
    """
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if count == 0:
        return Comparison(math.nan, math.nan, math.nan, math.nan, 0, 0)
    mean = float(differences.mean())
    if not differences.any():
        return Comparison(0.0, 0.0, 0.0, 1.0 if count > 1 else math.nan, count, count)
    if count == 1 or np.ptp(differences) < 1e-12 * abs(mean):
        return Comparison(mean, math.nan, math.nan, math.nan, count, count)
    tested = stats.ttest_1samp(differences, 0.0)
    low, high = tested.confidence_interval(0.95)
    return Comparison(mean, float(low), float(high), float(tested.pvalue), count, count)


def over_images(differences: ArrayLike, groups: Sequence[Hashable], seed: int = 0) -> Comparison:
    """Compare two settings on the same images: sign flips of whole groups, and a bootstrap of whole groups.

    Images of one examination are alike: they are flipped and drawn together. Few groups are flipped in all ways.

    Args:
        differences: (n,) score of a less that of b, image by image; NaN where an image has none.
        groups: (n,) examination or subject of each image.
        seed: of the draws.
    """
    values = np.asarray(differences, np.float64)
    there = np.isfinite(values)
    values = values[there]
    members = [group for group, known in zip(groups, there, strict=True) if known]
    if not len(values):
        return Comparison(math.nan, math.nan, math.nan, math.nan, 0, 0)
    sums = _sums(values, members)
    summary = summarize(values, members, seed=seed)
    if len(sums) == 1:
        return Comparison(summary.mean, math.nan, math.nan, math.nan, 1, len(values))
    return Comparison(summary.mean, summary.low, summary.high, _sign_flips(sums, seed), len(sums), len(values))


def holm(p: Sequence[float], times: float = 1) -> list[float]:
    """Holm's correction of a family of p values; NaN stays out of the family and NaN.

    Source: Holm, Scandinavian Journal of Statistics 6:65-70, 1979.

    Args:
        p: of two-sided tests.
        times: how many times as large the family is, if these were picked out of it: the others then count as larger.
    """
    ranked = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, index) in enumerate(ranked):
        largest = max(largest, min(1.0, (times * len(ranked) - rank) * value))
        corrected[index] = largest
    return corrected


def _sums(values: NDArray[np.float64], members: Sequence[Hashable]) -> NDArray[np.float64]:
    index: dict[Hashable, int] = {}
    return np.asarray(np.bincount([index.setdefault(member, len(index)) for member in members], values), np.float64)


def _sign_flips(sums: NDArray[np.float64], seed: int) -> float:
    if not sums.any():
        return 1.0
    tested = stats.permutation_test(
        (sums,),
        lambda x, axis: np.sum(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)
