"""Folders of DICOM files: pictures and pixel sizes, without what tells whose they are."""

from pathlib import Path
from typing import Any

from famseg.classes import IDS
from famseg.data.convert.plan import Entry, Plan
from famseg.data.convert.screen_text import Box, blank_screen
from famseg.data.dicom import read_dicom, read_tags
from famseg.data.images import is_dicom
from famseg.data.source import Pixels, Problem
from famseg.errors import UserError

_TAGS = ["PatientID", "PatientBirthDate", "SequenceOfUltrasoundRegions"]
_IMAGE_REGIONS = (1, 2, 3, 4)  # spatial formats that show a picture: 2-D, M-mode, spectral, wave; DICOM PS3.3 C.8.5.5

_MENDS = (  # words of a note of `read_dicom`, and what to do about it
    ("pixel size", "Give it in a table: --table FILE."),
    ("differ in scale", "Or give its pixel size in a table: --table FILE."),
    ("not square", "No single pixel size fits it as it is."),
    ("may show a name", "Look at the picture before you share it."),
)


def read_dicom_folder(folder: Path) -> Plan:
    """Plan the import of all DICOM files below a folder.

    Pictures are numbered and subjects become `subject_001` and so on: no name, date or identifier is kept, and file
    names are not either, for they often hold them. What lies outside of the ultrasound image is blanked
    (`blank_screen`), within the regions that a file lists. Labels are to be drawn later, into `labels/`.

    Args:
        folder: Searched with all folders below.

    Raises:
        UserError: There is no DICOM file.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_dicom(path)]
    if not files:
        raise UserError(f"{folder}: holds no DICOM file. Give the folder of an export.")
    plan = Plan(dict(IDS), [])
    subjects: dict[str, str] = {}
    births: dict[str, tuple[str, Path]] = {}
    for path in files:
        try:
            header, (picture, spacing, notes) = read_tags(path, _TAGS), read_dicom(path)
        except UserError as error:
            plan.problems.append(Problem.from_error(error))
            continue
        identity = str(header.get("PatientID") or "").strip()
        _check_identity(plan, path, identity, str(header.get("PatientBirthDate") or ""), births)
        subject = subjects.setdefault(identity, f"subject_{len(subjects) + 1:03d}") if identity else ""
        image, boxes = blank_screen(picture, _regions(header))
        name = f"image_{len(plan.entries) + 1:04d}.png"
        plan.entries.append(Entry(name, _Loaded(image), path, spacing, subject))
        _report(plan, path, name, boxes, notes)
    return plan


class _Loaded:
    """A picture without label that is in memory already."""

    def __init__(self, image: Pixels) -> None:
        self.image = image

    def __call__(self) -> tuple[Pixels, None]:
        return self.image, None


def _report(plan: Plan, path: Path, name: str, boxes: list[Box], notes: tuple[str, ...]) -> None:
    if boxes:
        what = f"writing or marks outside of the ultrasound image were blanked in {name} ({len(boxes)} places)"
        plan.problems.append(Problem(str(path), what, "Look at the picture before you share it.", fatal=False))
    for note in notes:
        mend = next((mend for words, mend in _MENDS if words in note), "Nothing to do if that is as meant.")
        plan.problems.append(Problem(str(path), f"{note} ({name})", mend, fatal=False))


def _check_identity(plan: Plan, path: Path, identity: str, birth: str, births: dict[str, tuple[str, Path]]) -> None:
    if not identity:
        what = "has no patient identifier: its images may end up in training and test"
        plan.problems.append(Problem(str(path), what, "Give subjects in a table: --table FILE.", fatal=False))
        return
    known, other = births.setdefault(identity, (birth, path))
    if birth != known:
        what = f"has the patient identifier of {other}, but another date of birth: two subjects may bear one name"
        mend = "They are kept together as one subject; if they are two, give subjects in a table: --table FILE."
        plan.problems.append(Problem(str(path), what, mend, fatal=False))


def _regions(header: Any) -> list[Box]:
    """Boxes of the ultrasound regions."""
    keys = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    boxes = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        if region.get("RegionSpatialFormat") in _IMAGE_REGIONS and all(key in region for key in keys):
            left, top, right, bottom = (int(region[key].value) for key in keys)
            boxes.append((left, top, right + 1, bottom + 1))
    return boxes
