"""LabelMe: one JSON file of shapes beside every image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.data.convert.documents import read_json
from famseg.data.convert.plan import Entry, Plan, class_ids, flat_name
from famseg.data.convert.polygons import ellipse_points, polygon_mask
from famseg.data.images import SUFFIXES, read_image
from famseg.data.source import Pixels, Problem
from famseg.errors import UserError


def read_labelme(folder: Path, rename: Mapping[str, str] | None = None) -> Plan:
    """Plan the import of a folder of images with LabelMe's JSON files; later shapes cover earlier ones.

    Args:
        folder: Searched with all folders below.
        rename: Label -> our class, such as head -> FB.

    Raises:
        UserError: There is no JSON file, or one is not LabelMe's.
    """
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise UserError(f"{folder}: holds no JSON file of LabelMe. Give the folder that it saves to.")
    documents = {path: read_json(path, "shapes", "imagePath") for path in files}
    rename = rename or {}
    labels = dict.fromkeys(shape["label"] for content in documents.values() for shape in content["shapes"])
    plan = Plan(class_ids(labels, rename), [])
    ids = {label: plan.classes[rename.get(label, label)] for label in labels}
    used = set()
    for path, content in documents.items():
        image = path.parent / content["imagePath"].replace("\\", "/")  # LabelMe on Windows writes backslashes
        used.add(image.resolve())
        if image.exists():
            name = flat_name(path.relative_to(folder).with_suffix(image.suffix))
            plan.entries.append(Entry(name, _Loader(path, image, content, ids), image))
        else:
            plan.problems.append(Problem(str(path), f"its image {image} is missing", "Add it, or remove the file."))
    for image in sorted(folder.rglob("*")):
        if image.suffix.lower() in SUFFIXES and image.resolve() not in used:
            mend = "Annotate it to use it."
            plan.problems.append(Problem(str(image), "has no JSON file and is left out", mend, fatal=False))
    return plan


class _Loader:
    """Reads an image and draws its shapes."""

    def __init__(self, path: Path, image: Path, content: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        self.path, self.image, self.shapes, self.ids = path, image, content["shapes"], ids
        self.drawn_on = content.get("imageWidth"), content.get("imageHeight")  # old versions wrote none

    def __call__(self) -> tuple[Pixels, Pixels]:
        image, _ = read_image(self.image)
        (height, width), drawn_on = image.shape, self.drawn_on
        if None not in drawn_on and drawn_on != (width, height):
            raise UserError(
                f"{self.image}: has {width}x{height} px, {self.path.name} was drawn on {drawn_on[0]}x{drawn_on[1]}. "
                "Give the image that was drawn on."
            )
        mask = np.zeros(image.shape, np.uint8)
        for shape in self.shapes:
            mask[polygon_mask(self._outline(shape), *image.shape)] = self.ids[shape["label"]]
        return image, mask

    def _outline(self, shape: Mapping[str, Any]) -> NDArray[np.float64]:
        points, kind = np.asarray(shape["points"], np.float64).reshape(-1, 2), shape.get("shape_type", "polygon")
        if kind == "polygon" and len(points) >= 3:
            return points
        if kind == "rectangle" and len(points) == 2:
            (x1, y1), (x2, y2) = points
            return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        if kind == "circle" and len(points) == 2:
            centre, border = points
            return ellipse_points(float(centre[0]), float(centre[1]), float(np.hypot(*(border - centre))))
        what = f"a {kind} of {len(points)} points encloses no area"
        raise UserError(f"{self.path}: {what}. Draw polygons, rectangles or circles.")
