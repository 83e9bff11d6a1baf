"""How far a cell has got: its tables of epochs."""

import csv
import math
from collections.abc import Sequence

from famseg.study.cells import Cell


def epochs(cell: Cell) -> int:
    """Finished epochs."""
    return len(_rows(cell))


def best_score(cell: Cell) -> float:
    """The best validation score so far, by the run's `monitor`; nan if there is none."""
    key = str(cell.config.get("monitor", "val/miou"))
    scores = [_number(row.get(key)) for row in _rows(cell)]
    return max((score for score in scores if not math.isnan(score)), default=math.nan)


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
