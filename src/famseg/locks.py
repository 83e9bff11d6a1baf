"""Locks that a dead process does not hold."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from famseg.errors import UserError

NAME = ".lock"  # in the folder that is locked
PAUSES = (0.02, 0.05, 0.1, 0.2)  # s

# POSIX locks do not exclude the process that holds them, and it loses them when it closes the file anywhere.
_mine: set[Path] = set()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock; the system drops it when the process ends, however it ends.

    Loader processes do not inherit it. A file system that has no locks is used without.

    Args:
        folder: made if need be.
        what: what the folder holds, for the message: "run", "sweep".

    Raises:
        UserError: another process holds it, or this one does already; the folder cannot be written.
    """
    path = (folder / NAME).resolve()
    if path in _mine:
        raise UserError(f"{folder}: this process has a {what} in it already.")
    with _opened(path) as file:
        try:
            _acquire(file)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{folder}: a {what} in it is running ({_holder(path)}). Wait for its end.") from None
        except OSError:  # no locks here
            yield
            return
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        _mine.add(path)
        try:
            yield
        finally:
            _mine.discard(path)


def _acquire(file: TextIO) -> None:
    """Take the lock, once whoever asks by `is_locked` at this moment has let go of it.

    Raises:
        BlockingIOError, PermissionError: somebody keeps it.
        OSError: the file system has no locks.
    """
    for pause in PAUSES:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            time.sleep(pause)
        else:
            return
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}). Check the rights of the folder.") from error


def is_locked(folder: Path) -> bool | None:
    """Whether a living process holds the folder's lock; None if that cannot be told."""
    path = (folder / NAME).resolve()
    if path in _mine:
        return True
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return None
    return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by an unknown process"
