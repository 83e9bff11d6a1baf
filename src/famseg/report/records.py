"""What a finished cell has left in its folder, read and checked."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from famseg.errors import UserError
from famseg.report.derived import derived
from famseg.study.cells import Cell

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """The per-image table of a test.

    Attributes:
        names: (n,) files; see `told_apart`.
        groups: (n,) examination or subject of each.
        columns: name -> (n,) values, NaN where an image has none.
    """

    names: Sequence[str]
    groups: Sequence[str]
    columns: Mapping[str, Column]

    def named(self, column: str) -> dict[str, float]:
        """A column as image -> value; empty where the table lacks it."""
        if column not in self.columns:
            return {}
        return dict(zip(self.names, self.columns[column].tolist(), strict=True))

    def showing(self, column: str) -> dict[str, float]:
        """A score of a class, such as `dice_fl`, of the images whose truth shows it.

        Tables without the objects' sizes, as older runs have them: of those that have the score; a false alarm has one.
        """
        values, sizes = self.named(column), self.named(f"size_{column.rpartition('_')[2]}")
        return {name: value for name, value in values.items() if sizes.get(name, 1) > 0 and not math.isnan(value)}


@dataclass(frozen=True)
class Record:
    """A finished cell.

    Attributes:
        cell: where it lies and what it is.
        scores: scores of the test split, fractions and mm, and those of `report.derived`.
        images: scores of every test image.
        epochs: metrics.csv, name -> values; empty if it cannot be used.
        seconds: time of its process, or of its training if that is longer (it was resumed); NaN when unknown.
        train_seconds: time of its training epochs; NaN when unknown.
        images_per_s: median training speed of its epochs but the first; NaN when unknown.
        energy_wh: energy of its GPUs while it trained, other runs on them included; NaN where it was not recorded.
        remarks: what is wrong with it and yet does not keep it out of the tables.
    """

    cell: Cell
    scores: Mapping[str, float]
    images: Images
    epochs: Mapping[str, Column]
    seconds: float
    train_seconds: float
    images_per_s: float
    energy_wh: float
    remarks: Sequence[str]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.cell.config["seed"])

    @property
    def fold(self) -> int | None:
        """The fold that it was tested on; None where a split file deals."""
        data = self.cell.config.get("data") or {}
        fold = data.get("fold")
        return fold if isinstance(fold, int) and not data.get("split_file") else None


def read_record(cell: Cell) -> Record:
    """Read a cell whose state is done.

    Raises:
        UserError: its test is missing, half-written, or of other images than its split: it cannot be used.
    """
    scores = {name: float(column[0]) for name, column in _numbers(cell.folder / "test_scores.csv").items()}
    images = _images(cell.folder)
    if "miou" not in scores:
        raise UserError(f"{cell.folder / 'test_scores.csv'}: has no column miou. Repeat the run.")
    remarks: list[str] = []
    epochs = _optional(cell.folder / "metrics.csv", remarks)
    timing = _optional(cell.folder / "timing.csv", remarks)
    speeds = [v for v in timing.get("images_per_s", np.empty(0))[1:].tolist() if math.isfinite(v)]
    train_seconds = _sum(timing, "train_seconds")
    return Record(
        cell=cell,
        scores=scores | derived(images.columns, epochs, timing),
        images=images,
        epochs=epochs,
        seconds=float(np.fmax(_seconds(cell), train_seconds)),
        train_seconds=train_seconds,
        images_per_s=median(speeds) if speeds else math.nan,
        energy_wh=_sum(timing, "energy_wh"),
        remarks=remarks,
    )


def told_apart(records: Sequence[Record]) -> list[Record]:
    """The records with another name for every image that is not the one which an earlier record has by its name.

    Files of one name in two data sets, or phantoms drawn with other options, are two images: they show objects of other
    true sizes, and are no pairs.
    """
    seen: dict[str, list[dict[str, float]]] = {}
    return [replace(record, images=replace(record.images, names=_names(record.images, seen))) for record in records]


def _names(images: Images, seen: dict[str, list[dict[str, float]]]) -> list[str]:
    sizes = {name: column.tolist() for name, column in images.columns.items() if name.startswith("size_")}
    names = []
    for i, name in enumerate(images.names):
        truth, known = {key: values[i] for key, values in sizes.items()}, seen.setdefault(name, [])
        number = next((n for n, other in enumerate(known) if _agree(truth, other)), len(known))
        known += [truth] if number == len(known) else []
        names.append(f"{name} ({number + 1})" if number else name)
    return names


def _agree(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def _images(folder: Path) -> Images:
    path = folder / "test.csv"
    rows = _rows(path)
    if "file" not in rows[0]:
        raise UserError(f"{path}: has no column file. Repeat the run.")
    names = [row["file"] for row in rows]
    groups = _groups(folder, names)
    columns = {name: _column(path, name, rows) for name in rows[0] if name != "file" and "flags" not in name}
    return Images(names, groups, columns)


def _groups(folder: Path, names: Sequence[str]) -> list[str]:
    """The group of every image; the test's images must be those of the split."""
    path = folder / "split.csv"
    rows = _rows(path)
    if missing := {"file", "group", "split"} - rows[0].keys():
        raise UserError(f"{path}: has no column {min(missing)}. Repeat the run.")
    expected = {row["file"]: row["group"] for row in rows if row["split"] == "test"}
    if lacking := expected.keys() - set(names):
        raise UserError(
            f"{folder / 'test.csv'}: {len(lacking)} of the split's {len(expected)} test images are missing."
        )
    if foreign := set(names) - expected.keys():
        raise UserError(f"{path}: does not list {len(foreign)} of the images that were tested; it is half-written.")
    return [expected[name] for name in names]


def _optional(path: Path, remarks: list[str]) -> Mapping[str, Column]:
    try:
        return _numbers(path)
    except UserError as error:
        remarks.append(str(error))
        return {}


def _numbers(path: Path) -> dict[str, Column]:
    """The columns of a table that hold numbers."""
    rows = _rows(path)
    return {name: _column(path, name, rows) for name in rows[0] if name != "optimizer"}


def _column(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> Column:
    try:
        return np.array([float(row[name]) if row[name] else math.nan for row in rows])
    except ValueError as error:
        raise UserError(f"{path}: {name} holds something else than numbers ({error}).") from None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except FileNotFoundError:
        raise UserError(f"{path}: missing.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    if not rows:
        raise UserError(f"{path}: half-written (no rows).")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}: half-written (line {number} has {len(row)} of {len(header)} fields).")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _sum(table: Mapping[str, Column], name: str) -> float:
    return float(table[name].sum()) if name in table else math.nan


def _seconds(cell: Cell) -> float:
    seconds = cell.status.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else math.nan
