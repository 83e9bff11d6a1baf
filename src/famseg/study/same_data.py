"""Whether a cell was run on the data that a command means: its identity knows the last name of a root, not the path."""

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from famseg.data.splits import listed
from famseg.errors import UserError
from famseg.study.cells import Cell

log = logging.getLogger(__name__)


def require_same_data(cell: Cell, config: Mapping[str, Any]) -> None:
    """Refuse to take a cell for one on another data set whose folder has the same name.

    A set has moved if its old folder is gone and the images that the cell lists lie below the new one.

    Args:
        cell: of the same identity.
        config: the resolved configuration of the command.

    Raises:
        UserError: the cell was run on another set.
    """
    if cell.state == "waiting":  # nothing was trained yet
        return
    before = roots(cell.config)
    start = str(cell.environment.get("directory") or Path.cwd())
    for key, root in roots(config).items():
        then, now = Path(start, before.get(key, root)), Path.cwd() / root
        if not _is_same(then, now, _images(cell, key)):
            raise UserError(
                f"{key}={root}: {cell.folder} was run on another data set whose folder has this name, {then}. "
                "Give study=OTHER, or one of the folders another name (a link will do)."
            )


def roots(config: Mapping[str, Any]) -> dict[str, str]:
    """The folders of a configuration's data sets, by key: `data.root`, or `data.sets.NAME.root` of several sets."""
    return _roots(config.get("data"), "data")


def _roots(node: Any, key: str) -> dict[str, str]:
    if not isinstance(node, Mapping):
        return {}
    if isinstance(sets := node.get("sets"), Mapping):  # a root beside sets is for them to refer to
        return {k: v for name, part in sets.items() for k, v in _roots(part, f"{key}.sets.{name}").items()}
    return {f"{key}.root": str(node["root"])} if node.get("root") else {}


def _is_same(then: Path, now: Path, images: set[str]) -> bool:
    if then == now or not now.exists():  # the cells that are still to run say what is missing
        return True
    if then.exists():
        return then.samefile(now)
    if images <= _files(now):
        _say_moved(then, now)
        return True
    return False


def _images(cell: Cell, key: str) -> set[str]:
    """File names of a set's images in a cell's split; none before training."""
    names = key.split(".")[2:-1:2]  # of a set in a set in ...
    before = "".join(f"{name}/" for name in names)
    path = cell.folder / "split.csv"
    files = listed(path) if path.exists() else {}
    return {PurePath(name).name for name in files if name.startswith(before)}


@functools.cache
def _files(root: Path) -> frozenset[str]:
    return frozenset(name for _, _, names in os.walk(root, followlinks=True) for name in names)


@functools.cache
def _say_moved(then: Path, now: Path) -> None:
    """Once for all cells of a sweep."""
    log.warning("%s is gone; %s has its images and is taken for the same data set, moved.", then, now)
