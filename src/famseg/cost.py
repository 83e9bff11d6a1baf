"""What networks cost: the paper's Eq. (1)-(5), then parameters, multiply-adds and memory of every model.

Networks run on fake tensors, which have shapes and no values: nothing is computed, no memory is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from famseg.checkpoint import build
from famseg.configuration import composed, folder
from famseg.errors import UserError
from famseg.files import write_atomically, write_table

REMARK = """What Eq. (1) and (2) call parameters are multiply-adds: weights do not depend on the map.
Eq. (5) counts two 3x3, whose field is 5x5; three have the field of a 7x7."""
BATCH = 2  # of the training step: one image alone cannot be normalised where a map is 1 x 1


@dataclass(frozen=True)
class Cost:
    """What one network costs for images of one size.

    Attributes:
        parameters: how many numbers training fits.
        macs: multiply-adds of convolutions and matrix products for one image in evaluation. Not counted: norms,
            activations, softmax, interpolation and other work that is linear in the map.
        kept: bytes that a training step in float32 keeps for backward, for one image, without parameters and buffers.
    """

    parameters: int
    macs: int
    kept: int


def equations(kernel: int = 7, size: Sequence[int] = (128, 128), channels: int = 1) -> list[dict[str, str | int]]:
    """The paper's Eq. (1)-(5), and the weights beside them, for depthwise convolutions with stride 1.

    Args:
        kernel: K; the paper's Eq. (3) and (4) set it to 7.
        size: H_o and W_o of the map.
        channels: the equations are for 1; more are as many times the work.

    Raises:
        UserError: an even kernel, or a number below 1.
    """
    height, width = size
    if kernel % 2 == 0 or min(kernel, height, width, channels) < 1:
        raise UserError(
            f"kernel {kernel}, map {height} x {width}, channels {channels}: give numbers from 1, and an odd kernel."
        )
    k, positions = kernel, channels * height * width
    rows: list[tuple[str, str, str, int]] = [
        ("(1)", f"Parameters_conv: {k}x{k}", "K x Ho x Wo x K", k * positions * k),
        ("(2)", f"Parameters_our: 1x{k} and {k}x1", "2 x Ho x Wo x K", 2 * positions * k),
        ("(3)", f"Cost of 1x{k} and {k}x1", "2 x Ho x Wo x K", 2 * positions * k),
        ("(4)", f"Cost of {k}x{k}", "K x Ho x Wo x K", k * positions * k),
        ("(5)", "Cost of two 3x3", "2 x Ho x Wo x 9", 2 * positions * 9),
        ("", f"weights of {k}x{k}", "K x K", k * k * channels),
        ("", f"weights of 1x{k} and {k}x1", "2 x K", 2 * k * channels),
        ("", "weights of two 3x3", "2 x 9", 2 * 9 * channels),
    ]
    return [{"Eq.": number, "what": what, "formula": formula, "value": value} for number, what, formula, value in rows]


def options(names: Sequence[str] | None = None) -> list[str]:
    """Names of options of `conf/model/`: all, or those given if they are there.

    Raises:
        UserError: one is not there.
    """
    known = sorted(path.stem for path in (folder() / "model").glob("*.yaml"))
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"model {unknown[0]}: there is no such option. Choose from {', '.join(known)}.")
    return known if names is None else list(names)


def write_report(
    names: Sequence[str] | None,
    size: Sequence[int],
    convolution: tuple[int, Sequence[int], int],
    csv: Path | None = None,
    text: Path | None = None,
) -> None:
    """Print Eq. (1)-(5) and the costs of models, and write them to files.

    Args:
        names: options of `conf/model/`; None: all.
        size: height and width of the image.
        convolution: kernel, map and channels of `equations`.
        csv: file for the models' numbers.
        text: file for both tables, Markdown.

    Raises:
        UserError: no such option, impossible numbers, or a file that cannot be written.
    """
    kernel, plane, channels = convolution
    names = options(names)
    first = f"Multiply-adds on a map of {plane[0]} x {plane[1]}, {channels} channel{'s' * (channels > 1)}:\n\n"
    first += f"{markdown(equations(kernel, plane, channels))}\n\n{REMARK}\n"
    print(first, flush=True)
    costs = {name: cost(_model(name), size) for name in names}
    second = f"One image of {size[0]} x {size[1]}, float32, the PyTorch code of every layer:\n\n"
    second += f"{markdown([summary(name, found) for name, found in costs.items()])}\n"
    print(second)
    if csv:
        place = {"height": size[0], "width": size[1]}
        write_table(csv, [{"model": name, **asdict(found), **place} for name, found in costs.items()])
    if text:
        with write_atomically(text) as file:
            file.write(f"{first}\n{second}")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown, its columns aligned so that a terminal shows it as well; numbers to the right."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip([*rows[0]], *cells, strict=True)]
    right = [all(isinstance(row[key], int | float) for row in rows) for key in rows[0]]
    rule = [f"{'-' * (w - 1)}:" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    lines = [
        [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)]
        for line in ([*rows[0]], rule, *cells)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(name: str, found: Cost) -> dict[str, str | float]:
    """A row for people: millions of parameters, thousand millions of multiply-adds, MiB."""
    return {
        "model": name,
        "parameters, M": found.parameters / 1e6,
        "MACs, G": found.macs / 1e9,
        "kept for backward, MiB": round(found.kept / 2**20),
    }


def _model(name: str) -> nn.Module:
    config = composed("train", [f"model={name}", "output=none"])
    return build({"model": OmegaConf.to_container(config.model, resolve=True)})


def cost(model: nn.Module, size: Sequence[int], channels: int = 1) -> Cost:
    """Parameters, multiply-adds and training memory of a network on the CPU.

    Args:
        model: image (B, channels, H, W) -> logits; its mode is changed.
        size: height and width of the image.
        channels: of the image.
    """
    parameters = sum(p.numel() for p in model.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        return Cost(parameters, _macs(model, (1, channels, *size)), _kept(model, (BATCH, channels, *size)) // BATCH)


def _macs(model: nn.Module, shape: Sequence[int]) -> int:
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(*shape))
    operations: int = counter.get_total_flops()
    return operations // 2  # a multiply-add is two of them


def _kept(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes of all storages that autograd keeps, each once however many tensors share it."""
    model.train()
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage  # held, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.empty(*shape))
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    total = sum(storage.nbytes() for address, storage in storages.items() if address not in own)
    del logits
    return total
