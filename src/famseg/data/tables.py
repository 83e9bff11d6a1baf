"""CSV tables that users write, with errors that name what is wrong."""

import csv
import math
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath

from famseg.errors import UserError

# A head of 14 weeks, 34 mm long, has 1,700 px at the lower limit, and a head at term, 120 mm, 60 px at the upper. HC18
# lies between 0.049 and 0.39 mm: most of its sizes in centimetres, and all in metres, would be outside.
PLAUSIBLE_MM = (0.02, 2.0)
"""Pixel sizes, mm, that an ultrasound image of a fetus may have."""


def read_rows(path: Path, columns: Collection[str], mend: str) -> list[dict[str, str]]:
    """Rows of a CSV file by column name; absent cells are empty, and rows of empty cells are none.

    Args:
        path: UTF-8 file with a header line.
        columns: Columns that must be there.
        mend: What the user can do when the file cannot be used.

    Raises:
        UserError: The file cannot be read, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows, present = [row for row in reader if any(row.values())], reader.fieldnames or []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {mend}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV file in UTF-8 ({error}). Save it as such (`CSV UTF-8`). {mend}") from None
    if len(present) == 1 and ";" in present[0]:
        separated = "separates columns by semicolons. Separate them by commas, and write decimals with a point."
        raise UserError(f"{path}: {separated} {mend}")
    if missing := [column for column in columns if column not in present]:
        raise UserError(f"{path}: has no column {missing[0]!r}. {mend}")
    return rows


def number(text: str) -> float:
    """A cell's number; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def mm_per_pixel(text: str, where: str) -> float:
    """A pixel size in mm; `where` it was given goes into the error.

    Raises:
        UserError: it is no positive number.
    """
    if not 0 < number(text) < math.inf:
        raise UserError(f"{where}: pixel size {text!r} is no positive number. Give millimetres per pixel, as 0.12.")
    return number(text)


def implausible(mm: float) -> str:
    """What is odd about a pixel size in mm, in words; empty where it is none or an ultrasound image may have it."""
    low, high = PLAUSIBLE_MM
    return f"is outside the {low:g} to {high:g} mm of ultrasound images" if mm < low or mm > high else ""


def same_letters(name: str) -> str:
    """A file name with one code for each letter: a Mac writes an umlaut as a letter and two dots, others as one."""
    return unicodedata.normalize("NFC", name)


def match_rows(table: Path, names: Sequence[str], files: Sequence[Path]) -> dict[Path, int]:
    """Which row of a table is a file's, for the files that have one.

    A row's name is the end of the file's path, the suffix may be missing: `IM1.png`, `a/IM1.png` and `a/IM1` are names
    of `w/a/IM1.png`. Of rows that fit, the one with more of the path is the file's.

    Args:
        table: where the rows are from, for errors.
        names: those of the rows.
        files: the files.

    Raises:
        UserError: two rows have one name, or one row is the row of several files.
    """
    rows: dict[tuple[str, ...], int] = {}
    for row, name in enumerate(names):
        if rows.setdefault(_parts(name.strip()), row) != row:
            raise UserError(f"{table}: {name} is listed twice. Remove one row, or give more of the path.")
    matched: dict[Path, int] = {}
    owners: dict[int, Path] = {}
    for file in files:
        row = next((rows[end] for end in _ends(file) if end in rows), -1)
        if row < 0:
            continue
        matched[file] = row
        other = owners.setdefault(row, file)
        if _place(other) != _place(file):
            mend = f"Give more of the path, as in {_telling_end(other, file)}."
            raise UserError(f"{table}, row {names[row]}: fits both {other} and {file}. {mend}")
    return matched


def _parts(path: str) -> tuple[str, ...]:
    return PurePath(same_letters(path).replace("\\", "/")).parts


def _place(file: Path) -> tuple[str, ...]:
    return _parts(os.path.abspath(file))


def _ends(file: Path) -> Iterator[tuple[str, ...]]:
    """The ends of a file's path, longer ones first, each with the suffix and without."""
    parts = _place(file)
    for start in range(len(parts)):
        yield parts[start:]
        yield (*parts[start:-1], PurePath(parts[-1]).stem)


def _telling_end(file: Path, other: Path) -> str:
    """As much of a file's path as the other's does not end with."""
    parts, others = _place(file), _place(other)
    count = next(n for n in range(1, len(parts) + 1) if parts[-n:] != others[-n:])
    return "/".join(parts[-count:])
