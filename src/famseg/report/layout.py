"""A table as it will be printed: columns, rows, and which numbers are the best and the second best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from famseg.report.settings import Setting

DASH = "–"


@dataclass(frozen=True)
class Column:
    """A score of a table.

    Attributes:
        score: its name in a run's tables.
        title: its heading.
        scale: what its values are multiplied by; 100 for percent.
        digits: after the point.
        better: 1 if higher is better, -1 if lower, 0 if neither is marked.
        source: "paper" or "ours" where both are shown, else "".
    """

    score: str
    title: str
    scale: float = 1.0
    digits: int = 2
    better: int = 1
    source: str = ""

    @property
    def heading(self) -> str:
        """Title and source in one line."""
        return f"{self.title} {self.source}".strip()


@dataclass(frozen=True)
class Row:
    """A row: a setting of ours, a row of the paper, or both.

    Attributes:
        name: as printed.
        setting: ours; None where the study has none.
        paper: the paper's numbers by score, in percent.
    """

    name: str
    setting: Setting | None
    paper: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether there is a number of ours."""
        return self.setting is not None and bool(self.setting.records)


@dataclass(frozen=True)
class Number:
    """A number as printed.

    Attributes:
        text: the mean, rounded.
        spread: the standard deviation over the repeats, rounded, or "".
        place: 1 for the best of its column, 2 for the second best, else 0.
    """

    text: str
    spread: str = ""
    place: int = 0


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: a short name for files and links.
        title: its title.
        rows: its rows.
        columns: its columns.
        notes: sentences below it.
        reference: the row that the others are compared with; None without a comparison.
        best_is_reference: whether that row was chosen by its score.
    """

    key: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    reference: Row | None = None
    best_is_reference: bool = False

    def numbers(self) -> list[list[Number]]:
        """Every number, row by row; best and second best as printed, so that equal digits share a place."""
        texts = [[_text(row, column) for column in self.columns] for row in self.rows]
        places = [_places([line[i] for line in texts], column.better) for i, column in enumerate(self.columns)]
        return [
            [
                Number(text, _spread(row, column), places[i][r])
                for i, (text, column) in enumerate(zip(texts[r], self.columns, strict=True))
            ]
            for r, row in enumerate(self.rows)
        ]


def _text(row: Row, column: Column) -> str:
    if column.source == "paper":
        value = row.paper.get(column.score, math.nan)
    else:
        value = column.scale * row.setting.mean(column.score) if row.setting else math.nan
    return DASH if math.isnan(value) else f"{value:.{column.digits}f}"


def _spread(row: Row, column: Column) -> str:
    sd = math.nan if column.source == "paper" or row.setting is None else column.scale * row.setting.sd(column.score)
    return "" if math.isnan(sd) else f"{sd:.{column.digits}f}"


def _places(texts: Sequence[str], better: int) -> list[int]:
    values = sorted({float(text) for text in texts if text != DASH}, reverse=better > 0)
    # with fewer than two different numbers nothing is better than anything
    ranked = {value: place for place, value in enumerate(values[:2], start=1)} if better and len(values) > 1 else {}
    return [ranked.get(float(text), 0) if text != DASH else 0 for text in texts]
