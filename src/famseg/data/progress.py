"""Work on many files or images at once, with a progress line when it takes a while."""

import multiprocessing
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import Progress

from famseg.data.workers import batches_of, serve_quietly
from famseg.processes import cores

In = TypeVar("In")
Out = TypeVar("Out")

SHOW_AFTER_S = 2.0
MANY = 64  # items; fewer are done before processes are there
CHUNK = 4  # items that a process sends at once


def parallel(work: Callable[[In], Out], items: Sequence[In], what: str | None = None) -> Iterator[Out]:
    """Results of `work` in the order of `items`: of many by processes, of few by threads.

    Decoding an image takes a hundred steps of Python, and threads take turns at them: on 16 cores they are no faster
    than on one. Processes are forks: `work` may be anything, and what it keeps in memory is lost. Where there are none
    (macOS, Windows, loader processes), threads do all.

    Only a few results are ahead of who takes them, so that a large set does not gather in memory.

    Args:
        work: Item -> result, in any process.
        items: Processes have them as they were when the first result is taken.
        what: Begins the line; None: there is none, as beside another one.

    Raises:
        Exception: What `work` raised, for the first item concerned; most of the rest is not begun.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    line = Progress(transient=True, console=console, disable=what is None or not console.is_terminal)
    task = line.add_task(what or "", total=len(items))
    results = _by_processes(work, items) if len(items) >= MANY and forks() else _by_threads(work, items)
    try:
        for result in results:
            line.advance(task)
            if not line.live.is_started and time.monotonic() - start > SHOW_AFTER_S:
                line.start()
            yield result
    finally:
        if line.live.is_started:
            line.stop()
        results.close()


def forks() -> bool:
    """Whether this process may fork others, and has cores for them."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon and cores() > 1


def _by_threads(work: Callable[[In], Out], items: Sequence[In]) -> Generator[Out, None, None]:
    pool, ahead = ThreadPoolExecutor(), 8 * cores()
    pending: deque[Future[Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        for future in pending:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(work: Callable[[In], Out], items: Sequence[In]) -> Generator[Out, None, None]:
    import torch  # by commands that look at files alone only for many of them
    from torch.utils.data import DataLoader

    loader: Iterable[list[Any]] = DataLoader(
        _Work(work, items),  # type: ignore[arg-type]
        batch_size=CHUNK,
        collate_fn=list,
        num_workers=min(16, cores()),
        worker_init_fn=serve_quietly,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the default one is the run's
    )
    with batches_of(loader) as batches:
        for results in batches:
            for result in results:
                if isinstance(result, _Failure):
                    raise result.error
                yield result


@dataclass(frozen=True)
class _Failure:
    error: Exception


@dataclass(frozen=True)
class _Work(Generic[In, Out]):
    """A data set for torch's loader, which would put its own words around an error."""

    work: Callable[[In], Out]
    items: Sequence[In]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.work(self.items[index])
        except Exception as error:
            return _Failure(_sendable(error))


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
