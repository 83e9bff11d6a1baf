"""Pixel sizes that a user gives for images that do not know theirs: one for all, or a table."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from famseg.data.images import is_dicom
from famseg.data.tables import implausible, match_rows, mm_per_pixel, number, read_rows
from famseg.errors import UserError

_NAMED = 5  # names in a warning; of more, their number is said


def spacings(option: str | None, files: Sequence[Path]) -> tuple[Callable[[Path], float], list[str]]:
    """What `--spacing` says: a number of mm per pixel for all, or a CSV file with a row per file (`match_rows`).

    The table's columns are `file,mm_per_pixel`, or HC18's `filename,pixel size(mm)`; an empty cell is an unknown size.

    Args:
        option: as on the command line; None: nothing is known.
        files: those that will be asked for.

    Returns:
        File -> mm per pixel, NaN when unknown; and in words which rows fit no image, and which images get no size.

    Raises:
        UserError: no pixel size, a table that cannot be read, or rows that cannot be told apart.
    """
    if option is None:
        return lambda path: math.nan, []
    text = option.replace(",", ".")  # as the page takes it
    if math.isnan(number(text)):
        return _from_table(Path(option), files)
    value = pixel_size(text, f"--spacing {option}")
    return lambda path: value, []


def pixel_size(text: str, where: str) -> float:
    """A pixel size in mm; `where` it was given goes into the error.

    Raises:
        UserError: it is no positive number, or none that an ultrasound image has.
    """
    mm = mm_per_pixel(text, where)
    if odd := implausible(mm):
        raise UserError(f"{where}: pixel size {text!r} {odd}. Give millimetres per pixel.")
    return mm


def _from_table(table: Path, files: Sequence[Path]) -> tuple[Callable[[Path], float], list[str]]:
    names, sizes = _read(table)
    row_of = match_rows(table, names, files)
    known = {file: sizes[row] for file, row in row_of.items() if not math.isnan(sizes[row])}
    warnings = []
    if idle := [name for row, name in enumerate(names) if row not in set(row_of.values())]:
        warnings.append(f"{table}: no image for {_listed(idle)}. Check the names.")
    if lacking := [str(file) for file in files if file not in known and not is_dicom(file)]:
        warnings.append(f"{table}: no pixel size for {_listed(lacking)}: measured in pixels, not in mm.")
    return lambda path: known.get(path, math.nan), warnings


def _read(path: Path) -> tuple[list[str], list[float]]:
    """File names and mm per pixel of the rows."""
    mend = "Give millimetres per pixel, or a table with the columns file,mm_per_pixel."
    rows = read_rows(path, (), mend)
    present = set(rows[0]) if rows else set()
    for name, size in (("file", "mm_per_pixel"), ("filename", "pixel size(mm)")):
        if {name, size} <= present:
            cells = [(row[name], row[size].strip()) for row in rows]
            sizes = [pixel_size(text, f"{path}, row {file}") if text else math.nan for file, text in cells]
            return [file for file, _ in cells], sizes
    raise UserError(f"{path}: is no table of pixel sizes. {mend}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
