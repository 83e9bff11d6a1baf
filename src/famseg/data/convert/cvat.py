"""CVAT's export "Segmentation mask": one colour per class and a table of colours."""

from collections.abc import Mapping
from pathlib import Path

from famseg.classes import BACKGROUND
from famseg.data.convert.plan import Entry, Plan, class_ids, flat_name
from famseg.data.images import SUFFIXES, read_image, read_label
from famseg.data.source import Pixels, Problem
from famseg.errors import UserError

Colours = dict[str, tuple[int, int, int]]


def read_cvat(root: Path, images: Path | None = None, rename: Mapping[str, str] | None = None) -> Plan:
    """Plan the import of an unpacked export: `labelmap.txt`, `SegmentationClass/`, `JPEGImages/`.

    Args:
        root: The unpacked folder.
        images: Folder of the images, when they were not exported; None: `JPEGImages`.
        rename: Label -> our class, such as head -> FB.

    Raises:
        UserError: The table of colours or the masks are missing or cannot be read.
    """
    colours = _read_colours(root / "labelmap.txt")
    rename = rename or {}
    classes = class_ids([name for name in colours if name != BACKGROUND], rename)
    ids = {name: classes[rename.get(name, name)] for name in colours}
    folder, masks = images or root / "JPEGImages", root / "SegmentationClass"
    for needed in (folder, masks):
        if not needed.is_dir():
            raise UserError(
                f"{needed}: this folder is missing. Export with images, or say where they are: --images DIR."
            )
    pictures = {
        p.relative_to(folder).with_suffix(""): p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES
    }
    labels = {path.relative_to(masks).with_suffix(""): path for path in sorted(masks.rglob("*.png"))}
    plan = Plan(classes, [])
    for name, label in labels.items():
        if name in pictures:
            plan.entries.append(
                Entry(flat_name(f"{name}.png"), _Loader(pictures[name], label, ids, colours), pictures[name])
            )
        else:
            plan.problems.append(Problem(str(label), f"has no image in {folder}", "Add it, or remove the mask."))
    for name in pictures.keys() - labels.keys():
        mend = "Annotate it to use it."
        plan.problems.append(Problem(str(pictures[name]), "has no mask and is left out", mend, fatal=False))
    return plan


class _Loader:
    """Reads an image and its mask of colours."""

    def __init__(self, image: Path, label: Path, ids: Mapping[str, int], colours: Colours) -> None:
        self.image, self.label, self.ids, self.colours = image, label, ids, colours

    def __call__(self) -> tuple[Pixels, Pixels]:
        return read_image(self.image)[0], read_label(self.label, self.ids, self.colours)


def _read_colours(path: Path) -> Colours:
    """Label -> (red, green, blue) from lines `label:r,g,b:parts:actions`; `background` becomes BG."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Unpack CVAT's `Segmentation mask` export."
        ) from None
    colours: Colours = {BACKGROUND: (0, 0, 0)}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(value) for value in rest.split(":")[0].split(","))
        except ValueError:
            raise UserError(f"{path}, line {number}: {line!r} is not `label:r,g,b::`. Export it again.") from None
        colours[BACKGROUND if name == "background" else name] = (red, green, blue)
    return colours
