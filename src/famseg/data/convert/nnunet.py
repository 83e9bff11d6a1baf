"""nnU-Net's raw layout for 2-D images (version 2), both ways."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from famseg.classes import BACKGROUND
from famseg.data.convert.documents import read_json
from famseg.data.convert.plan import Entry, Plan, class_ids, flat_name, write_png
from famseg.data.datamodule import SegmentationDataModule
from famseg.data.folder import COLUMNS, TABLE
from famseg.data.images import read_image, read_label
from famseg.data.progress import parallel
from famseg.data.source import Pixels, Problem
from famseg.data.tables import mm_per_pixel, read_rows
from famseg.errors import UserError
from famseg.files import write_atomically, write_table

ENDING = ".png"
OUR_IDS = "famseg_ids"  # our key in dataset.json, which nnU-Net passes over: ids before they were made consecutive


def export_nnunet(data: SegmentationDataModule, destination: Path) -> Path:
    """Write a set as nnU-Net trains on it: training and validation images, the test images, and the split.

    `imagesTr`, `labelsTr` hold train and val, `imagesTs`, `labelsTs` the test split; `splits_final.json` belongs into
    nnU-Net's preprocessed folder of this set, so that it validates on the same images. `spacing.csv` keeps pixel sizes
    and subjects, which nnU-Net does not read from PNG.

    Args:
        data: The set and its split.
        destination: New folder, `nnUNet_raw/Dataset123_NAME`.

    Raises:
        UserError: The folder is not empty, there is nothing to train on, two images get one name, an image has no label
            or does not know a class, for which nnU-Net has no word.
    """
    if destination.exists() and any(destination.iterdir()):
        raise UserError(f"{destination}: is there already and not empty. Give a new folder.")
    cases = _case_names(data)
    if not (data.splits["train"] and data.splits["val"]):
        raise UserError("the split has no training or no validation images. Give data.fold a number.")
    classes = data.source.classes
    outputs = np.zeros(256, np.uint8)
    outputs[list(classes.values())] = np.arange(len(classes))

    def write(job: tuple[str, int]) -> dict[str, Any]:
        part, index = job
        sample = data.source[index]
        _require_full_label(sample.name, sample.mask, sample.known, classes)
        case = cases[sample.name]
        write_png(destination / f"images{part}" / f"{case}_0000{ENDING}", sample.image)
        write_png(destination / f"labels{part}" / f"{case}{ENDING}", outputs[sample.mask])
        spacing = "" if np.isnan(sample.spacing) else sample.spacing
        return dict(zip(COLUMNS, (f"{case}{ENDING}", spacing, sample.group), strict=True))

    jobs = [("Tr", index) for split in ("train", "val") for index in data.indices(split)]
    jobs += [("Ts", index) for index in data.indices("test")]
    write_table(destination / TABLE, list(parallel(write, jobs, "Exporting")))
    count = sum(part == "Tr" for part, _ in jobs)
    _write_json(destination / "dataset.json", _description(classes, count))
    split = {part: [cases[name] for name in data.splits[part]] for part in ("train", "val")}
    _write_json(destination / "splits_final.json", [split])
    return destination


def read_nnunet(root: Path, rename: Mapping[str, str] | None = None) -> Plan:
    """Plan the import of a raw data set of 2-D images with one channel.

    Args:
        root: `nnUNet_raw/Dataset123_NAME`.
        rename: Label -> our class, such as head -> FB.

    Raises:
        UserError: `dataset.json` is missing or wrong (labels that are no numbers or have no background, several
            channels, another count of images), or there are volumes.
    """
    path = root / "dataset.json"
    content = read_json(path, "labels", "channel_names", "file_ending", "numTraining")
    ending, rename = content["file_ending"], rename or {}
    if ending not in (".png", ".bmp", ".tif"):
        raise UserError(f"{path}: file_ending {ending!r} is not of 2-D images. Give a set of .png, .bmp or .tif.")
    if len(content["channel_names"]) != 1:
        raise UserError(f"{path}: has {len(content['channel_names'])} channels. Give a set with one.")
    ids = _checked_labels(path, content["labels"])
    plan = Plan(_our_classes(content, ids, rename), [])
    ours = {number: plan.classes[rename.get(name, name)] for name, number in ids.items()}
    meta, validation = _side_tables(root)
    for part, split in (("Tr", "train"), ("Ts", "test")):
        for image in sorted((root / f"images{part}").glob(f"*_0000{ending}")):
            case = image.name.removesuffix(f"_0000{ending}")
            label = root / f"labels{part}" / f"{case}{ending}"
            if not label.exists():
                what, mend = f"has no label {label}", "Add it, or remove the image."
                plan.problems.append(Problem(str(image), what, mend, fatal=part == "Tr"))
                continue
            name = f"{case}.png"
            spacing, subject = meta.get(f"{case}{ending}", (float("nan"), ""))
            where = "val" if case in validation else split
            plan.entries.append(Entry(name, _Loader(image, label, ids, ours), image, spacing, subject, where))
    found = sum(entry.split != "test" for entry in plan.entries)
    if found != content["numTraining"]:
        what = f"numTraining is {content['numTraining']}, but imagesTr and labelsTr hold {found} pairs"
        plan.problems.append(Problem(str(path), what, "Complete the folder, or mend the number."))
    return plan


class _Loader:
    """Reads an image and its label."""

    def __init__(self, image: Path, label: Path, ids: Mapping[str, int], ours: Mapping[int, int]) -> None:
        self.image, self.label, self.ids = image, label, ids
        self.table = np.zeros(256, np.uint8)
        self.table[list(ours)] = list(ours.values())

    def __call__(self) -> tuple[Pixels, Pixels]:
        return read_image(self.image)[0], self.table[read_label(self.label, self.ids, {})]


def _case_names(data: SegmentationDataModule) -> dict[str, str]:
    cases: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in data.source.names:
        cases[name] = flat_name(name).removesuffix(".png")
        if (other := taken.setdefault(cases[name], name)) != name:
            raise UserError(f"{other} and {name}: would both become case {cases[name]}. Rename one of them.")
    return cases


def _require_full_label(
    name: str, mask: Pixels | None, known: frozenset[str] | None, classes: Mapping[str, int]
) -> None:
    if mask is None:
        raise UserError(f"{name}: has no label. Add one, or remove the image.")
    unknown = [] if known is None else [other for other in list(classes)[1:] if other not in known]
    if unknown:
        raise UserError(
            f"{name}: does not know {', '.join(unknown)}, and nnU-Net would take it for background. Export each set by "
            "itself, or list the class as data.absent if no image shows it."
        )


def _description(classes: Mapping[str, int], count: int) -> dict[str, Any]:
    labels = {"background": 0} | {name: i for i, name in enumerate(classes) if i}
    return {
        "channel_names": {"0": "ultrasound"},
        "labels": labels,
        "numTraining": count,
        "file_ending": ENDING,
        OUR_IDS: dict(classes),
    }


def _checked_labels(path: Path, labels: object) -> dict[str, int]:
    """Name -> id, the background called BG."""
    mend = 'Give "labels": {"background": 0, "NAME": 1, ...}.'
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise UserError(f"{path}: the labels have no background with id 0. {mend}")
    for name, number in labels.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
            raise UserError(f"{path}: label {name!r} is {number!r}, not a number from 0 to 255. {mend}")
    if len(set(labels.values())) < len(labels):
        raise UserError(f"{path}: two labels have one id. {mend}")
    return {BACKGROUND if name == "background" else name: number for name, number in labels.items()}


def _our_classes(content: Mapping[str, Any], ids: Mapping[str, int], rename: Mapping[str, str]) -> dict[str, int]:
    """The ids that we wrote, if we wrote them for these classes; else the usual ones."""
    own = content.get(OUR_IDS)
    if isinstance(own, dict) and not rename and list(own)[1:] == list(ids)[1:]:
        return {BACKGROUND: next(iter(own.values()))} | {name: own[name] for name in list(own)[1:]}
    return class_ids([name for name in ids if name != BACKGROUND], rename)


def _side_tables(root: Path) -> tuple[dict[str, tuple[float, str]], set[str]]:
    """Pixel size and subject by file, and the cases of the first validation split, as far as they are there."""
    meta: dict[str, tuple[float, str]] = {}
    if (root / TABLE).exists():
        for row in read_rows(root / TABLE, COLUMNS, f"Remove it, or write {','.join(COLUMNS)}."):
            text = row["mm_per_pixel"].strip()
            spacing = mm_per_pixel(text, f"{root / TABLE}, row {row['file']}") if text else float("nan")
            meta[row["file"]] = (spacing, row["subject"])
    path = root / "splits_final.json"
    try:
        return meta, set(json.loads(path.read_text())[0]["val"]) if path.exists() else set()
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{path}: is no list of splits with `val`. Mend it, or remove it.") from None


def _write_json(path: Path, content: object) -> None:
    with write_atomically(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")
