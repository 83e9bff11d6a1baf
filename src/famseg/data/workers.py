"""What a loader process does first, and when it ends."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import cv2
from rich.file_proxy import FileProxy

from famseg.signals import STOPS


def serve_quietly(_: int) -> None:
    """No threads of its own, no words through a progress bar, no ear for what a cluster tells all processes of a job.

    The trainer decides whether to stop; were its workers gone by then, it could not finish its step and save.
    """
    cv2.setNumThreads(0)  # the workers are the threads
    sys.stdout, sys.stderr = _behind_bar(sys.stdout), _behind_bar(sys.stderr)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def batches_of(loader: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """What a torch loader makes, outside of Lightning, once; its processes end with this context.

    The traceback of an interruption holds the loader's iterator, and Python would not exit while they wait for work.
    """
    batches = iter(loader)
    try:
        yield batches
    finally:
        end = getattr(batches, "_shutdown_workers", None)  # which one without processes lacks
        if end is not None:
            end()


def _behind_bar(stream: TextIO) -> TextIO:
    """What a progress bar has put itself in front of: its lock is as it was at the fork, held or not."""
    return stream.rich_proxied_file if isinstance(stream, FileProxy) else stream  # type: ignore[return-value]
