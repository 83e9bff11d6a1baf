"""What an earlier prediction left in a folder, so that nothing of it is lost or mixed with what comes."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from famseg.data.tables import read_rows
from famseg.errors import UserError

TABLE = "biometry.csv"
MASKS, OVERLAYS = "masks", "overlays"


def earlier_results(out: Path, overwrite: bool, inputs: Sequence[Path]) -> list[Path]:
    """Files that an earlier prediction wrote: its table, and the masks and overlays that the table names.

    Args:
        out: folder of the results.
        overwrite: whether they may be removed.
        inputs: files that are needed.

    Raises:
        UserError: there are such files and they may not, one of them is needed, or the table is none of a prediction.
    """
    table = out / TABLE
    if not table.exists():
        return []
    if not overwrite:
        mend = "Choose another --out, or add --overwrite to remove them."
        raise UserError(f"{table}: holds the results of an earlier prediction. {mend}")
    rows = read_rows(table, ("notice", "file"), "It is no table of a prediction: choose another --out.")
    named = {Path(row.get(column, "")) for row in rows for column in ("mask", "overlay")}
    files = [table, *(out / path for path in sorted(named) if str(path.parent) in (MASKS, OVERLAYS))]
    if needed := {file.resolve() for file in files} & {file.resolve() for file in inputs}:
        raise UserError(f"{min(needed)}: is a result that --overwrite would remove. Choose another --out.")
    return files


def remove(out: Path, files: list[Path]) -> None:
    """Remove files of a prediction, and their folders where nothing else is in them.

    Raises:
        UserError: one cannot be removed.
    """
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{file}: cannot be removed ({error.strerror}). Choose another --out.") from None
    for folder in (MASKS, OVERLAYS):
        with suppress(OSError):  # others' files are in it, or it is not there
            (out / folder).rmdir()
