"""The figures of a study as data: curves over epochs, and points with intervals. Two renderers draw them."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from famseg.report.claims import Claim
from famseg.report.layout import Row, Table
from famseg.report.settings import Setting, over
from famseg.report.sizes import NAMES, SizeScores

# Femur and cranium as in the paper's Fig. 4, darker, since they are on white.
CLASS_COLOURS = {"BG": "#6b7280", "FL": "#d62728", "FB": "#1a9641"}
INK, QUIET = "#1f2937", "#9ca3af"
PALETTE = (
    "#2563a8",
    "#d98200",
    "#7b3fa0",
    "#0e9aa7",
    "#8c564b",
    "#c2458b",
    "#5b6470",
    "#9a9a00",
    "#4f46e5",
    "#111827",
)
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Line:
    """A curve, the mean over the runs of a setting.

    Attributes:
        name: for the legend.
        x: epochs, or whatever the figure's axis is (n,).
        y: mean (n,).
        low: lowest run (n,).
        high: highest run (n,).
        colour: as #rrggbb.
        dash: solid, dash, dot or dashdot.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    colour: str
    dash: str


@dataclass(frozen=True)
class Point:
    """A number with its interval.

    Attributes:
        label: what it is of.
        value: where it lies; NaN where there is none.
        low: lower end; NaN without an interval.
        high: upper end.
        dots: the single runs.
        paper: the paper's number; NaN where there is none.
        strong: False draws it pale.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    dots: Sequence[float] = ()
    paper: float = math.nan
    strong: bool = True


@dataclass(frozen=True)
class Panel:
    """Points side by side on one axis.

    Attributes:
        title: above it.
        unit: of the axis.
        colour: as #rrggbb.
        points: from top to bottom; all panels of a figure have the same labels.
        zero: whether to draw a line at 0.
    """

    title: str
    unit: str
    colour: str
    points: Sequence[Point]
    zero: bool = False


@dataclass(frozen=True)
class Lines:
    """A figure of curves."""

    key: str
    title: str
    y_label: str
    lines: Sequence[Line]
    caption: str = ""
    x_label: str = "epoch"


@dataclass(frozen=True)
class Dots:
    """A figure of panels."""

    key: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""
    same_scale: bool = False

    def ranges(self) -> list[tuple[float, float]]:
        """The axis of every panel, with a margin around all that is drawn."""
        drawn = [[x for p in panel.points for x in (p.value, p.low, p.high, p.paper, *p.dots)] for panel in self.panels]
        if self.same_scale:
            drawn = [[x for values in drawn for x in values]] * len(drawn)
        return [_range(values, panel.zero) for values, panel in zip(drawn, self.panels, strict=True)]


Chart = Lines | Dots


def curves(tables: Sequence[Table], settings: Sequence[Setting], names: Mapping[int, str]) -> list[Lines]:
    """Training loss (the paper's Fig. 5) and validation mIoU over the epochs, for each table's settings.

    One figure of either where a table has all settings.

    Args:
        tables: of the study.
        settings: all of them.
        names: id of a setting -> its name.
    """
    groups = {frozenset(id(row.setting) for row in table.rows if row.setting): table for table in reversed(tables)}
    if len(groups) < 2 or any(len(group) == len(settings) for group in groups):
        return _curves(settings, names, "", "", any(table.key.startswith("optimizers") for table in tables))
    charts: list[Lines] = []
    for table in reversed(groups.values()):
        named = {id(row.setting): row.name for row in table.rows if row.setting}
        shown = [setting for setting in settings if id(setting) in named]
        charts += _curves(shown, named, f"-{table.key}", f": {table.title}", table.key.startswith("optimizers"))
    return charts


def _curves(
    settings: Sequence[Setting], names: Mapping[int, str], key: str, title: str, optimizers: bool
) -> list[Lines]:
    caption = f"Mean over {over(settings)}; the band reaches from the lowest to the highest run."
    of_training = caption
    if len({setting.choices.get("model") for setting in settings}) > 1:
        of_training += " Where a network has auxiliary heads (BiSeNetV2), their losses are in it: compare the others."
    loss = _lines(settings, names, "train/loss")
    miou = _lines(settings, names, "val/miou")
    of_validation = f"{caption} At the network's resolution."
    as_paper = " (as the paper's Fig. 5)" if optimizers else ""
    charts = [
        Lines(f"loss{key}", f"Training loss{as_paper}{title}", "training loss", loss, of_training),
        Lines(f"validation{key}", f"Validation mIoU{title}", "mIoU", miou, of_validation),
    ]
    return [chart for chart in charts if chart.lines]


def class_scores(table: Table) -> Dots:
    """IoU of every class and their mean, row by row, with the paper's numbers where it has them."""
    rows = [row for row in table.rows if row.finished]
    panels = []
    for column in table.columns:
        if column.source != "paper":
            name = column.title.removeprefix("IoU ")
            points = [_point(row, column.score) for row in rows]
            panels.append(Panel(name, "IoU %", CLASS_COLOURS.get(name, INK), points))
    repeats = over(row.setting for row in rows if row.setting)
    caption = f"Mean over {repeats} and one standard deviation; small dots: the runs."
    if any(not math.isnan(point.paper) for panel in panels for point in panel.points):
        caption += " Hollow diamonds: the paper, on its own private images."
    return Dots(f"{table.key}-classes", f"{table.title}: per class", panels, caption)


def differences(table: Table, claims: Sequence[Claim]) -> Dots:
    """Difference of the reference to every other row with 95 % intervals; pale where none can be claimed."""
    panels: dict[tuple[str, str], list[Point]] = {}
    for claim in claims:
        found = claim.found
        point = Point(
            claim.other, 100 * found.difference, 100 * found.low, 100 * found.high, (), math.nan, claim.claimed
        )
        panels.setdefault((claim.score, claim.unit), []).append(point)
    reference = table.reference.name if table.reference else ""
    return Dots(
        f"{table.key}-differences",
        f"{table.title}: {reference} less each other",
        [
            Panel(f"{score}, over {unit}", "points", CLASS_COLOURS.get(score.removeprefix("Dice "), INK), points, True)
            for (score, unit), points in panels.items()
        ],
        "Right of zero the reference is better. 95 % intervals, each for itself; full colour where a difference can be "
        "claimed after Holm's correction.",
    )


def size_scores(scores: SizeScores, names: Mapping[int, str]) -> Dots:
    """Dice of one class in small, middle and large objects."""
    low, high = scores.limits
    titles = (f"up to {low}", f"{low} to {high}", f"above {high}")
    panels = []
    for i, (name, title) in enumerate(zip(NAMES, titles, strict=True)):
        points = []
        for setting, parts in scores.rows:
            mean, sd = (100 * value for value in parts[i])
            points.append(Point(names[id(setting)], mean, mean - sd, mean + sd))
        colour = CLASS_COLOURS.get(scores.label, INK)
        panels.append(Panel(f"{name}: {title}\n{scores.images[i]} images", "Dice %", colour, points))
    repeats = over(setting for setting, _ in scores.rows)
    caption = f"Size: {scores.measure}. Mean over the images of each tercile, over {repeats}; one standard deviation."
    title = f"{scores.label} by size of the object"
    return Dots(f"sizes-{scores.label.lower()}", title, panels, caption, same_scale=True)


def _range(values: Sequence[float], zero: bool) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    if not known:
        return 0.0, 1.0
    margin = 0.08 * (max(known) - min(known)) or 1.0
    return min(known) - margin, max(known) + margin


def _point(row: Row, score: str) -> Point:
    setting = row.setting
    if setting is None:
        return Point(row.name, math.nan)
    mean, sd = 100 * setting.mean(score), 100 * setting.sd(score)
    dots = [100 * value for value in setting.values(score)]
    return Point(row.name, mean, mean - sd, mean + sd, dots, row.paper.get(score, math.nan))


def _lines(settings: Sequence[Setting], names: Mapping[int, str], column: str) -> list[Line]:
    shown = [s for s in settings if any(column in record.epochs for record in s.records)]
    lines = []
    for setting, (colour, dash) in zip(shown, _styles(shown), strict=True):
        runs = [record.epochs[column] for record in setting.records if column in record.epochs]
        length = min(len(run) for run in runs)
        values = np.array([run[:length] for run in runs])
        epochs = np.arange(1, length + 1, dtype=np.float64)
        there = ~np.isnan(values).any(0)  # epochs without validation have no scores
        values, epochs = values[:, there], epochs[there]
        lines.append(Line(names[id(setting)], epochs, values.mean(0), values.min(0), values.max(0), colour, dash))
    return lines


def _styles(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    """Colour and dash of each curve: the optimizer's and its decay's where both vary, else a colour each."""
    optimizers = [(s.choices.get("optimizer"), s.choices.get("switch")) for s in settings]
    decays = [s.choices.get("scheduler") for s in settings]
    if len(set(optimizers)) > 1 and len(set(decays)) > 1:
        pairs = zip(_numbers(optimizers), _numbers(decays), strict=True)
    else:
        pairs = zip(range(len(settings)), (i // len(PALETTE) for i in range(len(settings))), strict=True)
    return [(PALETTE[colour % len(PALETTE)], DASHES[dash % len(DASHES)]) for colour, dash in pairs]


def _numbers(values: Sequence[Hashable]) -> list[int]:
    """Equal values -> the same number, in the order of their appearance."""
    index: dict[Hashable, int] = {}
    return [index.setdefault(value, len(index)) for value in values]
