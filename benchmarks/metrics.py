"""Boundary scores of ten mask pairs with known answers, by FAMSeg and by the tools that people use now.

    pip install monai medpy surface-distance-based-measures
    python benchmarks/metrics.py > benchmarks/metrics.md

The answers are those of the smooth outlines, sampled every 0.02 px, before they become pixels. The picture is not
square, on purpose. A tool that gives no number for a missed object drops it from every mean.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from famseg.biometry import Ellipse
from famseg.metrics.image import measure_image, score_boundary

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
HEIGHT, WIDTH, SPACING = 200, 400, 0.2  # px, px, mm per px
SCORES = ("HD95 [mm]", "ASSD [mm]", "NSD at 1 mm")


@dataclass(frozen=True)
class Shape:
    """A polygon (n, 2) with points every 0.02 px, and its pixels."""

    outline: Float
    mask: Mask


def polygon(corners: Float, *more: Float) -> Shape:
    parts = [_dense(np.asarray(part, dtype=float)) for part in (corners, *more)]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for part in (corners, *more):
        mask ^= _inside(np.asarray(part, dtype=float))
    return Shape(np.concatenate(parts), mask)


def _dense(corners: Float) -> Float:
    """Points at even steps along the closed polygon: each stands for the same length."""
    closed = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, along[-1], math.ceil(along[-1] / 0.02), endpoint=False)
    return np.stack([np.interp(at, along, closed[:, 0]), np.interp(at, along, closed[:, 1])], axis=1)


def _inside(corners: Float) -> Mask:
    """Even-odd rule at the pixel centres."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def ellipse(cx: float, cy: float, a: float, b: float, angle: float = 0.0) -> Float:
    return Ellipse(cx, cy, a, b, angle).points(3000)


def bar(cx: float, cy: float, length: float, width: float, angle: float) -> Float:
    """A femur with round ends."""
    t, r = np.linspace(-np.pi / 2, np.pi / 2, 500), width / 2
    end = np.stack([length / 2 - r + r * np.cos(t), r * np.sin(t)], axis=1)
    c, s = math.cos(angle), math.sin(angle)
    return np.concatenate([end, -end]) @ np.array([[c, s], [-s, c]]) + [cx, cy]


def box(left: float, top: float, right: float, bottom: float) -> Float:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def stairs(block: int) -> Float:
    """Outline of an ellipse redrawn in blocks: the upper half's columns, then the lower half's."""
    upper, lower = [], []
    for left in range(0, WIDTH, block):
        u = (left + block / 2 - 150.0) / 90
        if abs(u) < 1:
            half = block * round(60 * math.sqrt(1 - u * u) / block)
            upper += [(left - 0.5, 99.5 - half), (left + block - 0.5, 99.5 - half)]
            lower += [(left - 0.5, 99.5 + half), (left + block - 0.5, 99.5 + half)]
    return np.array(upper + lower[::-1])


def pairs() -> dict[str, tuple[Shape, Shape | None]]:
    head = polygon(ellipse(150.2, 100.4, 90, 70, 0.3))
    return {
        "the same ellipse": (head, head),
        "square moved by 8 px": (polygon(box(99.5, 59.5, 179.5, 139.5)), polygon(box(107.5, 59.5, 187.5, 139.5))),
        "circles of 60 and 67 px": (polygon(ellipse(150, 100, 60, 60)), polygon(ellipse(150, 100, 67, 67))),
        "circle moved by (9, 12) px": (polygon(ellipse(150, 100, 60, 60)), polygon(ellipse(159, 112, 60, 60))),
        "ellipse turned by 0.2": (head, polygon(ellipse(150.2, 100.4, 90, 70, 0.5))),
        "ellipse moved along the width": (polygon(ellipse(90, 100, 60, 50)), polygon(ellipse(240, 100, 60, 50))),
        "femur turned by 10 degrees": (polygon(bar(200, 100, 150, 14, 0.5)), polygon(bar(200, 100, 150, 14, 0.675))),
        "ellipse and a far speck": (head, polygon(ellipse(150.2, 100.4, 90, 70, 0.3), ellipse(360.3, 40.2, 3, 3))),
        "circles cut by the border": (polygon(ellipse(20, 100, 70, 70)), polygon(ellipse(20, 100, 63, 63))),
        "ellipse in 8-px blocks": (polygon(ellipse(149.5, 99.5, 90, 60)), polygon(stairs(8))),
        "missed": (head, None),
    }


def known_answer(first: Shape, second: Shape | None) -> tuple[float, ...]:
    """HD95, ASSD, NSD and largest distance of the smooth outlines within the picture."""
    if second is None:
        diagonal = SPACING * math.hypot(HEIGHT, WIDTH)
        return diagonal, diagonal, 0.0, diagonal
    a, b = (s.outline[(s.outline > -0.5).all(axis=1) & (s.outline[:, 0] < WIDTH - 0.5)] for s in (first, second))
    to_b, to_a = SPACING * KDTree(b).query(a)[0], SPACING * KDTree(a).query(b)[0]
    both = np.concatenate([to_b, to_a])
    hd95 = max(np.percentile(to_b, 95), np.percentile(to_a, 95))
    return float(hd95), float(both.mean()), float((both <= 1).mean()), float(both.max())


def famseg(a: Mask, b: Mask) -> tuple[float, ...]:
    row = score_boundary(a, b, SPACING)
    return row["hd95_mm"], row["assd_mm"], row["nsd"]


def monai(a: Mask, b: Mask) -> tuple[float, ...]:
    import monai.metrics as m

    pair = [torch.from_numpy(x)[None, None].float() for x in (b, a)]
    options = {"include_background": True, "spacing": SPACING}
    hd95 = m.compute_hausdorff_distance(*pair, percentile=95, **options)
    assd = m.compute_average_surface_distance(*pair, symmetric=True, **options)
    return hd95.item(), assd.item(), m.compute_surface_dice(*pair, class_thresholds=[1.0], **options).item()


def medpy(a: Mask, b: Mask) -> tuple[float, ...]:
    from medpy.metric import binary

    return binary.hd95(b, a, SPACING), binary.assd(b, a, SPACING), math.nan


def surface_distance(a: Mask, b: Mask) -> tuple[float, ...]:
    import surface_distance as s

    found = s.compute_surface_distances(a, b, (SPACING, SPACING))
    there, back = s.compute_average_surface_distance(found)
    nsd = s.compute_surface_dice_at_tolerance(found, 1.0)
    return s.compute_robust_hausdorff(found, 95), (there + back) / 2, nsd


def torchmetrics(a: Mask, b: Mask) -> tuple[float, ...]:
    """Has the largest distance only."""
    from torchmetrics.segmentation import HausdorffDistance

    metric = HausdorffDistance(num_classes=2, include_background=False, spacing=[SPACING, SPACING])
    pair = [torch.from_numpy(x)[None].long() for x in (b, a)]
    one_hot = [torch.nn.functional.one_hot(x, 2).movedim(-1, 1) for x in pair]
    metric.update(*one_hot)
    return (float(metric.compute()),)


TOOLS: dict[str, Callable[[Mask, Mask], tuple[float, ...]]] = {
    "FAMSeg": famseg,
    "MONAI": monai,
    "medpy": medpy,
    "surface-distance": surface_distance,
}


def ask(tool: Callable[[Mask, Mask], tuple[float, ...]], a: Mask, b: Mask) -> tuple[float | str, ...]:
    try:
        return tool(a, b)
    except Exception as error:
        return (type(error).__name__,) * len(SCORES)


def cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "--" if math.isnan(value) else f"{value:.3f}"


def seconds_per_image(repeats: int = 20) -> float:
    """Median process time of everything that a row of test.csv needs: a head and a femur, 540x800 px, one core."""
    y, x = np.mgrid[:540, :800]
    head, femur = ((x - 400) / 260) ** 2 + ((y - 270) / 190) ** 2 <= 1, (abs(x - 400) < 120) & (abs(y - 505) < 9)
    truth = np.where(head, 2, 0) + femur
    predicted = np.kron(np.roll(truth, 8, 1)[::4, ::4], np.ones((4, 4), int))
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        measure_image(truth, predicted, {"BG": 0, "FL": 1, "FB": 2}, 0.2)
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def main() -> None:
    answers = {name: known_answer(*pair) for name, pair in pairs().items()}
    masks = {name: (a.mask, np.zeros_like(a.mask) if b is None else b.mask) for name, (a, b) in pairs().items()}
    found = {name: {tool: ask(f, *pair) for tool, f in TOOLS.items()} for name, pair in masks.items()}
    print("Written by `python benchmarks/metrics.py`; its first lines say what is compared.")
    print("`--`: NaN, or the tool lacks the score; a name: the exception it raised.\n")
    for i, score in enumerate(SCORES):
        print(f"| {score} | known | {' | '.join(TOOLS)} |\n|{'---|' * (len(TOOLS) + 2)}")
        for name, values in found.items():
            print(f"| {name} | {answers[name][i]:.3f} | {' | '.join(cell(values[tool][i]) for tool in TOOLS)} |")
        worst = []
        for tool in TOOLS:
            errors = [abs(v[tool][i] - answers[n][i]) for n, v in found.items() if isinstance(v[tool][i], float)]
            worst.append(cell(float(np.nanmax(errors)) if np.isfinite(errors).any() else math.nan))
        print(f"| *largest error where there is a number* | | {' | '.join(worst)} |\n")
    print("| largest distance [mm] | known | torchmetrics |\n|---|---|---|")
    for name, pair in masks.items():
        print(f"| {name} | {answers[name][3]:.3f} | {cell(ask(torchmetrics, *pair)[0])} |")
    print(f"\nAll scores and measurements of a 540x800 image: {1000 * seconds_per_image():.0f} ms on one core.")


if __name__ == "__main__":
    main()
