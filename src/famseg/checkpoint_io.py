"""Checkpoint files that survive a kill, a full disk and a damaged sector."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from famseg.errors import UserError

BEST, LAST, BEFORE_LAST = "best.ckpt", "last.ckpt", "before_last.ckpt"


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, flushes to the disk, then renames; keeps the last checkpoint but one.

    A kill at any moment leaves whole files only. The one before the last is there in case the last is damaged later.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: the disk is full or the folder cannot be written; the checkpoints before are intact.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # By name: given an open file, torch's writer aborts the process when it is interrupted and the file closed.
            torch.save(checkpoint, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            if target.name == LAST and target.exists():
                target.replace(target.with_name(BEFORE_LAST))
            partial.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            if "DataLoader worker" in str(error):  # its death interrupts whatever the process is doing
                raise
            raise UserError(
                f"{target}: could not be written ({error}). The checkpoint before it is intact: free some space or "
                "mend the rights of the folder, then go on with resume=true."
            ) from error


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None: its structure and the checksum of every record are read.

    torch.load itself does not compare the checksums that torch.save writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return f"wrong checksum in {bad}" if bad else None


def step_of(path: Path) -> int:
    """Steps of training that an undamaged checkpoint stands for; its tensors are not read."""
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])
