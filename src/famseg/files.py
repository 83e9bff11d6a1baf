"""Files that are either old or new, never half."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from famseg.errors import UserError


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends without an error; folders are made.

    Raises:
        UserError: it cannot be written.
    """
    with _replacement(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once; a link of that name is replaced, and what it points to stays as it is.

    Raises:
        UserError: it cannot be written.
    """
    with _replacement(path) as partial:
        partial.write_bytes(data)


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        what = f"{path}: could not be written ({error.strerror}). Check the free space and the rights of the folder."
        raise UserError(what) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; columns in the order of their first appearance, floats with all their digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with write_atomically(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
