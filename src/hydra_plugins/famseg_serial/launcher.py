"""One cell after the other, each in a process of its own: one that is killed does not end the sweep."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType

import cloudpickle

from famseg.study.launcher import CellLauncher
from famseg.study.work import Work

GRACE = 120.0  # s to save a checkpoint after Ctrl-C


class SerialLauncher(CellLauncher):
    """Runs cells in turn. SIGTERM and SIGUSR1 are handed on to the running cell, which saves; then the sweep ends."""

    def run(self, works: Sequence[Work]) -> Iterator[tuple[Work, str]]:
        """Run cells in turn."""
        for work in works:
            process, connection = _start(work)
            with _handed_on(process) as asked:
                _wait(process)
            yield work, _words(process, connection)
            if asked:
                raise SystemExit(os.EX_TEMPFAIL)  # as famseg.callbacks.preemption, which would wait for torch


def _start(work: Work) -> tuple[BaseProcess, Connection]:
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run_pickled, args=(cloudpickle.dumps(work), there))
    process.start()
    there.close()
    return process, here


def _run_pickled(work: bytes, connection: Connection) -> None:
    connection.send(cloudpickle.loads(work)())


def _wait(process: BaseProcess) -> None:
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join(GRACE)
        process.kill()
        raise


def _words(process: BaseProcess, connection: Connection) -> str:
    if connection.poll():
        try:
            return str(connection.recv())
        except EOFError:
            pass
    code = process.exitcode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"its process left with {code}"


@contextmanager
def _handed_on(process: BaseProcess) -> Iterator[list[int]]:
    """Hand signals on to a process; those that came are in the list."""
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
