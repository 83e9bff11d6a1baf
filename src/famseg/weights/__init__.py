"""Trained networks as safetensors files in half precision: those that the package ships, and users' own.

A file holds the network's tensors by their names in it, floating-point ones in half precision (counters of norms keep
their integers), and the checkpoint's metadata as JSON under the key `famseg` of its header.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from famseg.errors import UserError
from famseg.files import write_bytes

KEY = "famseg"
SUFFIX = ".safetensors"
FOLDER = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """Name -> file of every trained network in the package."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def write(path: Path, state: Mapping[str, Tensor], metadata: str) -> None:
    """Write a network in half precision.

    Args:
        path: file to write, `.safetensors`.
        state: the network's state dict.
        metadata: plain values as JSON.

    Raises:
        UserError: another suffix, values that half precision has no number for, or a file that cannot be written.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: weights are known by their suffix. Give a name that ends in {SUFFIX}.")
    half = {name: _half(value) for name, value in state.items()}
    if bad := [name for name, value in half.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{path}: {bad[0]} holds values beyond half precision's 65504, or NaN. Use another checkpoint.")
    write_bytes(path, safetensors.torch.save(half, {KEY: metadata}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network's state dict, as stored, and its metadata.

    Raises:
        UserError: the file is damaged, or `write` has not made it.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY, "")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}). Use another one.") from error
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: not written by `famseg export`; it lacks the metadata to rebuild the model.")
    return state, metadata


def _half(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (value.to(torch.float16) if value.is_floating_point() else value).contiguous()
