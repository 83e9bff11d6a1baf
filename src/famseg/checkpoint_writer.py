"""Checkpoints that are written while training goes on.

Lightning's AsyncCheckpointIO is not used: it lets snapshots queue up, does not wait before a file is read or removed,
and copies on the GPU, so that torch.save, in its thread, would wait for the steps that were launched since, tensor by
tensor.
"""

import copy
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch

from famseg.checkpoint_io import DurableCheckpointIO

_writing = threading.Lock()
# Loader processes are forks. One that begins within a write would share the half-written file.
os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


class BackgroundCheckpointIO(DurableCheckpointIO):
    """Writes in a thread what is saved within `beside_training`, one file at a time; all else before it returns.

    The next save waits for the file before it, and so do loading, removing and the end of the trainer. Whoever waits
    gets its error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beside = False
        self._pending: futures.Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint as it is now, whatever becomes of its tensors and lists while it is written.

        Raises:
            UserError: this one, or the one before, could not be written.
        """
        self.wait()
        if not self.beside:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        executor = futures.ThreadPoolExecutor(1)  # Python does not exit before its thread has ended
        self._pending = executor.submit(self._write, snapshot(checkpoint), path)
        executor.shutdown(wait=False)  # the thread ends with this file

    def _write(self, checkpoint: dict[str, Any], path: str | Path) -> None:
        with _writing:
            super().save_checkpoint(checkpoint, path)

    def wait(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            UserError: it could not be written; said once.
        """
        if (pending := self._pending) is not None:
            futures.wait([pending])  # a signal's handler may leave from here
            self._pending = None
            pending.result()

    def load_checkpoint(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a file, when it is written."""
        self.wait()
        return super().load_checkpoint(*arguments, **options)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file, when the one that takes its place is written."""
        self.wait()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait, before the trainer says that it is done."""
        self.wait()


def snapshot(value: Any) -> Any:
    """A copy of a checkpoint, in the computer's memory, that shares nothing with what training goes on to change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # of its class, with the versions that a state dict carries
        copied.update((key, snapshot(item)) for key, item in value.items())
        return copied
    if isinstance(value, list | tuple):
        return type(value)(map(snapshot, value))
    return copy.deepcopy(value)


@contextmanager
def beside_training(trainer: lightning.Trainer) -> Iterator[None]:
    """Have a trainer of ours write while it goes on: for files that nobody reads before they are waited for."""
    io = trainer.strategy.checkpoint_io
    if not isinstance(io, BackgroundCheckpointIO):
        yield
        return
    io.beside = True
    try:
        yield
    finally:
        io.beside = False


def settle(trainer: lightning.Trainer) -> None:
    """Wait until what a trainer saved is on the disk; on the device that writes.

    Raises:
        UserError: it could not be written.
    """
    io = trainer.strategy.checkpoint_io
    if isinstance(io, BackgroundCheckpointIO):
        io.wait()
