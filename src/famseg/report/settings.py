"""Cells that differ in seed and fold only are repeats of one setting; what tells the settings of a study apart."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from famseg.report.records import Record
from famseg.study.cells import Cell
from famseg.study.identity import options

# Groups that do not make another setting, and keys that repeat what another one says.
_NO_GROUP = ("hydra", "experiment", "logger", "scale")
_REPEATED = ("task.model.", "task.loss.", "task.optimizer.", "task.scheduler.", "task.switch.")

BASELINE = "baseline"  # name of the setting that others change in one thing


@dataclass(frozen=True)
class Setting:
    """A setting with its repeats.

    Attributes:
        cells: all its cells, finished or not.
        records: those that are finished and can be used, by seed and fold.
        differs: what tells it from the study's other settings: option by group, value by key.
        usual: of these, what more than half of the settings have in common, and names leave out.
    """

    cells: Sequence[Cell]
    records: Sequence[Record]
    differs: Mapping[str, str]
    usual: Mapping[str, str] = field(default_factory=dict)

    @property
    def choices(self) -> Mapping[str, str]:
        """Option names by group."""
        return self.cells[0].choices

    @property
    def name(self) -> str:
        """What tells it apart, in one line; `baseline` if that is nothing but what most have in common."""
        own = [f"{key}={value}" for key, value in self.differs.items() if self.usual.get(key) != value]
        return ", ".join(own) or (BASELINE if self.differs else self.choices.get("model", "run"))

    def values(self, score: str) -> list[float]:
        """A score of every finished run that has it."""
        found = (_score(record, score) for record in self.records)
        return [value for value in found if not math.isnan(value)]

    def mean(self, score: str) -> float:
        """Mean over the repeats; NaN where there is none."""
        values = self.values(score)
        return fmean(values) if values else math.nan

    def sd(self, score: str) -> float:
        """Standard deviation over the repeats; NaN for less than two."""
        values = self.values(score)
        return stdev(values) if len(values) > 1 else math.nan

    def by_seed(self, score: str) -> dict[int, float]:
        """Seed -> score."""
        return {record.seed: _score(record, score) for record in self.records}


def group_settings(cells: Iterable[Cell], records: Iterable[Record]) -> list[Setting]:
    """Group the cells of a study whose configuration can be read into settings, in the order of their appearance."""
    members: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.setting:
            members.setdefault(cell.setting, []).append(cell)
    usable: dict[str, list[Record]] = {}
    for record in records:
        usable.setdefault(record.cell.setting, []).append(record)
    differences = differing([group[0] for group in members.values()])
    usual = _usual(differences)
    return [
        Setting(group, sorted(usable.get(key, []), key=lambda r: (r.seed, r.fold or 0)), differs, usual)
        for (key, group), differs in zip(members.items(), differences, strict=True)
    ]


def over(settings: Iterable[Setting]) -> str:
    """What the finished runs of settings are repeats over, in words: "seeds", "folds", or "seeds and folds"."""
    records = [record for setting in settings for record in setting.records]
    if not has_folds(records):
        return "seeds"
    return "seeds and folds" if len({record.seed for record in records}) > 1 else "folds"


def has_folds(records: Iterable[Record]) -> bool:
    """Whether runs were tested on different folds of a cross-validation."""
    return len({record.fold for record in records if record.fold is not None}) > 1


def differing(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """What tells cells apart, for each of them.

    Option names of the groups that differ, and values of the keys that differ between cells of the same option:
    optimizer=sgd says all of its keys.
    """
    groups = [
        group
        for group in dict.fromkeys(group for cell in cells for group in cell.choices)
        if not group.startswith(_NO_GROUP) and "@" not in group and len({cell.choices.get(group) for cell in cells}) > 1
    ]
    flat = [options(cell.config) for cell in cells]
    keys = [key for key in dict.fromkeys(key for values in flat for key in values) if _differs(key, cells, flat)]
    return [
        {group: str(cell.choices.get(group, "-")) for group in groups}
        | {key: str(values[key]) for key in keys if key in values}
        for cell, values in zip(cells, flat, strict=True)
    ]


def _usual(differences: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The values that more than half of three or more settings share."""
    if len(differences) < 3:
        return {}
    counts = Counter(pair for differs in differences for pair in differs.items())
    return {key: value for (key, value), count in counts.items() if 2 * count > len(differences)}


def _differs(key: str, cells: Sequence[Cell], flat: Sequence[Mapping[str, Any]]) -> bool:
    if key.startswith(_REPEATED):
        return False
    by_option: dict[str | None, set[str]] = {}
    for cell, values in zip(cells, flat, strict=True):
        by_option.setdefault(cell.choices.get(key.partition(".")[0]), set()).add(str(values.get(key)))
    return any(len(values) > 1 for values in by_option.values())


def _score(record: Record, name: str) -> float:
    if name in ("images_per_s", "seconds", "train_seconds", "energy_wh"):
        return float(getattr(record, name))
    return record.scores.get(name, math.nan)
