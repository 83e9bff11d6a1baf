"""Checkpoints that explain themselves: from a folder, a file or a shipped name to a network ready for use."""

import importlib
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from famseg import weights
from famseg.errors import UserError
from famseg.inference import Predictor

log = logging.getLogger(__name__)

METADATA_KEY = weights.KEY
TRUSTED = "FAMSEG_MODELS"  # names modules, with commas between them, whose networks a checkpoint may name
_PREFIX = "model."  # of the network's tensors in a checkpoint of the task


def resolve(where: str | Path) -> Path:
    """The file that is meant: a file itself, `checkpoints/best.ckpt` of a run's folder, or a network of the package.

    Args:
        where: a run's folder, a checkpoint, a `.safetensors` file of `famseg export`, or a shipped network's name.

    Raises:
        UserError: there is none.
    """
    path = Path(where)
    if path.is_file():
        return path
    best, last = (path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    if best.is_file():
        return best
    if last.is_file():
        log.warning("%s: holds no checkpoints/best.ckpt; last.ckpt is used, its last epoch.", path)
        return last
    if path.is_dir():
        raise UserError(f"{path}: holds no checkpoints/best.ckpt. Give the folder of a run that has trained.")
    shipped = weights.shipped()
    if str(where) in shipped:
        return shipped[str(where)]
    known = f", or the name of a shipped network: {', '.join(shipped)}" if shipped else ""
    raise UserError(f"{path}: no such file or folder. Give a run's folder or a checkpoint{known}.")


def load(where: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, plain values and tensors on the CPU, with its metadata checked.

    Raises:
        UserError: no such checkpoint, an unreadable file, or one that FAMSeg did not write.
    """
    path = resolve(where)
    content = _read_weights(path) if path.suffix == weights.SUFFIX else _read_checkpoint(path)
    metadata = content.get(METADATA_KEY) if isinstance(content, dict) else None
    if not isinstance(metadata, dict) or not {"model", "data"} <= metadata.keys():
        raise UserError(f"{path}: not a checkpoint of FAMSeg's train.py; it lacks the metadata to rebuild the model.")
    return dict(content)


def _read_weights(path: Path) -> dict[str, Any]:
    state, metadata = weights.read(path)
    return {METADATA_KEY: metadata, "state_dict": {f"{_PREFIX}{name}": value for name, value in state.items()}}


def _read_checkpoint(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of TorchScript, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for damaged files
        mend = "Give a run's folder, a checkpoint or a .safetensors file."
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}). {mend}") from error


def build(metadata: Mapping[str, Any]) -> nn.Module:
    """The untrained network that a checkpoint's metadata describes.

    Raises:
        UserError: the model is not one of `famseg.models`, nor of a module that the environment variable FAMSEG_MODELS
            names, or its arguments are not of this version.
    """
    arguments = dict(metadata["model"])
    target = str(arguments.pop("_target_"))
    module, _, name = target.rpartition(".")
    if not _trusted(module):  # a checkpoint must not be able to call anything else
        raise UserError(
            f"the checkpoint names the model {target}; only models of famseg.models are built. "
            f"If it is code of your own, set the environment variable {TRUSTED}={module}."
        )
    arguments.pop("weights", None)  # they are in the checkpoint
    try:
        model: nn.Module = getattr(importlib.import_module(module), name)(**arguments)
    except (AttributeError, ImportError, TypeError) as error:
        version = metadata.get("version")
        raise UserError(f"the checkpoint's model {target} cannot be built: {error} (written by {version}).") from error
    return model


def _trusted(module: str) -> bool:
    trusted = ["famseg.models", *os.environ.get(TRUSTED, "").split(",")]
    return any(f"{module}.".startswith(f"{name.strip()}.") for name in trusted if name.strip())


def load_predictor(where: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """A trained network ready to predict.

    Args:
        where: a run's folder, a checkpoint, a file of weights, or a shipped network's name.
        device: where the network runs.
    """
    content = load(where)
    return Predictor.of(trained(content, where).to(device), content[METADATA_KEY]["data"])


def load_network(where: str | Path) -> nn.Module:
    """A trained network on the CPU, in evaluation mode; images must be prepared as it needs them.

    Args:
        where: as for `load_predictor`, which prepares them.
    """
    return trained(load(where), where)


def trained(content: Mapping[str, Any], where: str | Path) -> nn.Module:
    """The network of a checkpoint's content, on the CPU, in evaluation mode; `where` it was goes into an error.

    Raises:
        UserError: the content is of another version.
    """
    metadata = content[METADATA_KEY]
    model = build(metadata)
    try:
        model.load_state_dict(_weights(content))
    except RuntimeError as error:
        version = metadata.get("version")
        raise UserError(f"{where}: its weights do not fit the model of this version (written by {version}).") from error
    return model.eval()


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
    fitting = {k: v for k, v in _weights(load(where)).items() if k in own and own[k].shape == v.shape}
    if 2 * len(fitting) < len(own):
        raise UserError(
            f"init_from={where}: fits {len(fitting)} of {len(own)} tensors. Use a checkpoint of this model."
        )
    model.load_state_dict(fitting, strict=False)
    left = sorted(own.keys() - fitting.keys())
    log.info("Weights of %s taken over; %s", where, f"new: {', '.join(left)}" if left else "all fit")


def _weights(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors of a checkpoint's content."""
    return {k.removeprefix(_PREFIX): v for k, v in content["state_dict"].items() if k.startswith(_PREFIX)}
