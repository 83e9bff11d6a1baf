"""CSV tables that users write, with errors that name what is wrong."""

import csv
import math
from collections.abc import Collection
from pathlib import Path

from famseg.errors import UserError


def read_rows(path: Path, columns: Collection[str], mend: str) -> list[dict[str, str]]:
    """Rows of a CSV file by column name; absent cells are empty.

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
            rows, present = list(reader), reader.fieldnames or []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {mend}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV file in UTF-8 ({error}). {mend}") from None
    if missing := [column for column in columns if column not in present]:
        separated = " Separate columns by commas and write decimals with a point." if ";" in "".join(present) else ""
        raise UserError(f"{path}: has no column {missing[0]!r}.{separated} {mend}")
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
        raise UserError(f"{where}: pixel size {text!r} is no positive number. Give millimetres per pixel.")
    return number(text)
