"""HC18: fetal heads with a drawn ellipse, pixel size and head circumference.

T. L. A. van den Heuvel, D. de Bruijn, C. L. de Korte, B. van Ginneken, "Automated measurement of fetal head
circumference using 2D ultrasound images", PLoS ONE 13(8): e0200412, 2018. Data: Zenodo record 1327317, CC BY 4.0.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from famseg.biometry import Ellipse, ellipse_from_outline
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.images import read_image
from famseg.data.progress import parallel
from famseg.data.source import Problem, Sample, Stamp
from famseg.data.tables import number, read_rows
from famseg.errors import UserError

TABLE = "training_set_pixel_size_and_HC.csv"
COLUMNS = ("filename", "pixel size(mm)", "head circumference (mm)")
CIRCUMFERENCE_TOLERANCE = 0.5  # mm; the published set agrees with its outlines within 0.1


@dataclass(frozen=True)
class _Row:
    name: str
    spacing: float
    hc_mm: float


class HC18:
    """The training set of HC18 in its official layout.

    Masks are filled mid-line ellipses of the drawn outlines, which is what the published circumferences measure; an
    ellipse that leaves the picture is cut off at its border. `group` is the examination number: `010_HC` and `010_2HC`
    are two images of one examination. One woman may have had several examinations, which the set does not tell.

    Args:
        root: Folder with `training_set/` and `training_set_pixel_size_and_HC.csv`.

    Raises:
        UserError: The folder, the table or its columns are missing, or the table is empty.
    """

    classes: Mapping[str, int] = {"BG": 0, "FB": 2}
    known = frozenset({"BG", "FL", "FB"})  # no femur lies in the plane of a head

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._rows = _read_table(self.root)
        self.names = [row.name for row in self._rows]
        self.groups = [name.split("_")[0] for name in self.names]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image and fill its ellipse; `UserError` names the file when that fails."""
        row = self._rows[index]
        image, _ = read_image(self._image(row))
        mask = self._ellipse(row, image.shape).mask(*image.shape)
        return Sample(
            name=row.name,
            group=self.groups[index],
            image=image,
            mask=mask.astype(np.uint8) * np.uint8(self.classes["FB"]),
            spacing=row.spacing,
            truth={"hc_mm": row.hc_mm} if row.hc_mm > 0 else {},
            known=self.known,
        )

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """Missing files, impossible numbers, images outside the table; with `decode` also unreadable pictures."""
        yield from self._table_problems()
        yield from self._file_problems()
        if decode:
            for found in parallel(self._picture_problems, self._rows, "Checking images"):
                yield from found

    def stamp(self) -> Stamp:
        """Of the table, the images and the annotations."""
        pictures = (path for row in self._rows for path in (self._image(row), self._annotation(row)))
        return Stamp.of({"kind": "hc18", "root": str(self.root.absolute())}, [self.root / TABLE, *pictures])

    def _table_problems(self) -> Iterator[Problem]:
        for row in self._rows:
            where = f"{self.root / TABLE}, row {row.name}"
            if not 0 < row.spacing < math.inf:
                yield Problem(where, f"pixel size is {row.spacing}", "Restore the value from the published table.")
            if not row.hc_mm > 0:
                mend = "Restore the value from the published table to have it compared."
                yield Problem(where, f"head circumference is {row.hc_mm}", mend, fatal=False)
        for name in sorted(name for name, count in Counter(self.names).items() if count > 1):
            yield Problem(f"{self.root / TABLE}, row {name}", "the file is listed twice", "Remove one of the rows.")

    def _file_problems(self) -> Iterator[Problem]:
        for row in self._rows:
            for path in (self._image(row), self._annotation(row)):
                if not path.exists():
                    yield Problem(str(path), "is in the table, but missing", "Unpack the set again, or remove the row.")
        known = set(self.names)
        for path in sorted((self.root / "training_set").glob("*HC.png")):
            if path.name not in known:
                what = f"has no row in {TABLE} and is left out"
                yield Problem(str(path), what, "Add its row to use it.", fatal=False)

    def _picture_problems(self, row: _Row) -> list[Problem]:
        found, shape = [], None
        try:
            if self._image(row).exists():
                image, converted = read_image(self._image(row))
                shape = image.shape
                if converted:
                    meant = "Nothing to do if that is as meant."
                    found.append(Problem(str(self._image(row)), converted, meant, fatal=False))
        except UserError as error:
            found.append(Problem.from_error(error))
        try:
            if self._annotation(row).exists():
                found += self._circumference_problems(row, self._ellipse(row, shape))
        except UserError as error:
            found.append(Problem.from_error(error))
        return found

    def _circumference_problems(self, row: _Row, ellipse: Ellipse) -> list[Problem]:
        difference = ellipse.perimeter() * row.spacing - row.hc_mm
        if not abs(difference) > CIRCUMFERENCE_TOLERANCE:  # a nan in the table is reported with the table
            return []
        what = f"the outline's circumference differs by {difference:+.1f} mm from the table's"
        return [Problem(str(self._annotation(row)), what, "Check pixel size and annotation.", fatal=False)]

    def _image(self, row: _Row) -> Path:
        return self.root / "training_set" / row.name

    def _annotation(self, row: _Row) -> Path:
        return self.root / "training_set" / f"{Path(row.name).stem}_Annotation.png"

    def _ellipse(self, row: _Row, shape: tuple[int, ...] | None) -> Ellipse:
        """The outline's ellipse, from an annotation of the image's shape if that is known."""
        path = self._annotation(row)
        outline, _ = read_image(path)
        if shape and outline.shape != shape:
            raise UserError(
                f"{path}: the annotation has {outline.shape[1]}x{outline.shape[0]} px, "
                f"its image {shape[1]}x{shape[0]}. Unpack both again from the same archive."
            )
        try:
            return ellipse_from_outline(outline)
        except ValueError as error:
            raise UserError(f"{path}: {error}. Unpack the annotation again, or remove its row.") from None


def datamodule(root: str | Path, **options: Any) -> SegmentationDataModule:
    """Batches of HC18; `options` are those of `SegmentationDataModule`."""
    return SegmentationDataModule(HC18(root), **options)


def _read_table(root: Path) -> list[_Row]:
    get = f"`famseg data download hc18 {root}` fetches the set."
    if not (root / "training_set").is_dir():
        raise UserError(f"{root}: has no folder training_set, so it does not hold HC18 (data.root). {get}")
    lines = read_rows(root / TABLE, COLUMNS, get)
    if not lines:
        raise UserError(f"{root / TABLE}: the table is empty. {get}")
    return [_Row(line[COLUMNS[0]], number(line[COLUMNS[1]]), number(line[COLUMNS[2]])) for line in lines]
