"""Networks as files: ONNX, TorchScript and PT2 (torch.export), which need none of FAMSeg's code, and bare weights.

Each holds the checkpoint's plain metadata as JSON under the key `famseg`: `metadata_props` of ONNX, the header of
safetensors, an extra file of the others. The network takes normalised images: float32 (B, channels, H, W) `image` ->
`logits` (B, classes, H, W).
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from famseg import weights
from famseg.checkpoint import METADATA_KEY, load, trained
from famseg.errors import UserError
from famseg.export import runtimes
from famseg.export.runtimes import Run

# While sizes are symbolic, the example decides what is taken for granted. These are no multiples of 32: padding is not
# optimised away; and the deepest map has several chunks of the scan: a recurrence over one chunk is none.
EXAMPLE = (250, 370)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: its name for people.
        write: (network in evaluation, images as an example, any size, metadata as JSON, path) -> None.
        read: path -> the network, and the metadata as JSON.
        runner: what runs it, with its version.
        symbolic: whether a free size is captured in symbols, which takes minutes.
        tolerance: of logits, times their size where that is above 1.
    """

    title: str
    write: Callable[[nn.Module, Tensor, bool, str, Path], None]
    read: Callable[[Path], tuple[Run, str]]
    runner: Callable[[], str]
    symbolic: bool = True
    tolerance: float = 1e-4


def write(model: nn.Module, kind: str, path: Path, metadata: Mapping[str, Any], size: tuple[int, int] | None) -> None:
    """Write a network as a file of that kind.

    Args:
        model: image (B, channels, H, W) -> logits, on the CPU, in evaluation.
        kind: a key of `FORMATS`.
        path: file to write.
        metadata: plain values to go with it.
        size: height and width that the file will take; None: any from 33 px. The batch is always free.
    """
    channels = int(metadata["model"].get("in_channels", 1))
    example = torch.zeros(2, channels, *(size or EXAMPLE))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing and of deprecations within torch
        FORMATS[kind].write(model, example, size is None, json.dumps(metadata), path)


def read(path: Path, kind: str) -> tuple[Run, dict[str, Any]]:
    """A network from a file: a function of images on the CPU, and its metadata.

    Raises:
        UserError: the file is damaged, FAMSeg did not write it, or a library is missing.
    """
    return opened(path, FORMATS[kind].title, FORMATS[kind].read)


def opened(path: Path, title: str, reader: Callable[[Path], tuple[Run, str]]) -> tuple[Run, dict[str, Any]]:
    """As `read`, by any reader; `title` of the format goes into an error."""
    try:
        run, text = reader(path)
    except UserError:
        raise
    except Exception as error:  # each library raises a dozen types for damaged files
        raise UserError(f"{path}: not a readable {title} file ({type(error).__name__}). Export it again.") from error
    if not text:
        raise UserError(f"{path}: was not written by `famseg export`; it lacks the metadata to prepare images.")
    return run, json.loads(text)


def _program(model: nn.Module, example: Tensor, any_size: bool) -> torch.export.ExportedProgram:
    free = (0, 2, 3) if any_size else (0,)
    shapes = {"image": dict.fromkeys(free, torch.export.Dim.DYNAMIC)}
    return torch.export.export(model, (example,), dynamic_shapes=shapes)


def _write_onnx(model: nn.Module, example: Tensor, any_size: bool, metadata: str, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401  torch's exporter is built on it
    except ImportError as error:
        raise UserError("--format onnx needs the export extra: pip install 'famseg[export]'.") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        _program(model, example, any_size), dynamo=True, verbose=False, output_names=["logits"], external_data=False
    )
    assert program is not None
    program.model.metadata_props[METADATA_KEY] = metadata
    program.save(path)


def _write_torchscript(model: nn.Module, example: Tensor, any_size: bool, metadata: str, path: Path) -> None:
    traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path, _extra_files={METADATA_KEY: metadata})


def _read_torchscript(path: Path) -> tuple[Run, str]:
    extra = {METADATA_KEY: b""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run: Run = torch.jit.load(path, map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    return run, extra[METADATA_KEY].decode()


def _write_pt2(model: nn.Module, example: Tensor, any_size: bool, metadata: str, path: Path) -> None:
    torch.export.save(_program(model, example, any_size), path, extra_files={METADATA_KEY: metadata})


def _read_pt2(path: Path) -> tuple[Run, str]:
    extra = {METADATA_KEY: ""}
    program = torch.export.load(path, extra_files=extra)
    # Its guards were made for the example and refuse sizes that work.
    return program.module(check_guards=False), extra[METADATA_KEY]


def _write_weights(model: nn.Module, example: Tensor, any_size: bool, metadata: str, path: Path) -> None:
    weights.write(path, model.state_dict(), metadata)


def _read_weights(path: Path) -> tuple[Run, str]:
    content = load(path)
    return trained(content, path), json.dumps(content[METADATA_KEY])


def _onnxruntime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def _torch() -> str:
    return f"torch {torch.__version__}"


FORMATS = {
    "onnx": Format("ONNX", _write_onnx, runtimes.onnxruntime, _onnxruntime),
    "torchscript": Format("TorchScript", _write_torchscript, _read_torchscript, _torch, symbolic=False),
    "pt2": Format("PT2", _write_pt2, _read_pt2, _torch),
    # Half precision rounds weights by up to 1/2048 of their size; what that does to logits is measured and printed.
    "safetensors": Format("safetensors in half precision", _write_weights, _read_weights, _torch, False, 0.05),
}
