"""Small, middle and large objects apart: a network may be good on average and lose the small ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from famseg.report.layout import Column, Row, Table
from famseg.report.records import Record
from famseg.report.settings import Setting, over

NAMES = ("small", "middle", "large")
# score, heading, scale, digits, better: of the table; small and large objects beside each other
_SCORES = (
    ("dice", "Dice %", 100.0, 2, 1),
    ("hd95_mm", "HD95 mm", 1.0, 2, -1),
    ("assd_mm", "ASSD mm", 1.0, 3, -1),
    ("boundary_iou", "boundary IoU %", 100.0, 2, 1),
    ("jaggedness", "jaggedness", 1.0, 4, -1),
)
_APART = "Rows were tested on different images, and compare where these are the same."
_LENGTH = {"fl": "fl_mm", "fb": "hc_mm"}


@dataclass(frozen=True)
class SizeScores:
    """Dice of one class in the terciles of object size.

    Attributes:
        label: the class, upper case.
        measure: what size means here.
        limits: the two sizes between the terciles, as printed with a unit.
        images: number of test images in each tercile.
        rows: setting -> for each tercile mean and standard deviation over its runs of the mean Dice over its images.
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
    found = (_score_class(finished, name) for name in _classes(finished))
    return [scores for scores in found if scores is not None]


def with_sizes(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, their runs' scores joined by those of small and of large objects, such as `hd95_mm_fb_small`."""
    finished = [setting for setting in settings if setting.records]
    further: dict[int, dict[str, float]] = {id(record): {} for setting in finished for record in setting.records}
    for name in _classes(finished):
        parts = _parts(_sizes(finished, _size_column(finished, name)))
        for setting in finished:
            for record in setting.records:
                further[id(record)] |= _of_small_and_large(record, name, parts)
    return [
        replace(setting, records=[replace(r, scores={**r.scores, **further[id(r)]}) for r in setting.records])
        for setting in settings
    ]


def size_tables(settings: Sequence[Setting], names: Mapping[int, str]) -> list[Table]:
    """Per class: overlap, boundary errors and jaggedness of small and of large objects apart.

    Args:
        settings: as `with_sizes` gives them.
        names: id of a setting -> its name.
    """
    finished = [setting for setting in settings if setting.records]
    rows = [Row(names[id(setting)], setting, {}) for setting in finished]
    tables = []
    for scores in score_sizes(finished):
        name = scores.label.lower()
        columns = [
            Column(f"{score}_{name}_{size}", f"{title} {size}", scale, digits, better)
            for score, title, scale, digits, better in _SCORES
            for size in (NAMES[0], NAMES[2])
        ]
        shown = [c for c in columns if any(not math.isnan(setting.mean(c.score)) for setting in finished)]
        low, high = scores.limits
        note = (
            f"Terciles of the test images by {scores.measure}: small up to {low} ({scores.images[0]} images), large "
            f"above {high} ({scores.images[2]}). Means over images, then over {over(finished)}. A missed "
            "object: see HD95 above."
        )
        notes = [note, _APART] if _apart(finished) else [note]
        tables.append(Table(f"sizes-{name}", f"{scores.label}: small and large objects", rows, shown, notes))
    return tables


def _apart(settings: Sequence[Setting]) -> bool:
    tested = {frozenset(name for record in setting.records for name in record.images.names) for setting in settings}
    return len(tested) > 1


def _of_small_and_large(record: Record, name: str, parts: Mapping[str, int]) -> dict[str, float]:
    found = {}
    for score, *_ in _SCORES:
        values = record.images.named(f"{score}_{name}")
        for part in (0, 2):
            known = [v for image, v in values.items() if parts.get(image) == part and not math.isnan(v)]
            if known:
                found[f"{score}_{name}_{NAMES[part]}"] = fmean(known)
    return found


def _score_class(settings: Sequence[Setting], name: str) -> SizeScores | None:
    column = _size_column(settings, name)
    sizes = _sizes(settings, column)
    if len(sizes) < len(NAMES):
        return None
    low, high = _limits(sizes)
    parts = _parts(sizes)
    counts = [sum(part == i for part in parts.values()) for i in range(3)]
    rows = [(setting, _by_part(setting, f"dice_{name}", parts)) for setting in settings]
    measure, form = (
        ("share of the picture", "{:.2%}")
        if column.startswith("size_")
        else (f"true {column[:2].upper()}", "{:.0f} mm")
    )
    limits = (form.format(low), form.format(high))
    return SizeScores(name.upper(), measure, limits, (counts[0], counts[1], counts[2]), rows)


def _classes(settings: Sequence[Setting]) -> list[str]:
    columns = dict.fromkeys(name for setting in settings for name in setting.records[0].images.columns)
    return [name.removeprefix("dice_") for name in columns if name.startswith("dice_") and name != "dice_bg"]


def _limits(sizes: Mapping[str, float]) -> tuple[float, float]:
    low, high = np.quantile(list(sizes.values()), [1 / 3, 2 / 3])
    return float(low), float(high)


def _parts(sizes: Mapping[str, float]) -> dict[str, int]:
    """Image -> its tercile; none for too few."""
    if len(sizes) < len(NAMES):
        return {}
    low, high = _limits(sizes)
    return {image: int(size > low) + int(size > high) for image, size in sizes.items()}


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
