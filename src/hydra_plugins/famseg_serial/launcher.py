"""One cell after the other, each in a process of its own: one that is killed does not end the sweep."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from famseg.signals import Preempted, taken
from famseg.study.launcher import CellLauncher
from famseg.study.process import last_words, start, wait
from famseg.study.work import Work


class SerialLauncher(CellLauncher):
    """Runs cells in turn. SIGTERM and SIGUSR1 are handed on to the running cell, which saves; then the sweep ends."""

    def run(self, works: Sequence[Work]) -> Iterator[tuple[Work, str]]:
        """Run cells in turn."""
        for work in works:
            with _handed_on() as (asked, running):
                process, connection = start(work)  # seconds, the first time
                running.append(process)
                if asked:
                    process.kill()  # it has nothing to save
                    raise Preempted
                wait(process)
            yield work, last_words(process, connection)
            if asked:
                raise Preempted


@contextmanager
def _handed_on() -> Iterator[tuple[list[int], list[BaseProcess]]]:
    """Hand signals on to the processes in the second list; those that came are in the first."""
    came: list[int] = []
    running: list[BaseProcess] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for process in running:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    with taken(hand_on):
        yield came, running
