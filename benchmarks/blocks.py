"""GPU time of FAMSeg's blocks, forward and backward, on the Triton kernels and on plain PyTorch, in one process.

    python benchmarks/blocks.py --json blocks.json
    python benchmarks/blocks.py --sweep                     # the best cut of every depthwise kernel
    python benchmarks/blocks.py --device cpu                # no times: does every row run, in Triton's interpreter

A time is the median over replays of one CUDA graph that holds the whole module, forward and backward, parameters'
gradients included, in bf16 autocast with batch 16. The floor is the time in which this GPU copies as many bytes as the
block's input, output and their gradients have. Small maps stay in the L2 cache from replay to replay.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.deploy import Product
from famseg.layers.basic import normalised, pointwise_conv
from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.hamburger import NMF
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.strip import StripAttention, StripBlock

MODES = ("plain", "plain, channels last", "plain, compiled", "triton")
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Block:
    """`build(channels, backend)` makes the module; `sizes` are (channels, side) of square maps."""

    build: Callable[[int, str], nn.Module]
    sizes: tuple[tuple[int, int], ...]


class DepthwiseGELU(nn.Module):
    """What the strip block's MLP does between its two 1x1 convolutions."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return StripBlock._depthwise_gelu(self, x)


class NormGELU(nn.Module):
    """Batch norm of training and, if asked for, GELU."""

    def __init__(self, channels: int, backend: str, gelu: bool) -> None:
        super().__init__()
        self.norm, self.backend, self.gelu = nn.BatchNorm2d(channels), backend, gelu

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return normalised(x, self.norm, self.backend, self.gelu)


class Pointwise(nn.Module):
    """A 1x1 convolution without bias."""

    def __init__(self, channels: int, backend: str, ratio: int) -> None:
        super().__init__()
        self.conv, self.backend = nn.Conv2d(channels, ratio * channels, 1, bias=False), backend

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, ratio channels, H, W)."""
        return pointwise_conv(x, self.conv, self.backend)


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


def norm(gelu: bool) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: NormGELU(channels, backend, gelu)


def pointwise(ratio: int) -> Callable[[int, str], nn.Module]:
    return lambda channels, backend: Pointwise(channels, backend, ratio)


def matrix_product(channels: int, backend: str) -> nn.Module:
    return Product(channels, 8 * channels, 1, bias=False)  # whatever the backend


def fam(channels: int, backend: str) -> nn.Module:
    return FeatureAwareUpsample(channels, channels, compressed=64 if channels > 32 else 32, backend=backend)


def mamba(channels: int, backend: str) -> nn.Module:
    return Mamba2D(channels, backend="chunked" if backend == "torch" else backend)


STAGES = ((32, 128), (64, 64), (160, 32), (256, 16))
BLOCKS = {
    "strip attention, independent": Block(strip("independent"), STAGES),
    "strip attention, sequential": Block(strip("sequential"), STAGES[:1]),
    "depthwise 3x3 + bias + GELU": Block(DepthwiseGELU, ((256, 128), (512, 64), (640, 32), (1024, 16))),
    "strip block": Block(strip_block, STAGES),
    "batch norm + GELU": Block(norm(gelu=True), ((16, 512), (32, 128))),
    "batch norm": Block(norm(gelu=False), ((32, 128),)),
    "1x1 convolution, widened 8 times": Block(pointwise(8), STAGES[:1]),
    "1x1 matrix product, widened 8 times": Block(matrix_product, STAGES[:1]),
    "1x1 convolution": Block(pointwise(1), ((16, 256), (32, 128), (64, 64))),
    "FAM x2, module": Block(fam, STAGES[:3]),
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
    """A function that runs the block forward and backward, and the bytes of input, output and their gradients."""
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

    y = forward()
    upstream = torch.randn_like(y)
    return lambda: torch.autograd.grad(forward(), inputs, upstream), 2 * (x.nbytes + y.nbytes)


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


# The sweep: a knob is a kernel's cut, where it is kept, and a call that runs this kernel alone.
@dataclasses.dataclass(frozen=True)
class Knob:
    """`keep(tile)` puts a cut in place; `call(x)` is the function to time; patches are (height, width) to try.

    `registers`: limits of a thread's registers to try.
    """

    keep: Callable[[Any], None]
    call: Callable[[Tensor], Callable[[], Any]]
    patches: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    registers: tuple[int | None, ...] = (None,)


def knobs() -> dict[str, Knob]:
    from famseg.kernels import depthwise, strip, tap_gradients

    def taps(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, x.shape[1], device=x.device), torch.randn(x.shape[1], device=x.device)

    def filter_of(side: int, then: str) -> Callable[[Tensor], Callable[[], Any]]:
        def call(x: Tensor) -> Callable[[], Any]:
            weight, bias = taps(x, side * side)
            return lambda: depthwise._filter(x, weight, bias, bias if then else None, x, then=then)

        return call

    def gradients(x: Tensor) -> Callable[[], Any]:
        weight, bias = taps(x, 9)
        return lambda: depthwise._gradients(x, x, weight, bias)

    def strips(x: Tensor) -> Callable[[], Any]:
        lines, bias = taps(x, 42)
        return lambda: strip._scan(x, lines, bias, strip.BOTH, False)

    def attribute(module: Any, name: str) -> Callable[[Any], None]:
        return lambda tile: setattr(module, name, tile)

    attention, mlp = STAGES, BLOCKS["depthwise 3x3 + bias + GELU"].sizes
    areas, lines = ((2, 2), (1, 4), (1, 2)), ((1, 2), (1, 4), (1, 8))
    limits = (None, 128, 168)  # with these, 4 and 3 programs of 4 warps share a processor
    threes, fives = (lambda side: lambda tile: depthwise.FILTERS.update({side: tile}) for _ in range(2))
    return {
        "FILTERS[5]": Knob(fives(5), filter_of(5, ""), areas, attention),
        "FILTERS[3], GELU": Knob(threes(3), filter_of(3, "gelu"), areas, mlp, limits),
        "SLOPE": Knob(attribute(depthwise, "SLOPE"), filter_of(3, "slope"), areas, mlp, limits),
        "GRADIENTS": Knob(attribute(depthwise, "GRADIENTS"), gradients, areas, mlp, limits),
        "strip.STRIPS": Knob(attribute(strip, "STRIPS"), strips, ((2, 2),), attention),
        "tap_gradients.SQUARES": Knob(
            attribute(tap_gradients, "SQUARES"),
            lambda x: lambda: tap_gradients.tap_gradients(x, x, side=5),
            lines,
            attention,
        ),
        "tap_gradients.STRIPS": Knob(
            attribute(tap_gradients, "STRIPS"),
            lambda x: lambda: tap_gradients.tap_gradients(x, x, strip=21),
            lines,
            attention,
        ),
    }


def candidates(knob: Knob) -> list[Any]:
    """Cuts with 8 to 64 elements a thread."""
    from famseg.kernels.tiles import Tile

    groups = ((2, 4), (2, 8), (4, 4), (4, 8), (8, 4), (8, 8), (1, 32))
    cuts = itertools.product((32, 64), groups, knob.patches, (2, 4, 8), knob.registers)
    tiles = [Tile(block_c, *group, *patch, warps, limit) for block_c, group, patch, warps, limit in cuts]
    return [t for t in tiles if 8 <= t.height * t.width * t.block_c / (32 * t.warps) <= 64]


def map_of(channels: int, side: int, batch: int, dtype: str) -> Tensor:
    x = torch.randn(batch, channels, side, side, device="cuda").to(getattr(torch, dtype))
    return x.contiguous(memory_format=torch.channels_last)


def compile_one(name: str, tile: Any, dtype: str) -> None:
    """Put the kernel of this cut into Triton's cache on disk, for the process that measures."""
    knob = knobs()[name]
    knob.keep(tile)
    knob.call(map_of(64, 4, 1, dtype))()
    torch.cuda.synchronize()


def sweep(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every cut of every knob at every size; prints the best ones."""
    chosen = {name: knob for name, knob in knobs().items() if not options.knobs or name in options.knobs}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(compile_one, n, t, options.dtype) for n, k in chosen.items() for t in candidates(k)]
        failed = sum(job.exception() is not None for job in jobs)
    print(f"{len(jobs)} kernels compiled, {failed} failed", flush=True)
    found = []
    for name, knob in chosen.items():
        for channels, side in knob.sizes:
            x, times = map_of(channels, side, options.batch, options.dtype), []
            for tile in candidates(knob):
                knob.keep(tile)
                try:
                    times.append((graph_ms(knob.call(x), options.milliseconds), tile))
                except Exception as error:
                    print(f"{name} {tile}: {type(error).__name__}")
            times.sort(key=lambda pair: pair[0])
            found += [{"knob": name, "channels": channels, "side": side, "ms": t, **vars(c)} for t, c in times]
            best = "; ".join(f"{t:.4f} {tuple(vars(c).values())}" for t, c in times[:4])
            print(f"{name} {channels} ch {side}x{side}: {best}; slowest {times[-1][0]:.4f}", flush=True)
        print_best_overall(name, [f for f in found if f["knob"] == name])
    return found


def print_best_overall(name: str, found: list[dict[str, Any]]) -> None:
    """The one cut whose times, each over the best of its size, have the smallest sum."""
    best = {(f["channels"], f["side"]): float("inf") for f in found}
    for f in found:
        best[f["channels"], f["side"]] = min(best[f["channels"], f["side"]], f["ms"])
    sums: dict[tuple[int, ...], float] = {}
    for f in found:
        cut = tuple(v for k, v in f.items() if k not in ("knob", "channels", "side", "ms"))
        sums[cut] = sums.get(cut, 0.0) + f["ms"] / best[f["channels"], f["side"]] / len(best)
    cut, excess = min(sums.items(), key=lambda pair: pair[1])
    print(f"{name}: one for all sizes Tile{cut}, {100 * (excess - 1):.0f} % above the best of each", flush=True)


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
    parser.add_argument("--sweep", action="store_true", help="time the cuts of the depthwise kernels instead")
    parser.add_argument("--knobs", nargs="+", help="only these of the sweep")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that compile for the sweep")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, below
        options.batch, options.modes = 1, [mode for mode in options.modes if "compiled" not in mode]
    elif not torch.cuda.is_available():
        raise SystemExit("benchmarks/blocks.py needs a CUDA device; --device cpu only tries the rows.")
    about = environment(options)
    print(f"{about}\n\n{'' if options.sweep else HEAD}", flush=True)
    results = sweep(options) if options.sweep else [dataclasses.asdict(row) for row in measure_blocks(options)]
    if options.json:
        options.json.write_text(json.dumps({"environment": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
