"""Kernels compiled, and what launches them built, by forks of this process."""

import fcntl
import gc
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from famseg.processes import cores
from famseg.signals import STOPS

log = logging.getLogger(__name__)

MOST = 16  # processes
PATIENCE = 1.0  # seconds that this process compiles alone; to read all kernels of a network from the disk takes less

Compile = Callable[[], Any]


class Promise(Future[Any]):
    """A kernel that is compiled when it is asked for, if not before; Triton keeps promises and launches by them.

    Args:
        compile_: -> the kernel.
        length: of its source.
    """

    def __init__(self, compile_: Compile, length: int) -> None:
        super().__init__()
        self.compile, self.length = compile_, length
        self._one = threading.Lock()  # of the threads that ask

    def result(self, timeout: float | None = None) -> Any:
        """The kernel, or why there is none; one that was interrupted may be asked again."""
        self.exception()
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why there is no kernel, or None."""
        with self._one:
            if not self.done():
                try:
                    self.set_result(self.compile())
                except Exception as error:
                    self.set_exception(error)
        return super().exception()


class Compilers(Executor):
    """For `triton.AsyncCompileMode`: what is submitted is compiled by `run`.

    Triton's front end is Python, in one thread of a process at a time; hence processes. What one of them compiles, all
    others find in Triton's cache on disk, so that this one does all again and waits for nothing. A fork knows the
    kernels as they are here. It neither asks the GPU nor may.

    Triton 3.6 also has the C compiler build an extension module for every signature (gcc: 0.2 s), keeps it on disk
    beside the kernels, and would come to it at the first launch of each. Triton 3.8 has one launcher for all.

    Attributes:
        length: of the source of what is submitted next. Longer sources take longer, by and large, and come first.
    """

    def __init__(self) -> None:
        self.length = 0
        self._waiting: list[Promise] = []

    def submit(self, compile_: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """A promise of the kernel, which `run` keeps."""
        promise = Promise(partial(_compiled, partial(compile_, *arguments, **options)), self.length)
        self._waiting.append(promise)
        return promise

    def run(self) -> None:
        """Compile all. A kernel that cannot be compiled raises where its promise is asked."""
        self._compile_here(PATIENCE)
        if self._waiting:
            with _one_at_a_time() as waited:
                if waited:
                    self._compile_here(PATIENCE)  # what another process has compiled meanwhile
                self._compile_in_forks()
        self._compile_here(math.inf)

    def cancel(self) -> None:
        """Compile nothing of what is left, if anything, before it is asked for."""
        self._waiting.clear()

    def _compile_here(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._waiting and time.monotonic() < until:
            self._waiting.pop(0).exception()

    def _compile_in_forks(self) -> None:
        count = min(MOST, cores(), len(self._waiting))
        if count < 2 or multiprocessing.current_process().daemon:  # which may have none
            return
        text = "Compiling %d GPU kernels on %d cores; later runs find them in Triton's cache."
        log.info(text, len(self._waiting), count)
        longest_first = sorted(self._waiting, key=lambda promise: promise.length, reverse=True)
        work, context = [promise.compile for promise in longest_first], multiprocessing.get_context("fork")
        with _ended_after() as forks, _turns(len(work)) as turns, warnings.catch_warnings():
            # of threads beside this one; their locks are those of torch, as in a DataLoader's processes
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(count):
                fork = context.Process(target=_compile_in_turn, args=(work, turns, os.getpid()), daemon=True)
                fork.start()
                forks.append(fork)


def _compiled(compile_: Compile) -> Any:
    kernel = compile_()
    with suppress(Exception):  # no C compiler, or another Triton: the launch builds it, or says why it cannot
        import triton

        triton.runtime.driver.active.launcher_cls(kernel.src, kernel.metadata)
    return kernel


@contextmanager
def _turns(count: int) -> Iterator[int]:
    """A pipe that has the numbers below `count`: each is read once, and a fork that is killed holds no lock."""
    numbers, end = os.pipe()
    try:
        os.write(end, array("H", range(count)).tobytes())
        os.close(end)
        yield numbers
    finally:
        os.close(numbers)


def _compile_in_turn(waiting: list[Compile], turns: int, parent: int) -> None:
    """What a fork does; what fails here fails again, and in words, in the process that asked for it."""
    for number in (signal.SIGINT, *STOPS):  # the handlers are those of a run; who has forked ends this one
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # it would go through all that the run has in memory, again and again; this process ends soon
    while os.getppid() == parent:  # one that was killed would keep the GPU's memory for as long as its forks live
        turn = os.read(turns, 2)
        if not turn:
            return
        compile_ = waiting[array("H", turn)[0]]
        with suppress(Exception):
            compile_()


@contextmanager
def _one_at_a_time() -> Iterator[bool]:
    """Runs that share a machine want the same kernels and the same cores. Tells whether there was another one."""
    waited = False
    with ExitStack() as stack:
        with suppress(OSError):  # no such file, or no locks of such files: side by side, then
            name = f"famseg-compiling-{os.getuid()}.lock"
            file = stack.enter_context((Path(tempfile.gettempdir()) / name).open("a"))
            try:  # of this process, and so gone with it, if not before; not the forks'
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                waited = True
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield waited


@contextmanager
def _ended_after() -> Iterator[list[BaseProcess]]:
    """Forks, to be waited for; where that is interrupted, or no more of them can be had, they end at once."""
    forks: list[BaseProcess] = []
    try:
        with suppress(OSError):  # no memory for another, or no file
            yield forks
        for fork in forks:
            fork.join()
    finally:
        for fork in forks:
            fork.kill()
            fork.join()
