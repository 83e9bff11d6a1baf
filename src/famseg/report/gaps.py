"""What a report does not show, and why: nothing is left out silently."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from famseg.report.layout import Table
from famseg.report.records import Record
from famseg.report.settings import Setting
from famseg.study.cells import Cell

_WORDS = {
    "running": "is still running",
    "resumable": "was asked to stop; the study's command goes on with it",
    "lost": "its process is gone; the study's command goes on with it",
    "waiting": "is planned and has not started",
}


def unfinished(cells: Iterable[Cell]) -> list[str]:
    """A sentence for every cell without a finished run."""
    lines = []
    for cell in cells:
        if cell.state in ("failed", "unreadable"):
            lines.append(f"{cell.name}: {cell.state} ({cell.problem}).")
        elif cell.state != "done":
            lines.append(f"{cell.name}: {_WORDS.get(cell.state, cell.state)}.")
    return lines


def unequal_seeds(settings: Sequence[Setting]) -> list[str]:
    """Settings with fewer finished seeds than others."""
    most = max((len(setting.records) for setting in settings), default=0)
    return [
        f"{setting.name}: {len(setting.records)} of {most} seeds; its mean and spread are of these."
        for setting in settings
        if 0 < len(setting.records) < most
    ]


def absent_rows(tables: Iterable[Table]) -> list[str]:
    """Rows of the paper's tables that no cell of the study is, or whose cells have not finished."""
    lines = []
    for table in tables:
        none = [row.name for row in table.rows if row.setting is None]
        without = [row.name for row in table.rows if row.setting is not None and not row.finished]
        if none:
            lines.append(f"{table.title}: the study has no cell for {', '.join(none)}.")
        if without:
            lines.append(f"{table.title}: no finished run of {', '.join(without)}.")
    return lines


def revisions(records: Iterable[Record]) -> list[str]:
    """A sentence if the finished cells ran different code, or code that no revision describes."""
    by_revision: dict[str, list[str]] = {}
    for record in records:
        by_revision.setdefault(str(record.cell.environment.get("revision") or "unknown"), []).append(record.cell.name)
    lines = []
    if len(by_revision) > 1:
        parts = "; ".join(f"{revision}: {', '.join(names)}" for revision, names in by_revision.items())
        lines.append(f"The cells ran {len(by_revision)} different revisions of the code ({parts}).")
    if changed := [revision for revision in by_revision if revision.endswith("+changes")]:
        lines.append(f"Code with uncommitted changes ran: {', '.join(changed)}.")
    return lines


def devices(records: Iterable[Record]) -> list[str]:
    """A sentence if the finished cells ran on different devices: their times do not compare."""
    found = Counter(device(record.cell.environment) for record in records)
    if len(found) < 2:
        return []
    parts = ", ".join(f"{name}: {n} runs" for name, n in found.items())
    return [f"Different devices ({parts}): their times do not compare."]


def unequal_tests(records: Sequence[Record]) -> list[str]:
    """A sentence if the finished cells were tested on different images."""
    sets = {frozenset(record.images.names) for record in records}
    if len(sets) < 2:
        return []
    shared = frozenset.intersection(*sets)
    return [
        f"The cells were tested on {len(sets)} different sets of images, which share {len(shared)}; comparisons over "
        "images use what each pair shares."
    ]


def foreign(folder: Path, cells: Iterable[Cell], ours: Iterable[str]) -> list[str]:
    """A sentence naming what lies in the folder and is no cell."""
    known = {cell.name for cell in cells} | set(ours)
    names = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith("."))
    return [f"No cells of the study, passed over: {', '.join(names)}."] if names else []


def device(environment: Mapping[str, object]) -> str:
    """What a run ran on."""
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        return str(gpus[0])
    return f"CPU, {environment.get('cpus', '?')} cores"
