"""Small, middle and large objects apart: a network may be good on average and lose the small ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from famseg.report.settings import Setting

NAMES = ("small", "middle", "large")
_LENGTH = {"fl": "fl_mm", "fb": "hc_mm"}


@dataclass(frozen=True)
class SizeScores:
    """Dice of one class in the terciles of object size.

    Attributes:
        label: the class, upper case.
        measure: what size means here.
        limits: the two sizes between the terciles, as printed with a unit.
        images: number of test images in each tercile.
        rows: setting -> for each tercile mean and standard deviation over seeds of the mean Dice over its images.
    """

    label: str
    measure: str
    limits: tuple[str, str]
    images: tuple[int, int, int]
    rows: Sequence[tuple[Setting, Sequence[tuple[float, float]]]]


def score_sizes(settings: Sequence[Setting]) -> list[SizeScores]:
    """Dice by size for every class whose objects have a size; images without the object are left out.

    The terciles are of all test images of the study together, so that every setting is asked the same.
    """
    finished = [setting for setting in settings if setting.records]
    classes = dict.fromkeys(
        name.removeprefix("dice_")
        for setting in finished
        for name in setting.records[0].images.columns
        if name.startswith("dice_") and name != "dice_bg"
    )
    found = (_score_class(finished, name) for name in classes)
    return [scores for scores in found if scores is not None]


def _score_class(settings: Sequence[Setting], name: str) -> SizeScores | None:
    column = _size_column(settings, name)
    sizes = _sizes(settings, column)
    if len(sizes) < len(NAMES):
        return None
    low, high = np.quantile(list(sizes.values()), [1 / 3, 2 / 3])
    parts = {image: int(size > low) + int(size > high) for image, size in sizes.items()}
    counts = [sum(part == i for part in parts.values()) for i in range(3)]
    rows = [(setting, _by_part(setting, f"dice_{name}", parts)) for setting in settings]
    measure, form = (
        ("share of the picture", "{:.2%}")
        if column.startswith("size_")
        else (f"true {column[:2].upper()}", "{:.0f} mm")
    )
    limits = (form.format(low), form.format(high))
    return SizeScores(name.upper(), measure, limits, (counts[0], counts[1], counts[2]), rows)


def _size_column(settings: Sequence[Setting], name: str) -> str:
    """The object's share of the picture; of older tables its true length."""
    share = f"size_{name}"
    everywhere = all(share in record.images.columns for setting in settings for record in setting.records)
    return share if everywhere else _LENGTH.get(name, share)


def _sizes(settings: Sequence[Setting], column: str) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for setting in settings:
        for record in setting.records:
            sizes |= record.images.named(column)
    return {image: size for image, size in sizes.items() if size > 0}


def _by_part(setting: Setting, column: str, parts: Mapping[str, int]) -> list[tuple[float, float]]:
    runs: list[list[list[float]]] = []
    for record in setting.records:
        scores: list[list[float]] = [[], [], []]
        for image, dice in record.images.named(column).items():
            if image in parts and not math.isnan(dice):
                scores[parts[image]].append(dice)
        runs.append(scores)
    return [_mean_sd([fmean(run[i]) for run in runs if run[i]]) for i in range(3)]


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    return fmean(values), stdev(values) if len(values) > 1 else math.nan
