"""Work on many files at once, with a progress line when it takes a while."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

In = TypeVar("In")
Out = TypeVar("Out")

SHOW_AFTER_S = 2.0


def parallel(work: Callable[[In], Out], items: Sequence[In], what: str) -> Iterator[Out]:
    """Results of `work` in the order of `items`, made by threads: decoding and resizing release the interpreter.

    Only a few results are ahead of who takes them, so that a large set does not gather in memory.

    Raises:
        Exception: What `work` raised, for the first item concerned; the rest is not begun.
    """
    start = time.monotonic()
    pool = ThreadPoolExecutor()
    console = Console(stderr=True)
    line = Progress(transient=True, console=console, disable=not console.is_terminal)
    task = line.add_task(what, total=len(items))
    try:
        for future in _in_order(pool, work, items):
            result = future.result()
            line.advance(task)
            if not line.live.is_started and time.monotonic() - start > SHOW_AFTER_S:
                line.start()
            yield result
    finally:
        if line.live.is_started:
            line.stop()
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Sequence[In]) -> Iterator[Future[Out]]:
    ahead = 8 * (os.cpu_count() or 1)
    pending: deque[Future[Out]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > ahead:
            yield pending.popleft()
    yield from pending
