"""Trained networks for prediction: checkpoints run by torch, ONNX files by ONNX Runtime or OpenVINO on the CPU."""

from pathlib import Path

from torch import Tensor, nn

from famseg.checkpoint import load_predictor
from famseg.errors import UserError
from famseg.export import runtimes
from famseg.export.formats import opened
from famseg.export.runtimes import Run
from famseg.inference import Predictor, select_device


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
    reader = runtimes.openvino if backend == "openvino" else runtimes.onnxruntime
    run, metadata = opened(Path(where), "ONNX", reader)
    return Predictor.of(OnnxNetwork(run).eval(), metadata["data"])
