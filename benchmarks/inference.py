"""Images per second of prediction: FAMSeg and its peers in one process, on one GPU.

    python benchmarks/inference.py --json inference.json

From a batch of normalised images on the GPU to their class ids there, in bf16 autocast, weights in channels last.
Modes: eager; compiled (torch.compile); graph (one CUDA graph). "folded" has its batch norms in the convolutions
(`famseg.folding`). A number is the median over blocks, with the fastest and slowest block beside it.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from train_step import captured, environment, famseg, measure, peer

from famseg.folding import folded

CASES: dict[str, Callable[[], nn.Module]] = {
    "U-Net ResNet-34": lambda: peer("unet", "resnet34")().eval(),
    "UPerNet ConvNeXt-T": lambda: peer("upernet", "tu-convnext_tiny")().eval(),
    "FAMSeg-T torch": lambda: famseg(kernels="torch")().eval(),
    "FAMSeg-T triton": lambda: famseg(kernels="triton")().eval(),
    "FAMSeg-T triton, folded": lambda: folded(famseg(kernels="triton")().eval()),
}
MODES = ("eager", "graph", "compiled")


@dataclass
class Result:
    """One row of the table; `failed` says why there are no numbers."""

    model: str
    mode: str
    batch: int
    size: tuple[int, int]
    ms: float = 0.0
    ms_fastest: float = 0.0
    ms_slowest: float = 0.0
    images_per_s: float = 0.0
    prepare_s: float = 0.0
    failed: str = ""


def prediction(model: nn.Module, image: Tensor, mode: str) -> Callable[[], object]:
    """A function that predicts the batch once."""
    network = torch.compile(model, dynamic=False) if mode == "compiled" else model

    @torch.no_grad()
    def predict() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return network(image).argmax(1)  # type: ignore[no-any-return]

    return captured(predict) if mode == "graph" else predict


def run_case(name: str, mode: str, batch: int, options: argparse.Namespace) -> Result:
    result = Result(name, mode, batch, tuple(options.size))
    torch.manual_seed(0)
    torch._dynamo.reset()
    started = time.perf_counter()
    try:
        model = CASES[name]().cuda().to(memory_format=torch.channels_last)
        image = torch.randn(batch, 1, *options.size, device="cuda")
        predict = prediction(model, image, mode)
        predict()
        torch.cuda.synchronize()
        result.prepare_s = round(time.perf_counter() - started, 1)
        times = measure(predict, options.blocks, options.seconds)
    except Exception as error:
        traceback.print_exc()
        result.failed = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        return result
    result.ms, result.ms_fastest, result.ms_slowest = statistics.median(times), min(times), max(times)
    result.images_per_s = batch / result.ms * 1e3
    return result


def markdown(results: list[Result]) -> str:
    lines = ["| network | mode | batch | ms | images/s |", "|---|---|---:|---:|---:|"]
    for r in results:
        numbers = r.failed or f"{r.ms:.2f} ({r.ms_fastest:.2f} to {r.ms_slowest:.2f}) | {r.images_per_s:.0f}"
        lines.append(f"| {r.model} | {r.mode} | {r.batch} | {numbers} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 384], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--blocks", type=int, default=7, help="blocks whose median counts (7)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a block (0.3)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/inference.py needs a CUDA device.")
    results = []
    for name in options.models:
        for mode in options.modes:
            for batch in options.batches:
                results.append(run_case(name, mode, batch, options))
                print(markdown(results[-1:]).splitlines()[-1], flush=True)
    about = environment()
    print(f"\n{about}, {options.size[0]}x{options.size[1]}\n\n{markdown(results)}")
    if options.json:
        options.json.write_text(json.dumps({"environment": about, "results": [asdict(r) for r in results]}, indent=2))


if __name__ == "__main__":
    main()
