"""Pictures to predict on: which files are meant, and what each holds."""

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.data.images import SUFFIXES, is_dicom, read_image
from famseg.data.source import Pixels
from famseg.errors import UserError
from famseg.prediction.earlier import MASKS, OVERLAYS, TABLE


@dataclass(frozen=True)
class Scan:
    """One picture to predict on.

    Attributes:
        file: where it came from.
        image: uint8 (h, w).
        spacing: mm per pixel; NaN when unknown.
        notes: what was converted or is to be known.
    """

    file: Path
    image: Pixels
    spacing: float
    notes: tuple[str, ...]


def find_files(paths: Sequence[str], but_not_in: Path | None = None) -> list[Path]:
    """The files that are meant by files, folders (with all below them) and globs, each once.

    A named file that is missing is kept, so that reading it can say so beside the others. Masks and overlays of earlier
    predictions, which lie beside their table, are no pictures of folders and globs.

    Args:
        paths: as on a command line.
        but_not_in: a folder whose files are left out: that of the results.

    Raises:
        UserError: a folder or a glob holds no picture.
    """
    found: dict[Path, None] = {}
    for name in paths:
        path = Path(name)
        if path.is_dir():
            new = [file for file in sorted(path.rglob("*")) if _is_picture(file) and not _is_result(file)]
            new = [file for file in new if but_not_in is None or not _is_below(file, but_not_in)]
        elif not path.exists() and glob.has_magic(name):
            matches = map(Path, sorted(glob.glob(name, recursive=True)))
            new = [match for match in matches if match.is_file() and not _is_result(match)]
        else:
            new = [path]
        if not new:
            mend = "Give PNG, JPEG, TIFF or DICOM files, or a folder of them; results do not count."
            raise UserError(f"{name}: holds no picture. {mend}")
        found |= dict.fromkeys(new)
    return list(found)


def read_scan(path: Path, spacing: Callable[[Path], float]) -> Scan:
    """Read a picture.

    Args:
        path: PNG, JPEG, TIFF, BMP or DICOM.
        spacing: mm per pixel of a file that does not know it itself; NaN when unknown.

    Raises:
        UserError: it is missing, damaged, of another format, too large or too small, or holds several pictures.
    """
    if is_dicom(path):
        from famseg.data.dicom import read_dicom  # pydicom is an extra

        return Scan(path, *read_dicom(path, spacing))
    image, converted = read_image(path)
    return Scan(path, image, spacing(path), (converted,) if converted else ())


def _is_picture(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    return path.suffix.lower() in SUFFIXES or is_dicom(path)


def _is_result(path: Path) -> bool:
    return path.parent.name in (MASKS, OVERLAYS) and (path.parent.parent / TABLE).exists()


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents
