"""An image as a scanner shows it after measuring: contours, calipers, and the numbers below."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from famseg.biometry import Femur, Flag, GestationalAge, Head
from famseg.overlays import Picture, colours
from famseg.prediction.findings import MEANINGS, NAMES, NOTICE, Findings, Length, in_words, weeks_and_days

LONG_SIDE = 960  # px; smaller images are enlarged to it, so that lines and letters look alike on all
CALIPER = (255, 221, 87)
TEXT, DIM, WARNING = (236, 240, 243), (150, 158, 166), (255, 176, 64)

Points = NDArray[np.float64]  # (n, 2), x and y
_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel


class Words(NamedTuple):
    """A line of text: its anchor in px, Pillow's two letters for where that is on the text, colour and size."""

    text: str
    x: float
    y: float
    anchor: str
    colour: tuple[int, int, int]
    size: float


def draw_readout(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], findings: Findings, classes: Mapping[str, int]
) -> Picture:
    """Draw contours, the fitted ellipse, calipers and a scale on the image, and the numbers on a panel below.

    Args:
        image: uint8 (h, w).
        mask: class ids (h, w).
        findings: what was measured in the mask.
        classes: names -> ids; the first is the background.

    Returns:
        RGB uint8; the image enlarged to at least 960 px on its longer side, never shrunk.
    """
    scale = max(1.0, LONG_SIDE / max(image.shape))
    height, width = (round(side * scale) for side in image.shape)
    grey = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8)
    for id_, colour in colours(classes).items():
        _draw_contour(picture, mask == id_, colour)
    if not math.isnan(findings.spacing):
        _draw_centimetres(picture, findings.spacing / scale)
    for measured in (findings.head, findings.femur):
        if measured:
            _draw_calipers(picture, measured, scale)
    panel = _panel(findings, max(width, LONG_SIDE))
    sides = panel.shape[1] - width
    return np.vstack([np.pad(picture, ((0, 0), (sides // 2, sides - sides // 2), (0, 0))), panel])


def _draw_contour(picture: Picture, region: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    share = cv2.resize(region.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((share >= 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(picture.copy(), contours, -1, colour, max(1, round(_unit(picture))), cv2.LINE_AA)
    cv2.addWeighted(drawn, 0.8, picture, 0.2, 0, dst=picture)


def _draw_calipers(picture: Picture, measured: Head | Femur, scale: float) -> None:
    """The ellipse and the lines that were measured, dotted, with crosses at their ends and their names beside."""
    labels = []
    if isinstance(measured, Head) and measured.ellipse:
        _draw_dots(picture, _enlarged(measured.ellipse.points(2000), scale), gap=10, radius=1.6)
    for name, ends in measured.calipers().items():
        start, end = _enlarged(ends, scale)
        _draw_dots(picture, start + np.linspace(0, 1, 2000)[:, None] * (end - start), gap=7, radius=1.1)
        for point in (start, end):
            _draw_cross(picture, point)
        x, y = _beside(picture, start, end)
        labels.append(Words(name.upper(), x, y, "mm", CALIPER, 17 * _unit(picture)))
    _write(picture, labels, outline=True)


def _enlarged(points: Points, scale: float) -> Points:
    """Coordinates with pixel centres at integers, on the resized picture."""
    return np.asarray((points + 0.5) * scale - 0.5)


def _unit(picture: Picture) -> float:
    """Pixels that look like one on a picture of 960 px."""
    return float(max(picture.shape[:2]) / LONG_SIDE)


def _draw_dots(picture: Picture, line: Points, gap: float, radius: float) -> None:
    along = np.cumsum(np.hypot(*np.diff(line, axis=0, prepend=line[:1]).T))
    unit = _unit(picture)
    for place in np.arange(0, along[-1], gap * unit):
        x, y = _fixed(line[np.searchsorted(along, place)])
        cv2.circle(picture, (x, y), round(radius * unit * 2**_SHIFT), CALIPER, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_cross(picture: Picture, point: Points) -> None:
    unit = _unit(picture)
    for arm in (np.array([8 * unit, 0]), np.array([0, 8 * unit])):
        for colour, thickness in (((0, 0, 0), 4 * unit), (CALIPER, 2 * unit)):
            ends = _fixed(point - arm), _fixed(point + arm)
            cv2.line(picture, *ends, colour, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)


def _fixed(point: Points) -> tuple[int, int]:
    x, y = np.clip(point * 2**_SHIFT, -(2**20), 2**20).round().astype(int)
    return int(x), int(y)


def _beside(picture: Picture, start: Points, end: Points) -> Points:
    """Where a line's name goes: beyond its right end, or its upper end when it is steep, within the picture."""
    along = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
    forwards = along[0] > 0 if abs(along[0]) > abs(along[1]) else along[1] < 0
    place = end + along * 30 * _unit(picture) if forwards else start - along * 30 * _unit(picture)
    margin = 24 * _unit(picture)
    return np.asarray(np.clip(place, margin, np.array(picture.shape[1::-1]) - margin))


def _draw_centimetres(picture: Picture, spacing: float) -> None:
    """A ruler on the right edge: a tick every centimetre, a longer one every five."""
    unit, right = _unit(picture), picture.shape[1] - 1
    step = 10 / spacing
    if not 4 * unit < step:
        return  # ticks would touch
    for count, y in enumerate(np.arange(picture.shape[0] - 1, 0, -step)):
        length = (16 if count % 5 == 0 else 8) * unit
        cv2.line(picture, (round(right - length), round(y)), (right, round(y)), DIM, max(1, round(unit)), cv2.LINE_AA)


def _panel(findings: Findings, width: int) -> Picture:
    """The numbers: lengths on the left, ages on the right, then confidence, flags and the notice."""
    unit, line = width / LONG_SIDE, 26 * width / LONG_SIDE
    words = []
    for row, length in enumerate(findings.lengths):
        y = (row + 1) * line
        words.append(Words(length.name, 24 * unit, y, "lm", CALIPER, 19 * unit))
        words.append(Words(_millimetres(findings, length), 190 * unit, y, "rm", TEXT, 19 * unit))
        if not math.isnan(length.centile):
            words.append(Words(f"centile {in_words(length.centile)}", 215 * unit, y, "lm", DIM, 16 * unit))
    for row, (text, colour) in enumerate(_statements(findings)):
        words.append(Words(text, 350 * unit, (row + 1) * line, "lm", colour, 17 * unit))
    rows = max(len(findings.lengths), len(_statements(findings))) + 1
    known = "" if math.isnan(findings.spacing) else f"   {findings.spacing:.4g} mm per pixel, ticks every 1 cm"
    footer = NOTICE + known
    words.append(Words(footer, 24 * unit, (rows + 0.1) * line, "lm", DIM, 14 * unit))
    panel = np.full((round((rows + 0.8) * line), width, 3), 14, np.uint8)
    _write(panel, words)
    return panel


def _millimetres(findings: Findings, length: Length) -> str:
    if not math.isnan(length.mm):
        return f"{length.mm:.1f} mm"
    pixels = {} if not math.isnan(findings.spacing) else _pixels(findings)
    return f"{pixels[length.name]:.0f} px" if length.name in pixels else "-"


def _pixels(findings: Findings) -> dict[str, float]:
    """Lengths without a pixel size."""
    lengths: dict[str, float] = {}
    for measured in (findings.head, findings.femur):
        calipers = measured.calipers() if measured else {}
        lengths |= {name.upper(): float(np.hypot(*(ends[1] - ends[0]))) for name, ends in calipers.items()}
    if findings.head and findings.head.ellipse:
        lengths["HC"] = findings.head.ellipse.perimeter()
    return lengths


def _statements(findings: Findings) -> list[tuple[str, tuple[int, int, int]]]:
    """Ages, what the centiles are for, confidence, and every flag in words, with their colours."""
    lines = [(_age(age), TEXT) for age in findings.ages if not math.isnan(age.weeks)]
    for age in findings.ages:
        if age.flag == "out_of_range":
            lines.append((f"no GA by {age.method}: outside the formula's range", WARNING))
    if not math.isnan(findings.weeks):
        lines.append((f"centiles at {weeks_and_days(findings.weeks)}, INTERGROWTH-21st", DIM))
    sure = [f"{NAMES.get(name, name)} {100 * p:.0f} %" for name, p in findings.confidence.items() if not math.isnan(p)]
    if sure:
        lines.append(("confidence: " + ", ".join(sure), DIM))
    for name, flags in findings.flags().items():
        # An image of the one plane does not show the other's object: that is worth a word, but no warning.
        lines += [
            (f"{NAMES[name]}: {MEANINGS[flag]}", DIM if flag == Flag.EMPTY and sure else WARNING) for flag in flags
        ]
    return lines


def _age(age: GestationalAge) -> str:
    interval = "" if math.isnan(age.low) else f"  ({weeks_and_days(age.low)} to {weeks_and_days(age.high)})"
    return f"GA {weeks_and_days(age.weeks)}{interval}  {age.method}"


def _write(picture: Picture, lines: Sequence[Words], outline: bool = False) -> None:
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for words in lines:
        stroke = round(words.size / 8) if outline else 0
        font = ImageFont.load_default(words.size)
        place = (words.x, words.y)
        draw.text(place, words.text, words.colour, font, words.anchor, stroke_width=stroke, stroke_fill=(0, 0, 0))
    picture[:] = np.asarray(canvas)
