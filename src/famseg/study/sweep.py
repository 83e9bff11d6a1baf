"""What a sweep has to do, and what it says about it."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from famseg.errors import UserError
from famseg.files import write_atomically
from famseg.revision import revision
from famseg.study.cells import PLAN, Cell, is_cell, read_cell, read_plan
from famseg.study.same_data import roots
from famseg.study.spans import end
from famseg.study.work import Work

log = logging.getLogger(__name__)

# Runs cells; yields each when it has ended, with what ended it, or "".
Engine = Callable[[Sequence[Work]], Iterator[tuple[Work, str]]]


@dataclass(frozen=True)
class Job:
    """A cell that a sweep is asked for.

    Attributes:
        work: how it is run.
        overrides: of its command line.
        choices: option by group.
        config: its resolved configuration.
    """

    work: Work
    overrides: Sequence[str]
    choices: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.work.folder


def different(jobs: Sequence[Job]) -> list[Job]:
    """The jobs without repetitions.

    Raises:
        UserError: two of them would share a folder and differ in what does not make another cell.
    """
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.folder, job)
        if other.config == job.config:
            continue
        reason = "they differ in where things lie or how they are shown only. Sweep over something else."
        if roots(other.config) != roots(job.config):
            reason = (
                "a data set is known by its folder's own name, wherever that lies. Give one of the folders another "
                "name (a link will do)."
            )
        raise UserError(
            f"{' '.join(other.overrides)} and {' '.join(job.overrides)} are the same cell, {job.folder.name}: {reason}"
        )
    return list(first.values())


def write_plan(jobs: Sequence[Job]) -> None:
    """Add the jobs to the plans of their studies, so that cells that never start are not forgotten."""
    for study in {job.folder.parent for job in jobs}:
        new = {
            job.folder.name: {"overrides": list(job.overrides), "choices": dict(job.choices), "config": job.config}
            for job in jobs
            if job.folder.parent == study
        }
        with write_atomically(study / PLAN) as file:
            json.dump(read_plan(study) | new, file, indent=1, default=str)


def run_sweep(jobs: Sequence[Job], engine: Engine, retry: str | None) -> dict[Path, Cell]:
    """Run what is not done: new cells, those that were cut off, and with `retry="failed"` those that failed.

    Args:
        jobs: all different.
        engine: runs them.
        retry: None or "failed".

    Returns:
        What became of every job.

    Raises:
        UserError: another `retry`.
    """
    if retry not in (None, "failed"):
        raise UserError(f"retry={retry}: give failed, or leave it out.")
    before = _present(jobs)
    after = {folder: cell for folder, cell in before.items() if not _to_run(cell, retry)}
    todo = [job.work for job in jobs if job.folder not in after]
    _announce(jobs, before, todo)
    ended = 0
    try:
        for work, words in engine(todo) if todo else ():
            ended += 1
            end(work.folder, words)
            after[work.folder] = _outcome(work.folder, words)
            log.info("%d of %d: %s", ended, len(todo), sentence(after[work.folder]))
    except BaseException as error:
        if ended or isinstance(error, (KeyboardInterrupt, SystemExit)):  # else nothing has begun
            log.warning("%s", summary(jobs, _present(jobs) | after))
        raise
    log.log(logging.INFO if _all_done(after) else logging.WARNING, "%s", summary(jobs, after))
    return after


def _present(jobs: Sequence[Job]) -> dict[Path, Cell]:
    """Those of the jobs that have begun, as they are now."""
    return {job.folder: read_cell(job.folder) for job in jobs if is_cell(job.folder)}


def _all_done(cells: Mapping[Path, Cell]) -> bool:
    return all(cell.state == "done" for cell in cells.values())


def sentence(cell: Cell) -> str:
    """A cell, its state and its problem."""
    return f"{cell.name}: {cell.state}" + (f" ({cell.problem})" if cell.problem else "")


def summary(jobs: Sequence[Job], cells: Mapping[Path, Cell]) -> str:
    """How many of the jobs are done, the others by name, and how to go on."""
    done = sum(cell.state == "done" for cell in cells.values())
    lines = [f"{_studies(jobs)}: {done} of {len(jobs)} cells are done."]
    lines += [f"  {sentence(cell)}" for cell in cells.values() if cell.state != "done"]
    if missing := [job.folder.name for job in jobs if job.folder not in cells]:
        lines.append(f"  {len(missing)} not started, {missing[0]} first")
    if any(cell.state == "failed" for cell in cells.values()):
        lines.append("Failed cells run again with retry=failed, from their last checkpoint.")
    if missing or any(cell.state not in ("done", "failed") for cell in cells.values()):
        lines.append("The same command goes on with what was cut off or not started.")
    return "\n".join(lines)


def _to_run(cell: Cell, retry: str | None) -> bool:
    return cell.state in ("resumable", "lost", "unreadable") or (cell.state == "failed" and retry == "failed")


def _outcome(folder: Path, words: str) -> Cell:
    """What became of a cell that was run; a program that leaves no status.json is believed."""
    cell = read_cell(folder)
    state = cell.state
    if state == "unreadable":
        state = "failed" if words else "done"
    problem = words or cell.problem if state != "done" else ""
    return replace(cell, state=state, problem=problem)


def _announce(jobs: Sequence[Job], before: Mapping[Path, Cell], todo: Sequence[Work]) -> None:
    states = Counter(cell.state for folder, cell in before.items() if folder not in {work.folder for work in todo})
    goes_on = sum(work.folder in before for work in todo)
    parts = [f"{states['done']} done before{_by_other_code(before.values())}", f"{len(todo)} to run"]
    if goes_on:
        parts.append(f"{goes_on} of them again")
    if states["failed"]:
        parts.append(f"{states['failed']} failed before and stay so without retry=failed")
    if states["running"]:
        parts.append(f"{states['running']} still running in another process")
    log.info("%s: %d cells; %s.", _studies(jobs), len(jobs), ", ".join(parts))


def _by_other_code(cells: Iterable[Cell]) -> str:
    revisions = {cell.environment.get("revision") for cell in cells if cell.state == "done"}
    others = sorted(str(each) for each in revisions - {None, revision()})
    return f" (by code {', '.join(others)})" if others else ""


def _studies(jobs: Sequence[Job]) -> str:
    return ", ".join(sorted({job.folder.parent.name for job in jobs}))
