"""What a report does not show, and why: nothing is left out silently."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from famseg.report.layout import Table
from famseg.report.records import Record
from famseg.report.settings import Setting, has_folds
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


def unequal_repeats(settings: Sequence[Setting]) -> list[str]:
    """Settings with fewer finished seeds than others, or without some of their folds."""
    records = [record for setting in settings for record in setting.records]
    if has_folds(records):
        seeds = sorted({record.seed for record in records})
        return [line for setting in settings if setting.records for line in _missing_folds(setting, seeds)]
    most = max((len(setting.records) for setting in settings), default=0)
    return [
        f"{setting.name}: {len(setting.records)} of {most} seeds; its mean and spread are of these."
        for setting in settings
        if 0 < len(setting.records) < most
    ]


def _missing_folds(setting: Setting, seeds: Sequence[int]) -> list[str]:
    """A sentence if a seed of the study lacks one of the folds into which the setting's data is dealt."""
    finished = {(record.seed, record.fold) for record in setting.records}
    folds = range(int(setting.cells[0].config["data"].get("folds", 0)))
    missing = [(seed, fold) for seed in seeds for fold in folds if (seed, fold) not in finished]
    if not missing or setting.records[0].fold is None:
        return []
    several = len(seeds) > 1
    names = ", ".join(f"seed {seed} fold {fold}" if several else f"fold {fold}" for seed, fold in missing)
    count = f"{len(finished)} of {len(finished) + len(missing)} {'runs' if several else 'folds'}"
    return [f"{setting.name}: {count}, without {names}; its mean and spread are of these."]


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
    """A sentence if the finished cells, or those of one fold, were tested on different images."""
    apart = has_folds(records)
    folds: dict[int | None, set[frozenset[str]]] = {}
    for record in records:
        folds.setdefault(record.fold if apart else None, set()).add(frozenset(record.images.names))
    return [
        f"The cells{'' if fold is None else f' of fold {fold}'} were tested on {len(sets)} different sets of images, "
        f"which share {len(frozenset.intersection(*sets))}; comparisons over images use what each pair shares."
        for fold, sets in folds.items()
        if len(sets) > 1
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
