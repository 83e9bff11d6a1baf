"""How busy the GPUs were while a study's sweeps ran."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from famseg.report.charts import DASHES, PALETTE, Line, Lines

POINTS = 400  # of a curve; a longer record is averaged


def gpu_loads(path: Path) -> list[Lines]:
    """The figure of a record of loads (famseg.study.watch); [] if there is none, or nothing in it."""
    loads = _read(path)
    if not loads:
        return []
    first = min(times[0] for times, _ in loads.values())
    last = max(times[-1] for times, _ in loads.values())
    width = max(1.0, (last - first) / POINTS)  # s
    lines = []
    for i, (name, (times, busy)) in enumerate(sorted(loads.items())):
        x, y = _averaged((times - first) / width, busy)
        x = (x + 0.5) * width / 60
        mean = f"GPU {name} (mean {busy.mean():.0f} %)"
        lines.append(Line(mean, x, y, y, y, PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]))
    caption = (
        f"Share of the time in which a kernel ran, means of {width:.0f} s, of every GPU that the sweep could use; the "
        "record is of the machine on which the sweep was started. A gap: no sweep ran."
    )
    return [Lines("gpus", "Load of the GPUs", "busy %", lines, caption, "minutes since the first sweep's start")]


def _read(path: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """GPU -> times and loads in the order of times; rows that are half-written are passed over."""
    rows: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                try:
                    values = float(row["time"]), float(row["busy_percent"])
                except (KeyError, TypeError, ValueError):
                    continue
                rows.setdefault(row["gpu"], []).append(values)
    except (OSError, csv.Error):
        return {}
    every = {name: np.array(sorted(values)) for name, values in rows.items()}
    return {name: (values[:, 0], values[:, 1]) for name, values in every.items()}


def _averaged(place: NDArray[np.float64], busy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bins and their means, NaN where a bin is empty, so that the curve has a gap."""
    bins = place.astype(int)
    count = np.bincount(bins)
    total = np.bincount(bins, weights=busy)
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return np.arange(len(count), dtype=np.float64), mean
