"""ONNX files opened by ONNX Runtime or OpenVINO: each gives a function of images on the CPU, and the file's properties.

Both use as many threads as torch does, and raise ImportError where the library is absent and errors of their own for
damaged files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]  # image (B, channels, H, W) -> logits (B, classes, H, W), on the CPU


def onnxruntime(path: Path) -> tuple[Run, Mapping[str, str]]:
    """The network of an ONNX file, run by ONNX Runtime, and its properties."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


def openvino(path: Path) -> tuple[Run, Mapping[str, str]]:
    """The network of an ONNX file, run by OpenVINO, and its properties."""
    import onnx
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    options = threads | {"INFERENCE_PRECISION_HINT": "f32"}  # the masks of the checkpoint, not those of bfloat16
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    properties = {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(compiled(image.numpy())[0].copy())

    return run, properties
