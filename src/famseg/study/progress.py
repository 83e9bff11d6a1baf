"""How far a cell has got: its tables of epochs."""

import csv
import math
from collections.abc import Sequence

from famseg.monitor import sign
from famseg.study.cells import Cell


def epochs(cell: Cell) -> int:
    """Finished epochs."""
    return len(_rows(cell))


def best_score(cell: Cell) -> float:
    """The best validation score so far, by the run's `monitor`; nan if there is none."""
    key = _monitor(cell)
    scores = [_number(row.get(key)) for row in _rows(cell)]
    known = [score for score in scores if not math.isnan(score)]
    return max(known, key=lambda score: sign(key) * score, default=math.nan)


def returned(cell: Cell) -> float:
    """The best validation score as train.py returns it, negated where lower is better."""
    return sign(_monitor(cell)) * best_score(cell)


def _monitor(cell: Cell) -> str:
    return str(cell.config.get("monitor", "val/miou"))


def _rows(cell: Cell) -> Sequence[dict[str, str]]:
    try:
        with (cell.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
