"""How long a device waits for batches, by its own clock."""

import time
from collections import deque
from typing import Any

import torch

MOST = 1000  # batches whose events are kept: a GPU has long made the one before them

Moment = Any  # a clock's seconds, or an event of a GPU


class DataTime:
    """Seconds between the end of a step and the next batch: what a device does other than train.

    A GPU is asked by events, since the computer runs ahead of it: what the computer waits for costs nothing as long as
    the GPU has a step to work on.

    Args:
        device: what trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.begin()

    def begin(self) -> None:
        """Forget what was measured; the device has nothing to do from now on."""
        self._spans: deque[tuple[Moment, Moment]] = deque()
        self._before = 0.0  # seconds of those that are kept no longer
        self.step_ends()

    def step_ends(self) -> None:
        """All of a step has been given to the device."""
        self._since = self._now()

    def batch_is_there(self) -> None:
        """So has all that makes its next batch."""
        self._spans.append((self._since, self._now()))
        if len(self._spans) > MOST:
            self._before += _seconds(*self._spans.popleft())

    def seconds(self) -> float:
        """Of all batches so far; waits for a GPU."""
        return sum((_seconds(*span) for span in self._spans), self._before)

    def _now(self) -> Moment:
        if self._stream is None:
            return time.perf_counter()
        return self._stream.record_event(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]


def _seconds(start: Moment, end: Moment) -> float:
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
