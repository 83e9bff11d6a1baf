"""Settings of a study against each other, paired: python experiments/paired.py FOLDER --pair A B LABEL ...

Prints Markdown from a folder's `images.csv` and `cells.csv`: B less A with a 95 % interval, by the statistics of
`famseg report` (docs/report.md). mIoU: over the seeds that both have. The others: over the test images, each its mean
over these seeds; examinations are drawn and flipped whole. p is corrected (Holm) over the pairs of a score; bold is
below 0.05.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from famseg.report.charts import Dots, Panel, Point
from famseg.report.static import draw
from famseg.report.statistics import LEVEL, Comparison, holm, over_images, over_seeds

Row = Mapping[str, str]
Columns = Mapping[str, tuple[int, Sequence[Comparison]]]  # heading -> digits, a comparison per pair
SCORES: dict[str, tuple[str, int, Callable[[Row], float]]] = {  # name -> heading, digits, an image's score
    "dice": ("Dice, points", 2, lambda row: 100 * float(row["dice_fb"])),
    "hc": ("error of HC, mm", 2, lambda row: abs(float(row["hc_error_mm"]))),
    "hd95": ("HD95, mm", 2, lambda row: float(row["hd95_mm_fb"])),
    "assd": ("ASSD, mm", 3, lambda row: float(row["assd_mm_fb"])),
    "boundary": ("boundary IoU, points", 2, lambda row: 100 * float(row["boundary_iou_fb"])),
    "jaggedness": ("jaggedness", 4, lambda row: float(row["jaggedness_fb"])),
}


def main() -> None:
    """Prints every pair by every score and third of the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pair", nargs=3, action="append", required=True, metavar=("A", "B", "LABEL"))
    parser.add_argument("--thirds", nargs="+", default=["all", "small"], choices=["all", "small", "large"])
    parser.add_argument("--scores", nargs="+", default=["dice", "hc", "hd95"], choices=SCORES)
    parser.add_argument("--seeds", action="store_true", help="mIoU over seeds, too")
    parser.add_argument("--figure", nargs=2, metavar=("NAME", "TITLE"), help="draw it as FOLDER/NAME.png")
    args = parser.parse_args()
    images, cells = read(args.folder / "images.csv"), read(args.folder / "cells.csv")
    columns = {}
    if args.seeds:
        columns["mIoU, points, over seeds"] = 2, [by_seeds(cells, a, b) for a, b, _ in args.pair]
    for third in args.thirds:
        part = third_of(images, third)
        for name in args.scores:
            heading, digits, score = SCORES[name]
            of_third = heading if third == "all" else f"{heading}; {third} third"
            columns[of_third] = digits, [by_images(part, a, b, score) for a, b, _ in args.pair]
    labels = [label for _, _, label in args.pair]
    print_table(labels, columns)
    if args.figure:
        draw_figure(args.folder, *args.figure, labels, columns)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def third_of(images: Sequence[Row], third: str) -> list[Row]:
    """The rows of the small or the large third of the images, by the head's share of the picture, as in the report."""
    sizes = {row["file"]: float(row["size_fb"]) for row in images}
    low, high = np.quantile(list(sizes.values()), [1 / 3, 2 / 3])
    inside = {"all": lambda size: True, "small": lambda size: size <= low, "large": lambda size: size > high}[third]
    return [row for row in images if inside(sizes[row["file"]])]


def by_seeds(cells: Sequence[Row], a: str, b: str) -> Comparison:
    """B less A in mIoU, in points."""
    scores = {name: {row["seed"]: 100 * float(row["miou"]) for row in of(cells, name)} for name in (a, b)}
    seeds = sorted(scores[a].keys() & scores[b].keys())
    return over_seeds([scores[b][seed] for seed in seeds], [scores[a][seed] for seed in seeds])


def by_images(images: Sequence[Row], a: str, b: str, score: Callable[[Row], float]) -> Comparison:
    """B less A, image by image."""
    seeds = {row["seed"] for row in of(images, a)} & {row["seed"] for row in of(images, b)}
    means = {}
    for name in (a, b):
        scores = defaultdict(list)
        for row in of(images, name):
            if row["seed"] in seeds:
                scores[row["file"]].append(score(row))
        means[name] = {file: fmean(values) for file, values in scores.items()}
    group = {row["file"]: row["group"] for row in images}
    files = sorted(means[a])
    return over_images([means[b][file] - means[a][file] for file in files], [group[file] for file in files])


def of(rows: Sequence[Row], setting: str) -> list[Row]:
    """The rows of a setting."""
    found = [row for row in rows if row["setting"] == setting]
    if not found:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(row["setting"] for row in rows))
        raise SystemExit(f"--pair: there is no '{setting}'; there are {names}.")
    return found


def print_table(labels: Sequence[str], columns: Columns) -> None:
    """The differences as Markdown, pairs or scores downwards, whichever are more."""
    table = [["", *columns]] + [[label] for label in labels]
    for digits, found in columns.values():
        for row, comparison, p in zip(table[1:], found, holm([c.p for c in found]), strict=True):
            row.append(words(comparison, p, digits))
    if len(columns) > len(labels):
        table = [list(row) for row in zip(*table, strict=True)]
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    print(head, "|---|" + "---:|" * (len(table[0]) - 1), *rows, sep="\n")


def draw_figure(folder: Path, name: str, title: str, labels: Sequence[str], columns: Columns) -> None:
    """The differences as dots with intervals; pale where the interval holds 0."""
    panels = []
    for heading, (_, found) in columns.items():
        of_panel, _, third = heading.partition("; ")
        score, _, unit = of_panel.partition(", ")
        points = [
            Point(label, c.difference, c.low, c.high, strong=not c.low <= 0 <= c.high)
            for label, c in zip(labels, found, strict=True)
        ]
        panels.append(Panel(f"{score}, {third}" if third else score, unit, "#2563a8", points, zero=True))
    draw(Dots(name, title, panels)).savefig(folder / f"{name}.png", dpi=110)


def words(found: Comparison, p: float, digits: int) -> str:
    """A difference in figures."""
    number = f"{found.difference:+.{digits}f}"
    if np.isnan(p):
        return f"{number} ({found.units} seed)"
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    text = f"{number} ({found.low:+.{digits}f} to {found.high:+.{digits}f}); {chance}"
    return f"**{text}**" if p < LEVEL else text


if __name__ == "__main__":
    main()
