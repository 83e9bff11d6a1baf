"""ONNX files opened by ONNX Runtime or OpenVINO: a function of images on the CPU, and our metadata ("": none) as JSON.

Both use as many threads as torch does, and raise errors of their own for damaged files.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from famseg.errors import UserError
from famseg.weights import KEY

Run = Callable[[Tensor], Tensor]  # image (B, channels, H, W) -> logits (B, classes, H, W), on the CPU


def onnxruntime(path: Path) -> tuple[Run, str]:
    """The network of an ONNX file, run by ONNX Runtime.

    Raises:
        UserError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: needs the export extra: pip install 'famseg[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(KEY, "")


def openvino(path: Path) -> tuple[Run, str]:
    """The network of an ONNX file, run by OpenVINO, image by image.

    OpenVINO 2026.4.1 miscomputes Mamba's scan, up to NaN, where the batch is free, as it is in our files, and not where
    every size is fixed: so it gets a network for one image of the size that comes.

    Raises:
        UserError: OpenVINO is not installed.
    """
    try:
        import onnx
        import openvino
    except ImportError as error:
        raise UserError(f"{path}: needs the openvino extra: pip install 'famseg[openvino]'.") from error
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    options = threads | {"INFERENCE_PRECISION_HINT": "f32"}  # the masks of the checkpoint, not those of bfloat16
    core = openvino.Core()
    model = core.read_model(str(path))

    @cache
    def compiled(channels: int, height: int, width: int) -> Callable[[Any], Any]:
        model.reshape([1, channels, height, width])
        network: Callable[[Any], Any] = core.compile_model(model, "CPU", options)
        return network

    properties = onnx.load(str(path), load_external_data=False).metadata_props

    def run(image: Tensor) -> Tensor:
        network = compiled(*image.shape[1:])
        return torch.cat([torch.from_numpy(network(one[None].numpy())[0].copy()) for one in image])

    return run, next((item.value for item in properties if item.key == KEY), "")
