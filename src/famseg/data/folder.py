"""The user's own images, with label images of ids or colours."""

import glob
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from famseg import classes
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.images import SUFFIXES, read_image, read_label
from famseg.data.progress import parallel
from famseg.data.source import Pixels, Problem, Sample, Stamp, unshown
from famseg.data.tables import implausible, number, read_rows, same_letters
from famseg.errors import UserError

log = logging.getLogger(__name__)

TABLE = "spacing.csv"
CLASS_TABLE = "classes.csv"
COLUMNS = ("file", "mm_per_pixel", "subject")

_MEND_UNUSED = "PNG, JPEG, TIFF and BMP right in this folder are. Move them up, or convert them: `famseg data import`."


class Folder:
    """Images and label PNGs in two folders.

        root/images/NAME.png|jpg|tif|bmp
        root/labels/NAME.png                  class ids, or one colour per class
        root/spacing.csv                      optional: file,mm_per_pixel,subject; unknown values stay empty
        root/classes.csv                      optional: name,id, background first

    Images of 16 bits, floats or colours become one 8-bit channel, which is said in the log and by `famseg data check`.
    Without a subject each image counts as a subject of its own.

    Args:
        root: Folder with `images/` and `labels/`.
        ids: Class name -> id in the labels, in the order of the model's outputs, background first, which becomes BG;
            None: those of `classes.csv`, or without it the paper's.
        colours: Class name -> (red, green, blue) in the labels; None: the paper's, for the classes it has.
        absent: Classes that no image shows, whether `ids` lists them or not. What is neither in `ids` nor here may be
            in any image: a model that knows it is not told that it is background.

    Raises:
        UserError: A folder is missing or empty, `spacing.csv` cannot be read, ids or colours contradict each other.
    """

    def __init__(
        self,
        root: str | Path,
        ids: Mapping[str, int] | None = None,
        colours: Mapping[str, Sequence[int]] | None = None,
        absent: Sequence[str] = (),
    ) -> None:
        self.root = Path(root)
        named = dict(ids or _read_classes(self.root / CLASS_TABLE) or classes.IDS)
        _check_ids(named)
        self.classes = _with_background(named)
        self.absent = tuple(absent)
        self.known = frozenset({*self.classes, *absent})
        self._colours = _with_background(_checked_colours(named, colours), next(iter(named)))
        self._images = _list_images(self.root)
        labels = sorted(path for path in (self.root / "labels").iterdir() if path.suffix.lower() == ".png")
        self._labels = {same_letters(path.stem): path for path in labels}
        self._table, self._doubled = _read_table(self.root / TABLE)
        self.names = [path.name for path in self._images]
        self.groups = [self._cell(name, "subject") or name for name in self.names]
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image and its label; `UserError` names the file when that fails."""
        path = self._images[index]
        image, converted = read_image(path)
        if converted and converted not in self._said:
            self._said.add(converted)
            log.warning("%s: %s; others likewise.", path, converted)
        mask = self._read_label(path, image.shape)
        return Sample(path.name, self.groups[index], image, mask, self._spacing(path.name), known=self.known)

    def problems(self, decode: bool = True) -> Iterator[Problem]:
        """Missing labels, rows that fit nothing; with `decode` also unreadable files and unused classes."""
        yield from self._unknown_problems()
        yield from self._unused_problems()
        yield from self._label_problems()
        yield from self._table_problems()
        if decode:
            yield from self._content_problems()

    def stamp(self) -> Stamp:
        """Of the tables, the images and the labels."""
        root, classes = str(self.root.absolute()), dict(self.classes)
        options = {"kind": "folder", "root": root, "classes": classes, "colours": self._colours}
        options["known"] = sorted(self.known)
        tables = (self.root / TABLE, self.root / CLASS_TABLE)
        return Stamp.of(options, [*tables, *self._images, *(self._label(path) for path in self._images)])

    def _content_problems(self) -> Iterator[Problem]:
        stretched, read, shown = 0, 0, set[int]()
        for found, ids in parallel(self._decoding_problems, self._images, "Checking images"):
            stretched += any("scaled to 8 bits" in problem.what for problem in found)
            read += bool(ids)
            shown |= ids
            yield from found
        if 0 < stretched < len(self):
            what = f"mixed bit depths: {stretched} of {len(self)} images are scaled to their brightest pixel"
            mend = "Export all images with one bit depth, so that equal tissue stays equally bright."
            yield Problem(str(self.root / "images"), what, mend, fatal=False)
        if read == len(self):
            yield from (Problem(str(self.root / "labels"), *words, fatal=False) for words in unshown(self, shown))

    def _unused_problems(self) -> Iterator[Problem]:
        """What lies beside the images, such as a folder of each patient or DICOM files."""
        folder, used = self.root / "images", set(self._images)
        unused = [path.name for path in sorted(folder.iterdir()) if path not in used and path.name[0] != "."]
        if unused:
            more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
            yield Problem(str(folder), f"not used: {', '.join(unused[:3])}{more}", _MEND_UNUSED, fatal=False)

    def _label_problems(self) -> Iterator[Problem]:
        stems: dict[str, str] = {}
        used = {self._label(path) for path in self._images}
        for path in self._images:
            if not self._label(path).exists():
                yield self._missing(path, used)
            if (other := stems.setdefault(same_letters(path.stem), path.name)) != path.name:
                yield Problem(str(path), f"shares its label with {other}", "Give the two images different names.")
        for label in (label for label in self._labels.values() if label not in used):
            yield Problem(str(label), "has no image and is not used", "Add its image, or remove it.", fatal=False)

    def _missing(self, image: Path, labels: set[Path]) -> Problem:
        """Of a label, which may be there in another format or under a longer name, less the labels of other images."""
        mend = f"Add the label of {image.name}, or remove the image."
        near = sorted({*(self.root / "labels").glob(f"{glob.escape(image.stem)}[._-]*")} - labels)
        if near:
            mend = f"Save {near[0].name} as a PNG of this name: JPEG changes ids, and names must be equal."
        return Problem(str(self._label(image)), "is missing", mend)

    def _unknown_problems(self) -> Iterator[Problem]:
        """Pixel sizes and subjects that nobody gave."""
        table = str(self.root / TABLE)
        if unknown := [name for name in self.names if math.isnan(self._spacing(name))]:
            what = f"no pixel size for {_some(unknown)}: their results are in pixels, not mm"
            yield Problem(table, what, "Add mm_per_pixel where it is known.", fatal=False)
        if unknown := [name for name in self.names if not self._cell(name, "subject")]:
            what = f"no subject for {_some(unknown)}: images of one subject may end up in training and test"
            yield Problem(table, what, "Add the subject where it is known.", fatal=False)

    def _table_problems(self) -> Iterator[Problem]:
        table, known = str(self.root / TABLE), set(map(same_letters, self.names))
        for name in self._doubled:
            yield Problem(f"{table}, row {name}", "the file is listed twice", "Remove one of the rows.")
        for name in self._table:
            if name not in known:
                mend = "Give the image's whole name, with its suffix."
                yield Problem(f"{table}, row {name}", "has no image and is not used", mend, fatal=False)
            elif self._cell(name, "mm_per_pixel") and not self._spacing(name) > 0:
                what = f"pixel size {self._cell(name, 'mm_per_pixel')!r} is no positive number"
                yield Problem(f"{table}, row {name}", what, "Give millimetres per pixel, or leave it empty.")
            elif odd := implausible(self._spacing(name)):
                what = f"pixel size {self._cell(name, 'mm_per_pixel')} {odd}"
                yield Problem(f"{table}, row {name}", what, "Check that it is in mm.", fatal=False)

    def _decoding_problems(self, path: Path) -> tuple[list[Problem], set[int]]:
        """What is wrong with an image and its label, and the ids in that; none if it cannot be read."""
        found, shape, ids = [], None, set[int]()
        try:
            image, converted = read_image(path)
            shape = image.shape
            if converted:
                found.append(Problem(str(path), converted, "Nothing to do if that is as meant.", fatal=False))
        except UserError as error:
            found.append(Problem.from_error(error))
        if not self._label(path).exists():
            return found, ids
        try:
            ids = set(np.unique(self._read_label(path, shape)).tolist())
            if ids == {next(iter(self.classes.values()))}:
                what = "holds background only"
                found.append(Problem(str(self._label(path)), what, "Nothing to do if that is as meant.", fatal=False))
        except UserError as error:
            found.append(Problem.from_error(error))
        return found, ids

    def _read_label(self, image: Path, shape: tuple[int, ...] | None) -> Pixels:
        """The label of an image, of its shape if that is known."""
        label = self._label(image)
        mask = read_label(label, self.classes, self._colours)
        if shape and mask.shape != shape:
            raise UserError(
                f"{label}: the label has {mask.shape[1]}x{mask.shape[0]} px, its image {shape[1]}x{shape[0]}. "
                "Export both at the same size."
            )
        return mask

    def _label(self, image: Path) -> Path:
        return self._labels.get(same_letters(image.stem), self.root / "labels" / f"{image.stem}.png")

    def _cell(self, name: str, column: str) -> str:
        return (self._table.get(same_letters(name), {}).get(column) or "").strip()

    def _spacing(self, name: str) -> float:
        """Millimetres per pixel, nan when unknown or impossible."""
        spacing = number(self._cell(name, "mm_per_pixel"))
        return spacing if 0 < spacing < math.inf else math.nan


def datamodule(
    root: str | Path,
    ids: Mapping[str, int] | None = None,
    colours: Mapping[str, Sequence[int]] | None = None,
    absent: Sequence[str] = (),
    **options: Any,
) -> SegmentationDataModule:
    """Batches of a `Folder`; `options` are those of `SegmentationDataModule`."""
    return SegmentationDataModule(Folder(root, ids, colours, absent), **options)


def _check_ids(ids: Mapping[str, int]) -> None:
    """Refuse ids that cannot be told apart, and a background that does not stand first: it would be the object."""
    if len(set(ids.values())) < len(ids) or not all(0 <= number <= 255 for number in ids.values()):
        raise UserError(f"data.ids={dict(ids)}: give each class an id of its own, 0 to 255, background first.")
    lower = [name.lower() for name in ids]
    if len(set(lower)) < len(lower):
        raise UserError(f"data.ids={dict(ids)}: two names differ by capitals only. Give each class a name of its own.")
    if later := {"bg", "background"} & set(lower[1:]):
        raise UserError(f"data.ids={dict(ids)}: {later.pop()} is not first. Name the background first.")


def _with_background(of_class: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The same with the background, `name` or what comes first, called BG as in other sets and in reports."""
    name = name or next(iter(of_class))
    return {classes.BACKGROUND if key == name else key: value for key, value in of_class.items()}


def _checked_colours(
    ids: Mapping[str, int], colours: Mapping[str, Sequence[int]] | None
) -> dict[str, tuple[int, int, int]]:
    wanted = colours or {name: colour for name, colour in classes.COLOURS.items() if name in ids}
    if unknown := [name for name in wanted if name not in ids]:
        raise UserError(f"data.colours: {unknown[0]} is no class of data.ids={dict(ids)}.")
    triples = {name: (int(rgb[0]), int(rgb[1]), int(rgb[2])) for name, rgb in wanted.items() if len(rgb) == 3}
    if len(set(triples.values())) < len(wanted):
        raise UserError("data.colours: give each class a colour of its own, [red, green, blue].")
    return triples


def _list_images(root: Path) -> list[Path]:
    layout = "It needs images/NAME.png (or jpg, tif, bmp) and labels/NAME.png, and no folders below."
    for folder in (root / "images", root / "labels"):
        if not folder.is_dir():
            raise UserError(f"{folder}: this folder is missing (data.root={root}). {layout}")
    images = sorted(path for path in (root / "images").iterdir() if path.suffix.lower() in SUFFIXES)
    if not images:
        raise UserError(f"{root / 'images'}: holds no images. {layout}")
    return images


def _read_table(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Rows of spacing.csv by file name, and names of several rows; none without the file."""
    if not path.exists():
        return {}, []
    lines = read_rows(path, COLUMNS, f"Write the columns {','.join(COLUMNS)}; unknown values stay empty.")
    count = Counter(same_letters(line["file"]) for line in lines)
    return {same_letters(line["file"]): line for line in lines}, [name for name in count if count[name] > 1]


def _read_classes(path: Path) -> dict[str, int]:
    """Name -> id as classes.csv says; none without the file."""
    if not path.exists():
        return {}
    rows = read_rows(path, ("name", "id"), "Write the columns name,id, background first.")
    try:
        return {row["name"]: int(row["id"]) for row in rows}
    except ValueError as error:
        raise UserError(f"{path}: an id is no whole number ({error}). Give 0 to 255.") from None


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} images, {names[0]} first"
