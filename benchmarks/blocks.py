"""GPU time of FAMSeg's blocks, forward and backward, on the Triton kernels and on plain PyTorch, in one process.

    python benchmarks/blocks.py --json blocks.json
    python benchmarks/blocks.py --sweep                     # cuts of kernels, see sweep.py
    python benchmarks/blocks.py --device cpu                # no times: does every row run, in Triton's interpreter

A time is the median over replays of one CUDA graph that holds the whole module, forward and backward, parameters'
gradients included, in bf16 autocast with batch 16. The floor is the time in which this GPU copies as many bytes as the
block's input, output and their gradients have. Small maps stay in the L2 cache from replay to replay.
"""

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.deploy import Product
from famseg.layers.basic import as_autocast, convolved, normalised, padded_conv, pointwise_conv
from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.hamburger import NMF
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.residual import ConvolutionBlock
from famseg.layers.strip import StripAttention, StripBlock
from famseg.losses import CrossEntropyDice

MODES = ("plain", "plain, channels last", "plain, compiled", "triton")
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Block:
    """`build(channels, backend)` makes the module; `sizes` are (channels, side) of square maps."""

    build: Callable[[int, str], nn.Module]
    sizes: tuple[tuple[int, int], ...]


class MLP(nn.Module):
    """The strip block's MLP alone, without its norm and residual."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.block = strip_block(channels, backend)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return self.block._mlp(x)


class GELUPointwise(nn.Module):
    """The MLP's end: GELU and the 1x1 convolution that narrows the map."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.triton = backend == "triton"
        self.conv = nn.Conv2d(channels, channels // (8 if channels < 640 else 4), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels / 8 or 4, H, W)."""
        if self.triton:
            from famseg.kernels.gelu_pointwise import gelu_pointwise, suits  # not without Triton

            if suits(x, self.conv.weight):  # not the few channels of --device cpu
                return gelu_pointwise(x, as_autocast(self.conv.weight))
        return self.conv(F.gelu(x))


class Depthwise(nn.Module):
    """The strip attention's 5x5 or the MLP's 3x3."""

    def __init__(self, channels: int, backend: str, side: int) -> None:
        super().__init__()
        self.triton = backend == "triton"
        self.local = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        if not self.triton:
            return self.local(x)
        from famseg.kernels.depthwise import depthwise  # not without Triton

        return depthwise(x, self.local.weight.flatten(1).t().contiguous(), self.local.bias, gelu=False)


class StripScans(nn.Module):
    """The strip attention's merged scans alone: 21 taps along the rows and along the columns."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.triton = backend == "triton"
        self.lines = nn.Parameter(torch.randn(42, channels) / 42**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        if self.triton:
            from famseg.kernels.strip import BOTH, strip_scans  # not without Triton

            return strip_scans(x, self.lines, self.bias, BOTH)
        rows, columns = self.lines.t().unflatten(1, (2, 1, 21)).unbind(1)
        y = F.conv2d(x, rows[:, :, None], self.bias, padding=(0, 10), groups=x.shape[1])
        return y + F.conv2d(x, columns[..., None], padding=(10, 0), groups=x.shape[1])


class NormGELU(nn.Module):
    """Batch norm of training and, if asked for, GELU."""

    def __init__(self, channels: int, backend: str, gelu: bool) -> None:
        super().__init__()
        self.norm, self.backend, self.gelu = nn.BatchNorm2d(channels), backend, gelu

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return normalised(x, self.norm, self.backend, self.gelu)


class Convolution(nn.Module):
    """A 3x3 convolution without a bias."""

    def __init__(self, channels: int, out: int, backend: str) -> None:
        super().__init__()
        self.conv, self.backend = nn.Conv2d(channels, out, 3, padding=1, bias=False), backend

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        return convolved(x, self.conv, self.backend)


class FirstOfStem(nn.Module):
    """The convolution of the image, which has no gradient."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.conv, self.backend = nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False), backend

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 16, H / 2, W / 2)."""
        return padded_conv(x.detach(), self.conv) if self.backend == "triton" else self.conv(x.detach())


class Pointwise(nn.Module):
    """A 1x1 convolution."""

    def __init__(self, channels: int, backend: str, ratio: int, bias: bool) -> None:
        super().__init__()
        self.conv, self.backend = nn.Conv2d(channels, ratio * channels, 1, bias=bias), backend

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, ratio channels, H, W)."""
        return pointwise_conv(x, self.conv, self.backend)


class AveragePool(nn.Module):
    """What the side of a ConvolutionBlock begins with."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.block = ConvolutionBlock(channels, channels, backend)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H / 2, W / 2)."""
        return self.block._pooled(x)


class LossOfMap(nn.Module):
    """The loss, against a mask that is always the same."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.loss, self.mask = CrossEntropyDice(backend=backend), torch.empty(0, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes, H, W) -> a scalar."""
        if not len(self.mask):  # in the first pass, which is not timed
            self.mask = torch.randint_like(x[:, 0], x.shape[1], dtype=torch.long)
        return cast(Tensor, self.loss(x, self.mask))


class OnMap(nn.Module):
    """NMF of the positions of a map."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.nmf = NMF(channels, 16, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, H W, channels)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.nmf(F.relu(x.float()).flatten(2).transpose(1, 2))


def strip(scan: str) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: StripAttention(channels, scan=scan, backend=backend)


def strip_block(channels: int, backend: str) -> nn.Module:
    return StripBlock(channels, 8 if channels < 160 else 4, drop_path=0.1, backend=backend)


def depthwise(side: int) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: Depthwise(channels, backend, side)


def norm(gelu: bool) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: NormGELU(channels, backend, gelu)


def same_width(channels: int, backend: str) -> nn.Module:
    return Convolution(channels, channels, backend)


def logits(channels: int, backend: str) -> nn.Module:
    return Convolution(channels, 40, backend)  # of K = 3, with what is filled up


def pointwise(ratio: int, bias: bool = False) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: Pointwise(channels, backend, ratio, bias)


def matrix_product(channels: int, backend: str) -> nn.Module:
    return Product(channels, 8 * channels, 1, bias=False)  # whatever the backend


def fam(channels: int, backend: str) -> nn.Module:
    return FeatureAwareUpsample(channels, channels, compressed=64 if channels > 32 else 32, backend=backend)


def fam_of_9(channels: int, backend: str) -> nn.Module:
    return FeatureAwareUpsample(channels, channels, compressed=16, kernel=3, backend=backend)


def mamba(channels: int, backend: str) -> nn.Module:
    return Mamba2D(channels, backend="chunked" if backend == "torch" else backend)


STAGES = ((32, 128), (64, 64), (160, 32), (256, 16))
WIDENED = ((256, 128), (512, 64), (640, 32), (1024, 16))  # within their MLPs
BLOCKS = {
    "strip attention, independent": Block(strip("independent"), STAGES),
    "strip attention, sequential": Block(strip("sequential"), STAGES[:1]),
    "strip scans": Block(StripScans, STAGES),
    "depthwise 5x5": Block(depthwise(5), STAGES),
    "depthwise 3x3": Block(depthwise(3), WIDENED),
    "GELU, 1x1 convolution to a narrow map": Block(GELUPointwise, WIDENED),
    "MLP of a strip block": Block(MLP, STAGES),
    "strip block": Block(strip_block, STAGES),
    "batch norm + GELU": Block(norm(gelu=True), ((16, 512), (32, 128))),
    "batch norm": Block(norm(gelu=False), ((32, 128),)),
    "3x3 convolution": Block(same_width, ((16, 512), (16, 256), (32, 128), (16, 128))),
    "3x3 to FAM's logits": Block(logits, ((16, 256), (32, 128))),
    "first of the stem": Block(FirstOfStem, ((1, 512),)),
    "1x1 convolution, widened 8 times": Block(pointwise(8), STAGES[:1]),
    "1x1 matrix product, widened 8 times": Block(matrix_product, STAGES[:1]),
    "1x1 convolution": Block(pointwise(1), ((16, 256), (32, 128), (64, 64))),
    "1x1 convolution with bias": Block(pointwise(1, bias=True), ((160, 32), (256, 64), (256, 16))),
    "average pool 2x2": Block(AveragePool, STAGES[:3]),
    "FAM x2, module": Block(fam, STAGES[:3]),
    "FAM x2 of 9 taps, module": Block(fam_of_9, ((16, 256), (16, 128))),
    "loss": Block(LossOfMap, ((3, 512),)),
    "Mamba2D, module": Block(mamba, STAGES),
    "NMF, rank 16": Block(OnMap, ((256, 64), (256, 16))),
}


@dataclasses.dataclass
class Row:
    """One line of the table; `failed` says why there is no time."""

    block: str
    channels: int
    side: int
    mode: str
    ms: float = float("nan")
    floor_ms: float = float("nan")
    failed: str = ""

    def markdown(self) -> str:
        """The row of a table."""
        numbers = self.failed or f"{self.ms:.4f} | {self.floor_ms:.4f}"
        return f"| {self.block} | {self.channels} ch {self.side}x{self.side} | {self.mode} | {numbers} |"


HEAD = "| block | size | mode | ms | floor, ms |\n|---|---|---|---|---|"


def training_pass(row: Row, options: argparse.Namespace) -> tuple[Callable[[], Any], int]:
    """A function that runs the block, and the bytes of input and output, and backward of their gradients."""
    torch.manual_seed(0)
    device, dtype = options.device, getattr(torch, options.dtype)
    module = BLOCKS[row.block].build(row.channels, "triton" if row.mode == "triton" else "torch").to(device)
    x = torch.randn(options.batch, row.channels, row.side, row.side, device=device).to(dtype).requires_grad_()
    if row.mode != "plain":
        module = module.to(memory_format=torch.channels_last)
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    function = torch.compile(module, dynamic=False) if "compiled" in row.mode else module
    inputs = [x, *(p for p in module.parameters() if p.requires_grad)]

    def forward() -> Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return function(x)

    if options.forward:
        return torch.no_grad()(forward), 2 * x.nbytes
    y = forward()
    upstream = torch.randn_like(y)
    return lambda: torch.autograd.grad(forward(), inputs, upstream, allow_unused=True), 2 * (x.nbytes + y.nbytes)


def graph_ms(function: Callable[[], Any], milliseconds: int) -> float:
    """Median of the function's GPU time, replayed for about so long."""
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(function, rep=milliseconds, return_mode="median")


def copy_bytes_per_ms() -> float:
    """Bytes read and written by a large copy on this device."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / graph_ms(lambda: target.copy_(source), 100)


def run_row(row: Row, options: argparse.Namespace, speed: float) -> Row:
    torch._dynamo.reset()
    try:
        function, size = training_pass(row, options)
        row.floor_ms = size / speed
        if options.device == "cpu":
            function()
        else:
            function()
            row.ms = graph_ms(function, options.milliseconds)
    except Exception as error:
        row.failed = f"{type(error).__name__}: {error}".splitlines()[0][:120] + " |"
    return row


def measure_blocks(options: argparse.Namespace) -> list[Row]:
    speed = copy_bytes_per_ms() if options.device == "cuda" else float("nan")
    rows = []
    for name in options.blocks:
        for channels, side in BLOCKS[name].sizes:
            if options.device == "cpu":
                channels, side = 32, 3
            for mode in options.modes:
                rows.append(run_row(Row(name, channels, side, mode), options, speed))
                print(rows[-1].markdown(), flush=True)
            if options.device == "cuda":
                torch.cuda.empty_cache()
            else:
                break
    return rows


def environment(options: argparse.Namespace) -> dict[str, Any]:
    import triton

    from famseg.run import revision

    return {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "revision": revision(),
        "batch": options.batch,
        "dtype": options.dtype,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", default=list(BLOCKS), choices=list(BLOCKS), metavar="BLOCK")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, metavar="MODE", help=str(MODES))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--milliseconds", type=int, default=50, help="of replays for one time (50)")
    parser.add_argument("--forward", action="store_true", help="time forward alone")
    parser.add_argument("--sweep", action="store_true", help="time the cuts of kernels instead, see sweep.py")
    parser.add_argument("--knobs", nargs="+", metavar="KNOB", help="only these of the sweep")
    parser.add_argument("--cuts", type=int, default=24, help="of a knob, at the most (24)")
    parser.add_argument("--seconds", type=float, default=90, help="for the sweep, compiling included (90)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that compile for the sweep")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.sweep and options.device == "cpu":
        raise SystemExit("benchmarks/blocks.py --sweep takes times, which needs a CUDA device.")
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, below
        options.batch, options.modes = 1, [mode for mode in options.modes if "compiled" not in mode]
    elif not torch.cuda.is_available():
        raise SystemExit("benchmarks/blocks.py needs a CUDA device; --device cpu only tries the rows.")
    about = environment(options)
    print(f"{about}\n\n{'' if options.sweep else HEAD}", flush=True)

    def save(results: list[dict[str, Any]]) -> None:
        if options.json:
            options.json.write_text(json.dumps({"environment": about, "results": results}, indent=2) + "\n")

    if options.sweep:
        from sweep import sweep  # not without Triton

        sweep(options, graph_ms, save)
    else:
        save([dataclasses.asdict(row) for row in measure_blocks(options)])


if __name__ == "__main__":
    main()
