"""Checkpoints that explain themselves: from a folder, a file or a shipped name to a network ready for use."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from famseg.errors import UserError
from famseg.inference import Predictor

log = logging.getLogger(__name__)

METADATA_KEY = "famseg"


def resolve(where: str | Path) -> Path:
    """The checkpoint that a run's folder or a file's name means: `checkpoints/best.ckpt` of a folder.

    Raises:
        UserError: there is none.
    """
    path = Path(where)
    if path.is_file():
        return path
    for candidate in (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"{path}: holds no checkpoints/best.ckpt. Give the folder of a run that has trained.")
    raise UserError(f"{path}: no such file or folder. Give a run's folder or a checkpoint.")


def load(where: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, plain values and tensors on the CPU, with its metadata checked.

    Raises:
        UserError: no such checkpoint, an unreadable file, or one that FAMSeg did not write.
    """
    path = resolve(where)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for damaged files
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}). Use another one.") from error
    if not isinstance(content, dict) or METADATA_KEY not in content or "model" not in content[METADATA_KEY]:
        raise UserError(f"{path}: not a checkpoint of FAMSeg's train.py; it lacks the metadata to rebuild the model.")
    return content


def build(metadata: Mapping[str, Any]) -> nn.Module:
    """The untrained network that a checkpoint's metadata describes.

    Raises:
        UserError: the model is not one of `famseg.models`, or its arguments are not of this version.
    """
    arguments = dict(metadata["model"])
    target = str(arguments.pop("_target_"))
    module, _, name = target.rpartition(".")
    if not module.startswith("famseg.models"):  # a checkpoint must not be able to call anything else
        raise UserError(f"the checkpoint names the model {target}; only models of famseg.models are built.")
    arguments.pop("weights", None)  # they are in the checkpoint
    try:
        model: nn.Module = getattr(importlib.import_module(module), name)(**arguments)
    except (AttributeError, ImportError, TypeError) as error:
        version = metadata.get("version")
        raise UserError(f"the checkpoint's model {target} cannot be built: {error} (written by {version}).") from error
    return model


def load_predictor(where: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """A trained network ready to predict.

    Args:
        where: a run's folder or a checkpoint file.
        device: where the network runs.
    """
    content = load(where)
    metadata = content[METADATA_KEY]
    model = build(metadata)
    try:
        model.load_state_dict(_weights(content))
    except RuntimeError as error:
        version = metadata.get("version")
        raise UserError(f"{where}: its weights do not fit the model of this version (written by {version}).") from error
    data = metadata["data"]
    height, width = data["size"]
    model.to(device).eval()
    return Predictor(model, dict(data["classes"]), (height, width), float(data["mean"]), float(data["std"]))


def initialise(model: nn.Module, where: str | Path | None) -> None:
    """Start a network from a trained one (fine-tuning, `init_from`), or leave it as it is if there is none.

    Weights are taken over where name and shape agree; the head of a network with other classes starts anew. What was
    not taken over is logged.

    Raises:
        UserError: no such checkpoint, or less than half of the network's tensors fit.
    """
    if where is None:
        return
    own = model.state_dict()
    weights = {k: v for k, v in _weights(load(where)).items() if k in own and own[k].shape == v.shape}
    if 2 * len(weights) < len(own):
        raise UserError(
            f"init_from={where}: fits {len(weights)} of {len(own)} tensors. Use a checkpoint of this model."
        )
    model.load_state_dict(weights, strict=False)
    left = sorted(own.keys() - weights.keys())
    log.info("Weights of %s taken over; %s", where, f"new: {', '.join(left)}" if left else "all fit")


def _weights(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors of a checkpoint's content."""
    prefix = "model."
    return {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
