"""Pictures of masks on images: truth as a thin line, prediction tinted, side by side on one sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from famseg.classes import COLOURS
from famseg.errors import UserError

Picture = NDArray[np.uint8]  # (H, W, 3), RGB

MORE_COLOURS = [(0, 160, 255), (255, 200, 0), (200, 0, 255), (0, 255, 220)]  # of classes that the paper has not
TRUTH_COLOUR = (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """One image of a sheet.

    Attributes:
        image: uint8 (h, w).
        prediction: class ids (h, w).
        truth: class ids (h, w), None when unknown.
        caption: one line under the image.
    """

    image: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    caption: str


def colours(classes: Mapping[str, int]) -> dict[int, tuple[int, int, int]]:
    """Colour of every id but the first class's, which is the background."""
    more = iter(MORE_COLOURS * len(classes))
    return {id_: COLOURS.get(name) or next(more) for name, id_ in list(classes.items())[1:]}


def draw(panel: Panel, classes: Mapping[str, int], width: int = 360) -> Picture:
    """The image with the prediction tinted and outlined, the truth as a thin white line, and its caption.

    Args:
        panel: what to draw.
        classes: names -> ids; the first is the background.
        width: width of the picture, px.
    """
    height = round(width * panel.image.shape[0] / panel.image.shape[1])
    grey = cv2.resize(panel.image, (width, height), interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8)
    for id_, colour in colours(classes).items():
        region = _resized(panel.prediction == id_, width, height)
        tint = (0.85 * picture[region] + 0.15 * np.array(colour)).astype(np.uint8)
        picture[region] = tint
        outline(picture, region, colour, 2)
        if panel.truth is not None:
            outline(picture, _resized(panel.truth == id_, width, height), TRUTH_COLOUR, 1)
    return np.vstack([picture, _caption(panel.caption, width)])


def sheet(panels: Sequence[Panel], classes: Mapping[str, int], columns: int = 4) -> Picture:
    """All panels in rows of `columns`; lower ones are padded with black."""
    pictures = [draw(panel, classes) for panel in panels]
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(picture, ((0, height - picture.shape[0]), (2, 2), (0, 0))) for picture in pictures]
    padded += [np.zeros_like(padded[0])] * (-len(padded) % min(columns, len(padded)))
    per_row = min(columns, len(padded))
    return np.vstack([np.hstack(padded[i : i + per_row]) for i in range(0, len(padded), per_row)])


def outline(picture: Picture, region: NDArray[np.bool_], colour: tuple[int, int, int], thickness: int) -> None:
    """Draw the borders of a region (H, W) into a picture of its size."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, thickness, cv2.LINE_AA)


def write(path: Path, picture: Picture) -> None:
    """Write a picture as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise UserError(f"{path}: could not be written. Check the free space and the rights of the folder.")


def _resized(region: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    share = cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 0.5)


def _caption(text: str, width: int) -> Picture:
    strip = np.zeros((22, width, 3), np.uint8)
    cv2.putText(strip, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
    return strip
