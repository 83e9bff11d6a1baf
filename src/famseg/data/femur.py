"""Real femora with both end points of the shaft, which become capsule masks.

Annotations: C. Di Vece et al., "A multi-centre, multi-device benchmark dataset for landmark-based comprehensive fetal
biometry", arXiv 2512.16710, doi 10.5522/04/30819911. Images: X. P. Burgos-Artizzu et al., "Evaluation of deep
convolutional neural networks for automatic classification of common maternal fetal ultrasound planes", Scientific
Reports 10: 10200, 2020; Zenodo record 3904280, CC BY 4.0.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.images import SUFFIXES, picture_size, read_image
from famseg.data.progress import parallel
from famseg.data.source import Problem, Sample, Stamp
from famseg.data.tables import number, read_rows
from famseg.errors import UserError

TABLE = "Femur.csv"
COLUMNS = ("image_name", "fl_1_x", "fl_1_y", "fl_2_x", "fl_2_y", "px_to_mm_rate")
SUBJECT = ("Patient", "SubjectID")  # the parts of the set name the column differently
PLAUSIBLE_MM = (5.0, 90.0)  # shorter than at 11 weeks or longer than at term: a wrong pixel size or a wrong click

Point = tuple[float, float]


@dataclass(frozen=True)
class _Row:
    name: str
    ends: tuple[Point, Point]
    spacing: float
    subject: str

    @property
    def fl_mm(self) -> float:
        return math.dist(*self.ends) * self.spacing


class FemurEnds:
    """Femur images with end points, in the tables' published format.

    Masks are capsules: `width_mm` thick, their round ends touching the end points, so that the length of a mask is the
    annotated femur length. Rows that cannot be right are left out, and `problems` names them: a pixel size that is
    missing or no positive number; end points that are missing, equal or outside the picture; a femur shorter than 5 or
    longer than 90 mm.

    Args:
        root: Folder that holds the table and, anywhere below it, the images.
        table: The table, below `root`; None: the only `Femur.csv` there is.
        width_mm: Thickness of the masks, mm.
        absent: Classes besides the femur that no image shows. Others may be in any image: a model that knows them is
            not told that they are background.

    Raises:
        UserError: The table is missing, ambiguous, empty or lacks columns, or no row can be used.
    """

    classes: Mapping[str, int] = {"BG": 0, "FL": 1}

    def __init__(
        self, root: str | Path, table: str | None = None, width_mm: float = 4.0, absent: Sequence[str] = ()
    ) -> None:
        if not 0 < width_mm < PLAUSIBLE_MM[0]:
            raise UserError(f"data.width_mm={width_mm}: give millimetres between 0 and {PLAUSIBLE_MM[0]:g}.")
        self.root = Path(root)
        self.table = _find_table(self.root, table)
        self.width_mm = width_mm
        self.known = frozenset({*self.classes, *absent})
        rows = _read_table(self.table)
        self._doubts = {row.name: _doubt(row, self._images.get(row.name)) for row in rows}
        self._all = rows
        self._rows = [row for row in rows if not self._doubts[row.name]]
        if not self._rows:
            raise UserError(
                f"{self.table}: no row can be used; the first: {rows[0].name} {self._doubts[rows[0].name]}."
            )
        self.names = [row.name for row in self._rows]
        self.groups = [row.subject or row.name for row in self._rows]

    @cached_property
    def _images(self) -> dict[str, Path]:
        """Every picture below the root by its name; of several, the one nearest to the table."""
        home = self.table.parent.parent
        paths = [path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES]
        paths.sort(key=lambda path: (path.is_relative_to(home), str(path)))
        return {path.name: path for path in paths}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image and draw its capsule; `UserError` names the file when that fails."""
        row = self._rows[index]
        if row.name not in self._images:
            raise UserError(f"{self.table}, row {row.name}: has no image below {self.root}. Add it, or remove the row.")
        image, _ = read_image(self._images[row.name])
        mask = capsule(*row.ends, self.width_mm / row.spacing, image.shape)
        return Sample(
            name=row.name,
            group=self.groups[index],
            image=image,
            mask=mask.astype(np.uint8) * np.uint8(self.classes["FL"]),
            spacing=row.spacing,
            truth={"fl_mm": row.fl_mm},
            known=self.known,
        )

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """Rows that are left out, missing images, images without row; with `decode` also unreadable pictures."""
        yield from self._row_problems()
        annotated = {row.name for row in self._all}
        if spare := sorted(set(self._images) - annotated):
            what = f"{len(spare)} images have no row in {self.table.name} and are not used, {spare[0]} first"
            yield Problem(str(self.root), what, "Nothing to do, unless they should have one.", fatal=False)
        if decode:
            rows = [row for row in self._rows if row.name in self._images]
            for found in parallel(self._picture_problems, rows, "Checking images"):
                yield from found

    def stamp(self) -> Stamp:
        """Of the table and the images."""
        options = {
            "kind": "femur",
            "root": str(self.root.absolute()),
            "width_mm": self.width_mm,
            "known": sorted(self.known),
        }
        pictures = (self._images[row.name] for row in self._rows if row.name in self._images)
        return Stamp.of(options, [self.table, *pictures])

    def _row_problems(self) -> Iterator[Problem]:
        count = Counter(row.name for row in self._all)
        for row in {row.name: row for row in self._all}.values():
            where = f"{self.table}, row {row.name}"
            if count[row.name] > 1:
                yield Problem(where, "the image is listed twice", "Remove one of the rows.")
            if row.name not in self._images:
                yield Problem(where, f"has no image below {self.root}", "Add the image, or remove the row.")
            if doubt := self._doubts[row.name]:
                yield Problem(where, f"is left out: {doubt}", "Mend the row to use it.", fatal=False)
            if not row.subject:
                what = "no subject: images of one subject may end up in training and test"
                yield Problem(where, what, "Add the subject if it is known.", fatal=False)

    def _picture_problems(self, row: _Row) -> list[Problem]:
        try:
            _, converted = read_image(self._images[row.name])
        except UserError as error:
            return [Problem.from_error(error)]
        meant = "Nothing to do if that is as meant."
        return [Problem(str(self._images[row.name]), converted, meant, fatal=False)] if converted else []


def capsule(end: Point, other: Point, width: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A bar with round ends whose tips are two points.

    Args:
        end: (x, y) px, pixel centres at integers.
        other: The other tip.
        width: px; at most the distance of the tips, which otherwise is taken.
        shape: Height and width of the picture.

    Returns:
        bool (height, width), the pixels whose centre lies inside.
    """
    a, b = np.array(end), np.array(other)
    length = math.dist(end, other)
    radius = min(width, length) / 2
    along = (b - a) / length
    y, x = np.mgrid[: shape[0], : shape[1]]
    points = np.stack([x, y], axis=-1) - a  # (h, w, 2), from the first tip
    place = np.clip(points @ along, radius, length - radius)  # nearest point of the mid-line between the round ends
    inside: NDArray[np.bool_] = ((points - place[..., None] * along) ** 2).sum(-1) <= radius**2
    return inside


def datamodule(
    root: str | Path, table: str | None = None, width_mm: float = 4.0, absent: Sequence[str] = (), **options: Any
) -> SegmentationDataModule:
    """Batches of `FemurEnds`; `options` are those of `SegmentationDataModule`."""
    return SegmentationDataModule(FemurEnds(root, table, width_mm, absent), **options)


def _find_table(root: Path, table: str | None) -> Path:
    get = f"`famseg data download femur {root}` fetches the set."
    if table:
        return root / table
    found = sorted(root.rglob(TABLE)) if root.is_dir() else []
    if not found:
        raise UserError(f"{root}: holds no {TABLE}, so it does not hold the femora (data.root). {get}")
    if len(found) > 1:
        some = ", ".join(str(path.relative_to(root)) for path in found)
        raise UserError(f"{root}: holds several tables ({some}). Say which: data.table={found[0].relative_to(root)}")
    return found[0]


def _read_table(path: Path) -> list[_Row]:
    mend = f"It needs the columns {','.join(COLUMNS)} and {' or '.join(SUBJECT)}."
    lines = read_rows(path, COLUMNS, mend)
    if not lines:
        raise UserError(f"{path}: the table is empty. {mend}")
    return [_row(line) for line in lines]


def _row(line: Mapping[str, str]) -> _Row:
    x1, y1, x2, y2, spacing = (number(line[column]) for column in COLUMNS[1:])
    subject = next((line[column].strip() for column in SUBJECT if line.get(column)), "")
    return _Row(line["image_name"], ((x1, y1), (x2, y2)), spacing, subject)


def _doubt(row: _Row, image: Path | None) -> str:
    """Why a row cannot be right; "" when it can."""
    low, high = PLAUSIBLE_MM
    if not 0 < row.spacing < math.inf:
        return "it has no pixel size (px_to_mm_rate)"
    if not math.isfinite(row.fl_mm):
        return "an end point is missing"
    if row.ends[0] == row.ends[1]:
        return "its end points are equal"
    if not low <= row.fl_mm <= high:
        return f"a femur of {row.fl_mm:.1f} mm is outside {low:g} to {high:g} mm"
    width, height = picture_size(image) if image else (math.inf, math.inf)
    for x, y in row.ends:
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            return f"end point ({x:g}, {y:g}) lies outside the picture of {width}x{height} px"
    return ""
