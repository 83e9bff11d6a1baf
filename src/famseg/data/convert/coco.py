"""COCO annotations: polygons and uncompressed run lengths."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.data.convert.documents import read_json
from famseg.data.convert.plan import Entry, Plan, class_ids, flat_name
from famseg.data.convert.polygons import polygon_mask
from famseg.data.images import SUFFIXES, read_image
from famseg.data.source import Pixels, Problem
from famseg.errors import UserError


def read_coco(annotations: Path, images: Path | None = None, rename: Mapping[str, str] | None = None) -> Plan:
    """Plan the import of a COCO file.

    Later annotations cover earlier ones. An image without annotation is background.

    Args:
        annotations: `instances.json` or the like.
        images: Folder of the images; None: the one of the file.
        rename: Category -> our class, such as head -> FB.

    Raises:
        UserError: The file is no COCO file, names no category, or an annotation belongs to no image or category.
    """
    content = read_json(annotations, "images", "annotations", "categories")
    folder = images or annotations.parent
    _require_keys(annotations, content)
    categories = {category["id"]: category["name"] for category in content["categories"]}
    rename = rename or {}
    classes = class_ids(categories.values(), rename)
    ids = {number: classes[rename.get(name, name)] for number, name in categories.items()}
    pictures = {picture["id"]: picture for picture in content["images"]}
    shapes = _by_image(annotations, content["annotations"], pictures, ids)
    plan = Plan(classes, [])
    for number, picture in pictures.items():
        path = folder / picture["file_name"]
        if not path.exists():
            what = f"is listed in {annotations.name}, but missing"
            plan.problems.append(Problem(str(path), what, "Add the image, or remove its entry."))
            continue
        load = _Loader(path, picture["height"], picture["width"], shapes[number])
        plan.entries.append(Entry(flat_name(picture["file_name"]), load, path))
    listed = {folder / picture["file_name"] for picture in pictures.values()}
    for path in sorted(set(folder.rglob("*")) - listed):
        if path.suffix.lower() in SUFFIXES:
            what = f"has no entry in {annotations.name} and is left out"
            plan.problems.append(Problem(str(path), what, "Annotate it to use it.", fatal=False))
    return plan


def _require_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a file whose entries lack what is read of them."""
    for part, keys in (("categories", ("id", "name")), ("images", ("id", "file_name", "height", "width"))):
        for entry in content[part]:
            if missing := [key for key in keys if key not in entry]:
                raise UserError(f"{path}: an entry of {part!r} has no {missing[0]!r}. Export it again.")


class _Loader:
    """Reads an image and draws its annotations."""

    def __init__(self, path: Path, height: int, width: int, shapes: list[tuple[int, Any, Any]]) -> None:
        self.path, self.height, self.width, self.shapes = path, height, width, shapes

    def __call__(self) -> tuple[Pixels, Pixels]:
        image, _ = read_image(self.path)
        if image.shape != (self.height, self.width):
            h, w = image.shape
            raise UserError(f"{self.path}: has {w}x{h} px, its entry says {self.width}x{self.height}. Export again.")
        mask = np.zeros(image.shape, np.uint8)
        for number, what, annotation in self.shapes:
            mask[self._region(what, annotation)] = number
        return image, mask

    def _region(self, what: Any, annotation: Any) -> NDArray[np.bool_]:
        if isinstance(what, list) and all(len(polygon) >= 6 for polygon in what):
            region = np.zeros((self.height, self.width), bool)
            for polygon in what:
                region |= polygon_mask(polygon, self.height, self.width)
            return region
        if isinstance(what, dict) and isinstance(what.get("counts"), list):
            return self._runs(what, annotation)
        raise UserError(
            f"{self.path}: annotation {annotation} is neither polygons nor an uncompressed mask. Export polygons."
        )

    def _runs(self, what: dict[str, Any], annotation: Any) -> NDArray[np.bool_]:
        counts = np.asarray(what["counts"], np.int64)
        if what.get("size") != [self.height, self.width] or counts.sum() != self.height * self.width:
            raise UserError(f"{self.path}: the mask of annotation {annotation} has another size. Export it again.")
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(self.width, self.height).T  # column by column


def _by_image(path: Path, annotations: list[Any], pictures: Mapping[Any, Any], ids: Mapping[Any, int]) -> Any:
    """Image id -> (class id, segmentation, annotation id) in the order of the file."""
    shapes = defaultdict(list)
    for annotation in annotations:
        number = annotation.get("id")
        for key, known in (("image_id", pictures), ("category_id", ids)):
            if annotation.get(key) not in known:
                raise UserError(f"{path}: annotation {number} has {key} {annotation.get(key)}, which is not listed.")
        shapes[annotation["image_id"]].append((ids[annotation["category_id"]], annotation.get("segmentation"), number))
    return shapes
