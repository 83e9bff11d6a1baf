"""What may be said of a table: every setting against the reference, over seeds and over images, in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from famseg.report.layout import Row, Table
from famseg.report.settings import Setting, over
from famseg.report.statistics import LEVEL, Comparison, holm, over_images, over_seeds


@dataclass(frozen=True)
class Claim:
    """A comparison of the reference with another setting by one score.

    Attributes:
        reference: name of the reference.
        other: name of the other.
        score: what was compared, as printed.
        unit: "seeds" or "images".
        found: reference less other, a fraction.
        p: after Holm's correction over the table's comparisons of the same unit; NaN where nothing was tested.
    """

    reference: str
    other: str
    score: str
    unit: str
    found: Comparison
    p: float

    @property
    def claimed(self) -> bool:
        """Whether a difference can be claimed."""
        return self.p < LEVEL

    def sentence(self) -> str:
        """The comparison in words."""
        pair, numbers = f"{self.reference} and {self.other}", self._numbers()
        if math.isnan(self.found.difference):
            return f"{pair} share no {self.unit} by which to compare {self.score}."
        if math.isnan(self.p):
            return f"Nothing can be said of {pair}: {self._why_untested()} ({numbers})."
        if not self.claimed:
            return f"No difference can be claimed between {pair}: {numbers}."
        if self.found.difference < 0:
            return f"{self.other} is better than {self.reference}: {self._numbers(-1)}."
        return f"{self.reference} is better than {self.other}: {numbers}."

    def _numbers(self, sign: int = 1) -> str:
        """Difference, interval and p; with the sign -1 those of the other less the reference."""
        found = self.found
        low, high = sorted((sign * found.low, sign * found.high))
        if not (found.difference or found.low or found.high):
            return f"{self.score} is the same" + (f" in all {found.pairs} {self.unit}" if found.pairs > 1 else "")
        text = f"{self.score} {100 * sign * found.difference:+.2f} points"
        if not math.isnan(found.low):
            text += f", 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
        if self.unit == "seeds":
            text += f", {found.units} seed{'s' if found.units != 1 else ''}"
        else:
            text += f", {found.pairs} images of {found.units} examinations"
        return text if math.isnan(self.p) else f"{text}, p {_p(self.p)} (Holm)"

    def _why_untested(self) -> str:
        if self.found.units == 1:
            return "one seed each" if self.unit == "seeds" else "one examination"
        return "the differences have no spread"


def make_claims(table: Table) -> list[Claim]:
    """All comparisons of a table with its reference: mIoU over seeds, Dice of every foreground class over images.

    With folds there are none over seeds: the folds' networks share training images and are not independent. A reference
    that was chosen by its score is corrected for all pairs: against eight equal ones the best of nine would else be
    called better in 9 to 13 % of studies, instead of 5.
    """
    if table.reference is None:
        return []
    others = [row for row in table.rows if row.finished and row is not table.reference]
    independent = over(row.setting for row in table.rows if row.setting is not None) == "seeds"
    seeds = [_by_seeds(table.reference, row) for row in others] if independent else []
    images = [claim for row in others for claim in _by_images(table.reference, row)]
    pairs = (len(others) + 1) / 2 if table.best_is_reference else 1
    return [*_corrected(seeds, pairs), *_corrected(images, pairs)]


def compare_images(a: Setting, b: Setting, column: str) -> Comparison:
    """Compare two settings by a column of test.csv, image by image, each image's score as `per_image` has it.

    False alarms are no part of it: a few of them, worth a whole object each, would hide what the objects say.
    """
    scores_a, scores_b = per_image(a, column), per_image(b, column)
    groups = {**_groups(a), **_groups(b)}
    names = sorted(scores_a.keys() & scores_b.keys())
    differences = [scores_a[name] - scores_b[name] for name in names]
    return over_images(differences, [groups[name] for name in names])


def per_image(setting: Setting, column: str) -> dict[str, float]:
    """Image that shows the column's class -> mean over the seeds, of the images that all seeds of a fold have tested.

    The folds of a cross-validation together have every image, each from the networks that were not trained on it.
    """
    folds: dict[int | None, list[dict[str, float]]] = {}
    for record in setting.records:
        folds.setdefault(record.fold, []).append(record.images.showing(column))
    return {name: score for runs in folds.values() for name, score in _means(runs).items()}


def _means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = set.intersection(*(set(run) for run in runs))
    return {name: fmean(run[name] for run in runs) for name in shared}


def _groups(setting: Setting) -> Mapping[str, str]:
    pairs = [pair for r in setting.records for pair in zip(r.images.names, r.images.groups, strict=True)]
    return dict(pairs)


def _by_seeds(reference: Row, other: Row) -> Claim:
    a, b = _settings(reference, other)
    first, second = a.by_seed("miou"), b.by_seed("miou")
    seeds = sorted(first.keys() & second.keys())
    found = over_seeds([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    return Claim(reference.name, other.name, "mIoU", "seeds", found, math.nan)


def _by_images(reference: Row, other: Row) -> Iterator[Claim]:
    a, b = _settings(reference, other)
    columns = [name for name in a.records[0].images.columns if name.startswith("dice_") and name != "dice_bg"]
    for column in columns:
        score = f"Dice {column.removeprefix('dice_').upper()}"
        yield Claim(reference.name, other.name, score, "images", compare_images(a, b, column), math.nan)


def _settings(reference: Row, other: Row) -> tuple[Setting, Setting]:
    if reference.setting is None or other.setting is None:
        raise ValueError("a row without a run is not compared")
    return reference.setting, other.setting


def _corrected(claims: Sequence[Claim], pairs: float) -> list[Claim]:
    corrected = holm([claim.found.p for claim in claims], pairs)
    return [replace(claim, p=p) for claim, p in zip(claims, corrected, strict=True)]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
