"""The table of `famseg study status`."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from famseg.study.cells import Cell
from famseg.study.progress import best_score, epochs

HEAD = ("state", "cell", "epochs", "best", "time", "problem")
WIDEST = 100  # letters of a problem; status.json has the whole


def status_table(folder: Path, cells: Sequence[Cell]) -> str:
    """A line per cell, and a line about all.

    Args:
        folder: of the study.
        cells: its cells.
    """
    if not cells:
        return f"{folder}: no cells yet."
    rows = [HEAD, *(_row(cell) for cell in cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_about_all(cells)])


def _row(cell: Cell) -> tuple[str, ...]:
    score = best_score(cell)
    problem = cell.problem if len(cell.problem) <= WIDEST else f"{cell.problem[: WIDEST - 3]}..."
    return (
        cell.state,
        cell.name,
        f"{epochs(cell)}/{_planned_epochs(cell)}",
        "-" if math.isnan(score) else f"{score:.4f}",
        _duration(_seconds(cell)),
        problem,
    )


def _planned_epochs(cell: Cell) -> str:
    trainer = cell.config.get("trainer")
    return str(trainer.get("max_epochs", "?")) if isinstance(trainer, dict) else "?"


def _seconds(cell: Cell) -> float:
    """Of the cell's last start."""
    started, seconds = cell.status.get("started"), cell.status.get("seconds")
    if cell.state == "running" and isinstance(started, (int, float)):
        return time.time() - started
    return float(seconds) if isinstance(seconds, (int, float)) and cell.state != "lost" else math.nan


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _about_all(cells: Sequence[Cell]) -> list[str]:
    counts = Counter(cell.state for cell in cells)
    done = counts.pop("done", 0)
    others = "".join(f", {count} {state}" for state, count in sorted(counts.items()))
    lines = [f"{done} of {len(cells)} cells are done{others}."]
    revisions = sorted({str(cell.environment["revision"]) for cell in cells if cell.environment.get("revision")})
    if len(revisions) > 1:
        lines.append(f"They are of {len(revisions)} code revisions: {', '.join(revisions)}.")
    if len({cell.identity for cell in cells if cell.identity}) < sum(bool(cell.identity) for cell in cells):
        lines.append("Some are the same experiment run twice.")
    return lines
