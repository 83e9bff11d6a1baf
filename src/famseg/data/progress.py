"""Work on many files at once, with a progress line when it takes a while."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

In = TypeVar("In")
Out = TypeVar("Out")

SHOW_AFTER_S = 2.0


def parallel(work: Callable[[In], Out], items: Sequence[In], what: str) -> Iterator[Out]:
    """Results of `work` in the order of `items`, made by threads: decoding and resizing release the interpreter.

    Raises:
        Exception: What `work` raised, for the first item concerned; the rest is not begun.
    """
    start = time.monotonic()
    pool = ThreadPoolExecutor()
    console = Console(stderr=True)
    line = Progress(transient=True, console=console, disable=not console.is_terminal)
    task = line.add_task(what, total=len(items))
    try:
        for result in pool.map(work, items):
            line.advance(task)
            if not line.live.is_started and time.monotonic() - start > SHOW_AFTER_S:
                line.start()
            yield result
    finally:
        if line.live.is_started:
            line.stop()
        pool.shutdown(cancel_futures=True)
