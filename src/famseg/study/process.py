"""A cell in a process of its own, forked from one that has imported what a run needs.

Python, torch and Lightning take longer to start than a short cell to train. A fork has them at once and shares their
memory; it is made of a process that has done nothing but import, since neither CUDA nor threads survive a fork.
That process is deaf to what a cluster tells all processes of a job: without it the sweep could not wait for its cell.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import cloudpickle
from omegaconf import OmegaConf

from famseg.signals import STOPS
from famseg.study.work import Work

GRACE = 120.0  # s to save a checkpoint when a sweep is asked to stop
PRELOADED = ["__main__", "famseg.study.preload"]
LONGEST = 2000  # letters of the last words; a pipe that nobody reads yet takes 65536 bytes


def start(work: Work, output: Path | None = None, survives: bool = True) -> tuple[BaseProcess, Connection]:
    """Start a cell with the environment of this process.

    Before the first, all of famseg is imported, for all that follow, if its configuration names anything of it.

    Args:
        work: the cell.
        output: file to which what the cell prints is added; None: where this process prints.
        survives: whether the cell goes on alone if this process dies; else it is told to save and leave.

    Returns:
        The process, and where its last words will come from.
    """
    linux = sys.platform == "linux"  # elsewhere libraries start threads as they are imported
    context = multiprocessing.get_context("forkserver" if linux else "spawn")
    if linux:
        ours = "'_target_': 'famseg." in str(OmegaConf.to_container(work.config))
        context.set_forkserver_preload(PRELOADED if ours else [])
    here, there = context.Pipe(duplex=False)
    arguments = (cloudpickle.dumps(work), dict(os.environ), output, survives, there)
    process = context.Process(target=_run, args=arguments)  # type: ignore[attr-defined]
    with _blocked():
        process.start()
    there.close()
    return process, here


def wait(process: BaseProcess) -> None:
    """Wait for a process to end; on Ctrl-C it is told to save and leave, and is given time for that."""
    try:
        while process.is_alive():
            process.join(0.5)  # not for good: Ray's way of Ctrl-C wakes no one
    except KeyboardInterrupt:
        process.terminate()
        process.join(GRACE)
        process.kill()
        raise


def last_words(process: BaseProcess, connection: Connection) -> str:
    """What ended a process that has ended, in one line; "" if it came to the end of its work."""
    if connection.poll():
        try:
            return str(connection.recv())
        except EOFError:
            pass
    code = process.exitcode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"its process left with {code}"


@contextmanager
def _blocked() -> Iterator[None]:
    """Signals of a cluster wait, and are blocked for good in a process that is started here."""
    resource_tracker.ensure_running()  # which would unblock them as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: bytes, environment: Mapping[str, str], output: Path | None, survives: bool, last: Connection) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    multiprocessing.set_start_method(None, force=True)  # else loader processes would be started as this one was
    os.environ.update(environment)  # the process that was forked has that of its own start, and what modules set
    if output is not None:
        _print_to(output)
    if not survives:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    words = cloudpickle.loads(work)()
    with suppress(BrokenPipeError):  # the sweep is gone
        last.send(words[:LONGEST])


def _print_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
