"""What an import found, and how it becomes a folder that `data=folder` trains on."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2

from famseg.classes import BACKGROUND, IDS
from famseg.data.folder import CLASS_TABLE, COLUMNS, TABLE
from famseg.data.progress import parallel
from famseg.data.source import Pixels, Problem
from famseg.data.splits import SPLITS
from famseg.data.tables import match_rows, mm_per_pixel, read_rows
from famseg.errors import UserError
from famseg.files import write_bytes, write_table


@dataclass(frozen=True)
class Entry:
    """One image to come.

    Attributes:
        name: File name it gets, `NAME.png`.
        load: Reads image and mask, uint8 (H, W) each; the mask is None when there is none.
        source: The file it comes from.
        spacing: mm per px, nan when unknown.
        subject: "" when unknown.
        split: train, val or test; "" when the format does not say.
    """

    name: str
    load: Callable[[], tuple[Pixels, Pixels | None]]
    source: Path
    spacing: float = math.nan
    subject: str = ""
    split: str = ""


@dataclass
class Plan:
    """What is to be imported.

    Attributes:
        classes: Name -> id in the masks.
        entries: The images.
        problems: What was found on the way; images with a fatal one are not imported.
    """

    classes: dict[str, int]
    entries: list[Entry]
    problems: list[Problem] = field(default_factory=list)


def flat_name(path: str | Path) -> str:
    """`a/b/1.jpg` -> `a_b_1.png`: folders in the name keep apart what bears one name in several of them."""
    return "_".join(part for part in Path(path).with_suffix(".png").parts if part not in ("..", "/"))


def class_ids(names: Iterable[str], rename: Mapping[str, str]) -> dict[str, int]:
    """Ids of a format's foreground classes: the paper's for its names, others follow.

    Args:
        names: As the format calls them.
        rename: The format's name -> ours, such as head -> FB.

    Returns:
        Our names -> ids, BG: 0 first.

    Raises:
        UserError: `rename` names no class of the format.
    """
    names = list(names)
    if unknown := [name for name in rename if name not in names]:
        raise UserError(f"--rename {unknown[0]}: the data has no such class. It has {', '.join(names)}.")
    ids = {BACKGROUND: 0}
    for name in dict.fromkeys(rename.get(name, name) for name in names):
        ids.setdefault(name, IDS.get(name, max(*ids.values(), *IDS.values()) + 1))
    return dict(sorted(ids.items(), key=lambda pair: pair[1]))


def with_table(plan: Plan, path: Path) -> Plan:
    """The plan with pixel sizes and subjects of a table `file,mm_per_pixel,subject`.

    Files are those of the format (`match_rows`) or the names they get. Rows and images without a partner are problems.

    Raises:
        UserError: The table cannot be read, its rows cannot be told apart, or a pixel size is no number.
    """
    rows = read_rows(path, COLUMNS, f"Write the columns {','.join(COLUMNS)}.")
    names = [row["file"] for row in rows]
    by_name = {name: index for index, name in enumerate(names)}
    by_source = match_rows(path, names, [entry.source for entry in plan.entries])
    entries, used = [], set()
    for entry in plan.entries:
        index = by_name.get(entry.name, by_source.get(entry.source))
        if index is None:
            what = f"has no row in {path.name}: its pixel size and subject stay unknown"
            plan.problems.append(Problem(str(entry.source), what, "Add the row if they are known.", fatal=False))
        used.add(index)
        row = rows[index] if index is not None else {}
        text = row.get("mm_per_pixel", "").strip()
        kept = mm_per_pixel(text, f"{path}, row {row['file']}") if text else entry.spacing
        entries.append(replace(entry, spacing=kept, subject=row.get("subject", "") or entry.subject))
    for name in (name for index, name in enumerate(names) if index not in used):
        plan.problems.append(Problem(f"{path}, row {name}", "has no image", "Check the name.", fatal=False))
    return Plan(plan.classes, entries, plan.problems)


def write_folder(plan: Plan, destination: Path) -> list[Problem]:
    """Write images, labels, `spacing.csv`, `classes.csv` and, where the format has one, `split.csv`.

    Images that cannot be read are left out and reported; the others are written.

    Returns:
        All problems of the import.

    Raises:
        UserError: The folder is not empty or cannot be written, two images get one name, or nothing can be imported.
    """
    _require_new(destination, plan.entries)
    problems = list(plan.problems)

    def write(entry: Entry) -> Problem | None:
        try:
            image, mask = entry.load()
            if mask is not None and mask.shape != image.shape:
                raise UserError(f"{entry.source}: image and label differ in size. Export both at one size.")
        except UserError as error:
            return Problem.from_error(error)
        write_png(destination / "images" / entry.name, image)
        if mask is not None:
            write_png(destination / "labels" / entry.name, mask)
        return None

    failures = list(parallel(write, plan.entries, "Importing"))
    problems += [failure for failure in failures if failure]
    done = [entry for entry, failure in zip(plan.entries, failures, strict=True) if not failure]
    if not done:
        raise UserError(f"nothing can be imported; the first reason: {problems[0]}")
    (destination / "labels").mkdir(exist_ok=True)
    sizes = ["" if math.isnan(entry.spacing) else entry.spacing for entry in done]
    rows = [dict(zip(COLUMNS, (e.name, mm, e.subject), strict=True)) for e, mm in zip(done, sizes, strict=True)]
    write_table(destination / TABLE, rows)
    write_table(destination / CLASS_TABLE, [{"name": name, "id": number} for name, number in plan.classes.items()])
    splits = [{"file": e.name, "group": e.subject or e.name, "split": e.split} for e in done if e.split in SPLITS]
    if splits:
        write_table(destination / "split.csv", splits)
    return problems


def write_png(path: Path, pixels: Pixels) -> None:
    """Write uint8 (H, W) without loss.

    Raises:
        UserError: It cannot be written.
    """
    _, png = cv2.imencode(".png", pixels)
    write_bytes(path, png.tobytes())


def _require_new(destination: Path, entries: Sequence[Entry]) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination}: is there already and not empty. Give a new folder.")
    first: dict[str, Path] = {}
    for entry in entries:
        if entry.name in first:
            one, two = first[entry.name], entry.source
            raise UserError(f"{one} and {two}: would both become {entry.name}. Rename one of them.")
        first[entry.name] = entry.source
