"""The cells of a study as they lie on the disk: whole, half-written or foreign."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from famseg import locks
from famseg.errors import UserError
from famseg.study.identity import identity, setting

PLAN = "plan.json"  # what the sweeps of a study were to run
_USERS_MISTAKE = "hydra.errors.CompactHydraException: "  # in front of a sentence that needs no name of a class
MARKS = (".hydra", "status.json", "config.yaml")  # a folder with one of these is a cell


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        folder: its folder.
        name: the folder's name.
        state: done, failed, running, resumable (asked to stop), lost (its process is gone), unreadable (its status
            is), or waiting (planned, not started).
        config: its resolved configuration; {} if that is unreadable.
        choices: the option chosen in each group, such as {"model": "famseg_t"}.
        overrides: what its command line said.
        environment: revision, devices, versions.
        problem: why it is failed, lost or unreadable, in one line; "" otherwise.
        status: the content of status.json.
    """

    folder: Path
    name: str
    state: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: Sequence[str]
    environment: Mapping[str, Any]
    problem: str
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The same for the same experiment, wherever it runs; "" if the configuration is unreadable."""
        return identity(self.config) if self.config else ""

    @property
    def setting(self) -> str:
        """The same for all seeds and folds of an experiment; "" if the configuration is unreadable."""
        return setting(self.config) if self.config else ""


def read_study(folder: Path) -> list[Cell]:
    """Every cell of a study, in the order of names; what is half-written is said, what is foreign is passed over.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder of a study, such as runs/table2.")
    present = [read_cell(path) for path in folder.iterdir() if is_cell(path)]
    names = {cell.name for cell in present}
    waiting = [_waiting(folder / name, planned) for name, planned in read_plan(folder).items() if name not in names]
    return sorted(present + waiting, key=lambda cell: cell.name)


def is_cell(folder: Path) -> bool:
    """Whether a folder is one of a run."""
    return folder.is_dir() and any((folder / mark).exists() for mark in MARKS)


def read_cell(folder: Path) -> Cell:
    """A run's folder, whatever state its files are in."""
    status, state, problem = _status(folder)
    hydra, _ = _read(folder / ".hydra" / "hydra.yaml")
    overrides, _ = _read(folder / ".hydra" / "overrides.yaml", list)
    config, bad_config = _read(folder / "config.yaml")
    environment, bad_environment = _read(folder / "environment.json")
    return Cell(
        folder=folder,
        name=folder.name,
        state=state,
        config=config,
        choices=_choices(hydra),
        overrides=[str(override) for override in overrides],
        environment=environment,
        problem=problem or bad_config or bad_environment,
        status=status,
    )


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Name, overrides, choices and configuration of every cell that the sweeps of a study were to run."""
    plan, _ = _read(folder / PLAN)
    return {str(name): cell for name, cell in plan.items() if isinstance(cell, dict)}


def _waiting(folder: Path, planned: Mapping[str, Any]) -> Cell:
    config, choices = planned.get("config"), planned.get("choices")
    return Cell(
        folder=folder,
        name=folder.name,
        state="waiting",
        config=config if isinstance(config, dict) else {},
        choices=choices if isinstance(choices, dict) else {},
        overrides=[str(override) for override in planned.get("overrides") or []],
        environment={},
        problem="",
    )


def _status(folder: Path) -> tuple[dict[str, Any], str, str]:
    """Content of status.json, state and problem."""
    status, bad = _read(folder / "status.json")
    state = status.get("state")
    known = state in ("done", "failed", "running", "resumable")
    if state == "running" or not known:
        held = locks.is_locked(folder)
        if held:
            return status, "running", ""
        if state == "running":
            return (status, "running", "") if held is None else (status, "lost", "its process is gone")
    if not known:
        return status, "unreadable", bad or f"status.json: its state is {state!r}"
    return status, str(state), _last_line(status.get("error")) if state == "failed" else ""


def _last_line(trace: Any) -> str:
    lines = [line.strip() for line in str(trace or "").splitlines() if line.strip()]
    return lines[-1].removeprefix(_USERS_MISTAKE) if lines else "no reason in status.json"


def _choices(hydra: Mapping[str, Any]) -> dict[str, str]:
    try:
        choices = hydra["hydra"]["runtime"]["choices"]
        return {str(group): str(option) for group, option in choices.items() if option is not None}
    except (KeyError, TypeError, AttributeError):
        return {}


def _read(path: Path, kind: type = dict) -> tuple[Any, str]:
    """The content of a YAML or JSON file and "", or an empty one and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        return kind(), f"no {path.name}"
    except (OSError, ValueError, yaml.YAMLError) as error:
        return kind(), f"{path.name}: {type(error).__name__}"
    return (content, "") if isinstance(content, kind) else (kind(), f"{path.name}: not a {kind.__name__}")
