"""Trained networks for prediction: checkpoints run by torch, ONNX files by ONNX Runtime or OpenVINO on the CPU."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from famseg import runtimes
from famseg.checkpoint import METADATA_KEY, load_predictor
from famseg.errors import UserError
from famseg.inference import Predictor, select_device
from famseg.runtimes import Run

BACKENDS = ("auto", "torch", "onnxruntime", "openvino")


class OnnxNetwork(nn.Module):
    """A network from an ONNX file: it has no parameters and stays on the CPU."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> logits (B, classes, H, W)."""
        return self._run(image)


def load_network(where: str | Path, device: str = "auto", backend: str = "auto") -> Predictor:
    """A trained network ready to predict.

    Args:
        where: a run's folder, a checkpoint, or what `famseg export --format onnx` made of one.
        device: auto, cpu, cuda, cuda:1 ...
        backend: torch for checkpoints, onnxruntime or openvino for ONNX files; auto: torch, and onnxruntime.

    Raises:
        UserError: it cannot be loaded, or not by that backend or on that device.
    """
    onnx = Path(where).suffix.lower() == ".onnx"
    if not onnx:
        if backend not in ("auto", "torch"):
            raise UserError(f"{where}: {backend} runs ONNX files. Make one: famseg export, or leave out --backend.")
        return load_predictor(where, select_device(device))
    if not Path(where).is_file():
        raise UserError(f"{where}: no such file. Make one: famseg export.")
    if backend == "torch":
        raise UserError(f"{where}: torch does not run ONNX files. Give --backend onnxruntime or openvino.")
    if device not in ("auto", "cpu"):
        raise UserError(f"device {device}: ONNX files are run on the CPU. Give the checkpoint instead.")
    run, metadata = _open(Path(where), runtimes.openvino if backend == "openvino" else runtimes.onnxruntime)
    data = metadata["data"]
    height, width = data["size"]
    network = OnnxNetwork(run).eval()
    return Predictor(network, dict(data["classes"]), (height, width), float(data["mean"]), float(data["std"]))


def _open(path: Path, backend: Callable[[Path], tuple[Run, Mapping[str, str]]]) -> tuple[Run, dict[str, Any]]:
    try:
        run, properties = backend(path)
    except ImportError as error:
        extra = "openvino" if backend is runtimes.openvino else "export"
        raise UserError(f"{path}: needs the {extra} extra: pip install 'famseg[{extra}]'.") from error
    except Exception as error:  # each library raises a dozen types for damaged files
        raise UserError(f"{path}: not a readable ONNX file ({type(error).__name__}). Export it again.") from error
    if METADATA_KEY not in properties:
        raise UserError(f"{path}: not written by famseg export; it lacks the metadata to prepare images.")
    return run, json.loads(properties[METADATA_KEY])
