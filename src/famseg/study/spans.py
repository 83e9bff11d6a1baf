"""When a cell ran, on which GPU, and how it ended: a line per start and per end in its folder."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SPANS = "spans.jsonl"


@dataclass(frozen=True)
class Span:
    """One start of a cell.

    Attributes:
        cell: its name.
        start: seconds since 1970.
        end: the same; None if its sweep was killed, too.
        gpus: CUDA_VISIBLE_DEVICES of its process; None if that was not set.
        problem: what ended it, if not the end of its work.
    """

    cell: str
    start: float
    end: float | None
    gpus: str | None
    problem: str


def begin(folder: Path) -> None:
    """Write that the cell starts in this process."""
    _append(folder, {"start": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})


def end(folder: Path, problem: str) -> None:
    """Write that the cell has ended, its process perhaps, too."""
    _append(folder, {"end": time.time(), "problem": problem})


def read_spans(folder: Path) -> list[Span]:
    """All starts of a cell; lines that are half-written are passed over."""
    spans: list[Span] = []
    for line in _lines(folder):
        if "start" in line:
            spans.append(Span(folder.name, line["start"], None, line.get("gpus"), ""))
        elif spans and spans[-1].end is None:
            spans[-1] = replace(spans[-1], end=line["end"], problem=line.get("problem", ""))
    return spans


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError):
        for text in (folder / SPANS).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and line.keys() & {"start", "end"}:
                    yield line


def _append(folder: Path, line: dict[str, object]) -> None:
    with suppress(OSError):  # that a folder cannot be written is said by the run
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / SPANS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
