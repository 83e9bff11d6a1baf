"""SIGTERM and SIGUSR1 (Slurm's `--signal`), by which a cluster says that it takes the machine away."""

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The run was asked to stop, and nothing is lost.

    Args:
        saved: a checkpoint was written for it, and the log says so.
    """

    def __init__(self, saved: bool = False) -> None:
        super().__init__(EXIT_RESUMABLE)
        self.saved = saved


def take(handler: Any, numbers: Collection[signal.Signals] = STOPS) -> dict[signal.Signals, Any]:
    """Give signals to a handler; in a thread, which gets none, nothing happens.

    Returns:
        What `give_back` needs.
    """
    in_main = threading.current_thread() is threading.main_thread()
    return {number: signal.signal(number, handler) for number in numbers} if in_main else {}


def give_back(before: dict[signal.Signals, Any]) -> None:
    """Put the handlers from before `take` back, once."""
    while before:
        number, handler = before.popitem()
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def take_to_leave() -> dict[signal.Signals, Any]:
    """Leave with `Preempted` on a signal, as there is nothing to save; one that has a handler (submitit's) keeps it."""
    return take(leave, [number for number in STOPS if signal.getsignal(number) == signal.SIG_DFL])


@contextmanager
def taken(handler: Any, numbers: Collection[signal.Signals] = STOPS) -> Iterator[None]:
    """`take` for a while."""
    before = take(handler, numbers)
    try:
        yield
    finally:
        give_back(before)


@contextmanager
def leaving() -> Iterator[None]:
    """`take_to_leave` for a while."""
    before = take_to_leave()
    try:
        yield
    finally:
        give_back(before)


def leave(number: int, frame: FrameType | None) -> None:
    """A handler that leaves at once."""
    raise Preempted
