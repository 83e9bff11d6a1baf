"""What a column of the per-image table says about the whole split."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOGETHER = 65536  # groups drawn at once: a few bootstrap samples of many groups, all of few


@dataclass(frozen=True)
class Summary:
    """A score over the images of a split.

    Attributes:
        mean: over the images that have the score.
        median: of the same.
        low: lower end of the 95 % bootstrap interval of the mean.
        high: its upper end.
        count: images that have the score.
        missing: images that do not (NaN): say so beside every mean.
    """

    mean: float
    median: float
    low: float
    high: float
    count: int
    missing: int


def summarize(values: ArrayLike, groups: Sequence[Hashable] | None = None, draws: int = 2000, seed: int = 0) -> Summary:
    """Mean, median and bootstrap interval (percentiles) of a score, NaN left out and counted.

    Args:
        values: (n,) a score per image.
        groups: (n,) examination or subject of each image: images of one are alike, so that whole groups are drawn.
        draws: bootstrap samples.
        seed: of the draws.
    """
    scores = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(scores)
    found = scores[there]
    if not len(found):
        return Summary(math.nan, math.nan, math.nan, math.nan, 0, len(scores))
    labels = range(len(scores)) if groups is None else groups
    index: dict[Hashable, int] = {}
    member = np.array([index.setdefault(label, len(index)) for label in labels])[there]
    low, high = np.percentile(_bootstrap_means(found, member, draws, seed), [2.5, 97.5])
    return Summary(
        float(found.mean()), float(np.median(found)), float(low), float(high), len(found), int((~there).sum())
    )


def _bootstrap_means(
    scores: NDArray[np.float64], member: NDArray[np.integer], draws: int, seed: int
) -> NDArray[np.float64]:
    sizes = np.bincount(member)
    sums = np.bincount(member, scores)[sizes > 0]
    sizes = sizes[sizes > 0]
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for part in np.array_split(means, math.ceil(draws * len(sizes) / TOGETHER)):
        drawn = rng.integers(len(sizes), size=(len(part), len(sizes)))
        part[:] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return means
