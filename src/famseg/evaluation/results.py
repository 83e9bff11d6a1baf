"""What a test leaves: a table of images, the scores of the split, a sheet with the best, middle and worst images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from famseg.data.source import Source
from famseg.evaluation.agreement import write_agreement
from famseg.files import write_table
from famseg.inference import Predictor, segment
from famseg.metrics.summary import summarize
from famseg.overlays import Panel, sheet, write

Rows = Sequence[Mapping[str, Any]]


def write_results(
    folder: Path,
    rows: Rows,
    totals: Mapping[str, float],
    predictor: Predictor,
    source: Source,
    overlays: int = 8,
    at_once: int = 1,
) -> list[Panel]:
    """Write `test.csv`, `test_scores.csv`, `test_summary.csv` and `overlays/test_extremes.png`.

    `test.csv` has a row per image, `test_scores.csv` the scores of the split, `test_summary.csv` mean, median and the
    95 % bootstrap interval of every column of `test.csv`, drawn by group, `agreement_hc.png` and `agreement_fl.png` the
    measured against the true lengths, with intervals by group.

    Args:
        folder: where they go.
        rows: a row per image, `file` and its scores.
        totals: scores of the split.
        predictor: the tested network, to draw with.
        source: holds the images.
        overlays: how many images to draw.
        at_once: images that the network predicts at a time.

    Returns:
        What the sheet of overlays shows: the best, median and worst images.
    """
    write_table(folder / "test.csv", rows)
    write_table(folder / "test_scores.csv", [totals])
    write_table(folder / "test_summary.csv", summaries(rows, source))
    write_agreement(folder, rows, _groups(rows, source))
    drawn = panels(predictor, source, extremes(rows, overlays), at_once)
    if drawn:
        write(folder / "overlays" / "test_extremes.png", sheet(drawn, source.classes))
    return drawn


def table(totals: Mapping[str, float], title: str) -> Table:
    """The scores of a split for the terminal; a dash where there is none."""
    result = Table("score", "value", title=title)
    for name, value in totals.items():
        result.add_row(name, "-" if math.isnan(value) else f"{value:.4f}")
    return result


def summaries(rows: Rows, source: Source) -> list[dict[str, Any]]:
    """Mean, median and 95 % bootstrap interval of every number in a table of images.

    Args:
        rows: a row per image, `file` and its scores.
        source: knows the groups (examinations, subjects), which the bootstrap draws whole.
    """
    labels = _groups(rows, source)
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    return [{"score": key, **asdict(summarize([row[key] for row in rows], labels))} for key in numbers]


def extremes(rows: Rows, images: int) -> list[tuple[str, str]]:
    """The best, the middle and the worst images by mean Dice of the foreground classes.

    Args:
        rows: a row per image with `dice_<class>` of every class, the background first.
        images: how many at most.

    Returns:
        (file, caption) from best to worst.
    """
    scored = [(_foreground_dice(row), str(row["file"])) for row in rows]
    ranked = sorted((pair for pair in scored if not math.isnan(pair[0])), reverse=True)
    if len(ranked) <= images:
        return [(name, f"{name}  Dice {score:.3f}") for score, name in ranked]
    end = images // 3
    middle = (len(ranked) - (images - 2 * end)) // 2
    parts = {
        "best": ranked[:end],
        "median": ranked[middle : middle + images - 2 * end],
        "worst": ranked[len(ranked) - end :],
    }
    return [(name, f"{place}: {name}  Dice {score:.3f}") for place, part in parts.items() for score, name in part]


def panels(predictor: Predictor, source: Source, captions: Sequence[tuple[str, str]], at_once: int = 1) -> list[Panel]:
    """Panels of images, predicted now.

    Args:
        predictor: the network.
        source: holds the images.
        captions: (name of the image, caption).
        at_once: images that the network predicts at a time.
    """
    index = {name: i for i, name in enumerate(source.names)}
    drawn = []
    for first in range(0, len(captions), at_once):
        some = captions[first : first + at_once]
        samples = [source[index[name]] for name, _ in some]
        predictions = segment([predictor], [sample.image for sample in samples])
        for sample, prediction, (_, caption) in zip(samples, predictions, some, strict=True):
            drawn.append(Panel(sample.image, prediction.mask, sample.mask, caption))
    return drawn


def _groups(rows: Rows, source: Source) -> list[str]:
    groups = dict(zip(source.names, source.groups, strict=True))
    return [groups[row["file"]] for row in rows]


def _foreground_dice(row: Mapping[str, Any]) -> float:
    values = [float(value) for key, value in row.items() if key.startswith("dice_")][1:]
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
