"""What a set consists of, split by split: a table, a page with pictures, and copies that straddle splits."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from famseg.data.datamodule import SegmentationDataModule
from famseg.data.survey import Copies, Seen, copies, survey
from famseg.files import write_atomically, write_table
from famseg.overlays import Panel, Picture, sheet

Rows = list[dict[str, Any]]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap;vertical-align:top}
td:first-child,th:first-child{text-align:left} img{width:100%;height:auto;background:#000} .bad{color:#a40000}
"""


@dataclass(frozen=True)
class Pair:
    """Two images that are, or nearly are, one, with where they are."""

    file: str
    split: str
    other: str
    other_split: str
    same_group: bool
    bits: int

    @property
    def leaks(self) -> bool:
        """Whether they lie in different splits: what is tested has been trained on."""
        return self.split != self.other_split

    def __str__(self) -> str:
        kind = "equal images" if self.bits < 0 else f"nearly equal images ({self.bits} of 255 bits differ)"
        group = "one subject" if self.same_group else "different subjects"
        return f"{kind}: {self.file} ({self.split}) and {self.other} ({self.other_split}), {group}"


@dataclass(frozen=True)
class Stats:
    """Statistics of a data set.

    Attributes:
        rows: One per split that has images, and one for all.
        pairs: Equal and nearly equal images, those that straddle splits first.
    """

    rows: Rows
    pairs: list[Pair]

    @property
    def leaks(self) -> list[Pair]:
        """Pairs that straddle splits."""
        return [pair for pair in self.pairs if pair.leaks]


def stats(data: SegmentationDataModule) -> Stats:
    """Look at every image of a data set.

    Raises:
        UserError: An image or label cannot be read.
    """
    seen = survey(data.source)
    split = {name: part for part, names in data.splits.items() for name in names}
    parts = {part: [image for image in seen if split.get(image.name) == part] for part in (*data.splits, None)}
    classes = list(data.source.classes)[1:]
    rows = [_row(part or "unused", images, classes) for part, images in parts.items() if images]
    pairs = [_pair(found, seen, split) for found in copies(seen)]
    return Stats([*rows, _row("all", seen, classes)], sorted(pairs, key=lambda pair: not pair.leaks))


def write_stats(folder: Path, found: Stats, data: SegmentationDataModule, examples: int = 8) -> Path:
    """Write `stats.csv`, `copies.csv` and the page `index.html`, which needs no other file.

    Args:
        folder: Where they go.
        found: What `stats` returned.
        data: Its data set.
        examples: Images to draw per split.

    Returns:
        The page.
    """
    write_table(folder / "stats.csv", found.rows)
    write_table(folder / "copies.csv", [vars(pair) for pair in found.pairs])
    pictures = {part: _examples(data, names, examples) for part, names in data.splits.items() if names}
    with write_atomically(folder / "index.html") as file:
        file.write(_page(found, pictures, data.source.classes))
    return folder / "index.html"


def text_table(rows: Rows) -> str:
    """The table turned on its side, a line per number and a column per split, for the terminal."""
    lines = [[key, *(str(row.get(key, "")) for row in rows)] for key in rows[-1]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _row(split: str, images: Sequence[Seen], classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"split": split, "images": len(images), "subjects": len({image.group for image in images})}
    row["height_px"] = _range([image.shape[0] for image in images])
    row["width_px"] = _range([image.shape[1] for image in images])
    row["mm_per_px"] = _range([image.spacing for image in images])
    row["without_mm"] = sum(math.isnan(image.spacing) for image in images)
    row["grey"] = _range([image.mean for image in images])
    row["contrast"] = _range([image.contrast for image in images])
    for name in classes:
        here = [image for image in images if name in image.areas]
        row[f"{name}_images"] = len(here)
        row[f"{name}_percent"] = _range([100 * image.areas[name] / math.prod(image.shape) for image in here])
        row[f"{name}_extent_px"] = _range([image.extents[name] for image in here])
        row[f"{name}_extent_mm"] = _range([image.extents[name] * image.spacing for image in here])
    return row


def _range(values: Sequence[float]) -> str:
    """Median and extremes of the known values."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    low, middle, high = (f"{value:.4g}" for value in np.percentile(known, [0, 50, 100]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _pair(found: Copies, seen: Sequence[Seen], split: Mapping[str, str]) -> Pair:
    one, two = seen[found.first], seen[found.second]
    parts = split.get(one.name, "unused"), split.get(two.name, "unused")
    return Pair(one.name, parts[0], two.name, parts[1], one.group == two.group, found.bits)


def _examples(data: SegmentationDataModule, names: Sequence[str], count: int) -> Picture:
    """A sheet of images spread over a split, their labels tinted and outlined."""
    index = {name: i for i, name in enumerate(data.source.names)}
    chosen = np.unique(np.linspace(0, len(names) - 1, count).round().astype(int))
    samples = [data.source[index[names[i]]] for i in chosen]
    blank = [np.zeros_like(sample.image) if sample.mask is None else sample.mask for sample in samples]
    panels = [Panel(sample.image, mask, None, sample.name) for sample, mask in zip(samples, blank, strict=True)]
    return sheet(panels, data.source.classes)


def _page(found: Stats, pictures: Mapping[str, Picture], classes: Mapping[str, int]) -> str:
    keys = list(found.rows[-1])
    body = ["<h1>Data set</h1>", "<p>Median (smallest to largest). Extent: longest side of an object.</p>", "<table>"]
    for key in keys:
        cells = "".join(f"<td>{html.escape(str(row.get(key, '')))}</td>" for row in found.rows)
        body.append(f"<tr><th>{html.escape(key.replace('_', ' '))}</th>{cells}</tr>")
    body.append("</table><h2>Copies</h2>")
    kind = ' class="bad"' if found.leaks else ""
    body.append(f"<p{kind}>{len(found.leaks)} pairs straddle splits, {len(found.pairs)} in all.</p><ul>")
    body += [f"<li{' class=bad' if pair.leaks else ''}>{html.escape(str(pair))}</li>" for pair in found.pairs]
    body.append("</ul>")
    for part, picture in pictures.items():
        alt = f"Example images of {part} with labels of {', '.join(list(classes)[1:])}"
        body.append(f"<h2>{html.escape(part)}</h2><img alt='{html.escape(alt)}' src='{_data_url(picture)}'>")
    head = f"<meta charset='utf-8'><title>Data set</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _data_url(picture: Picture) -> str:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
