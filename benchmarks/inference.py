"""Images per second of prediction: FAMSeg and its peers in one process, on one GPU.

    python benchmarks/inference.py --json inference.json
    python benchmarks/inference.py --device cpu --size 64 96 --seconds 0    # without a GPU: does every row run?

From a batch of normalised images on the device to their class ids there; on a GPU in bf16 autocast, weights in channels
last. Modes: eager; graph (one CUDA graph); deployed (`famseg.deploy`: batch norms folded, work on weights
done once, one CUDA graph); compiled (torch.compile). A number is the median over blocks, with the fastest and slowest
block beside it. The JSON file is written after each row.
"""

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from train_step import captured, environment, famseg, measure, peer, take_times, why, write_json

from famseg.deploy import deployed

CASES: dict[str, Callable[[], nn.Module]] = {
    "U-Net ResNet-34": peer("unet", "resnet34"),
    "UPerNet ConvNeXt-T": peer("upernet", "tu-convnext_tiny"),
    "FAMSeg-T torch": famseg(kernels="torch"),
    "FAMSeg-T triton": famseg(kernels="triton"),
}
MODES = ("eager", "graph", "deployed", "compiled")


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
    device = image.device.type
    network: Callable[[Tensor], Tensor] = model
    if mode == "compiled":
        network = torch.compile(model, dynamic=False)
    elif mode == "deployed":
        network = deployed(model)

    @torch.no_grad()
    def predict() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            return network(image).argmax(1)

    if mode == "deployed":
        predict()  # it captures the second time
    return captured(predict) if mode == "graph" else predict


def run_case(name: str, mode: str, batch: int, options: argparse.Namespace) -> Result:
    result = Result(name, mode, batch, tuple(options.size))
    torch.manual_seed(0)
    torch._dynamo.reset()
    started = time.perf_counter()
    try:
        model = CASES[name]().eval().to(options.device)
        if options.device == "cuda":
            model = model.to(memory_format=torch.channels_last)
        image = torch.randn(batch, 1, *options.size, device=options.device)
        predict = prediction(model, image, mode)
        predict()
        if options.device == "cuda":
            torch.cuda.synchronize()
        result.prepare_s = round(time.perf_counter() - started, 1)
        times = measure(predict, options.blocks, options.seconds)
    except Exception as error:
        result.failed = why(error)
        return result
    take_times(result, times)
    return result


def row(r: Result) -> str:
    spread = f"{r.ms:.2f} ({r.ms_fastest:.2f} to {r.ms_slowest:.2f})"
    numbers = r.failed or f"{spread} | {r.images_per_s:.0f} | {r.prepare_s:.0f}"
    return f"| {r.model} | {r.mode} | {r.batch} | {numbers} |"


HEAD = "| network | mode | batch | ms | images/s | preparing, s |\n|---|---|---:|---:|---:|---:|"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 384], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--blocks", type=int, default=7, help="blocks whose median counts (7)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a block (0.3)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.device == "cpu":  # neither graphs nor the kernels run there
        options.modes = [mode for mode in options.modes if mode != "graph"]
        options.models = [name for name in options.models if name != "FAMSeg-T triton"]
    return options


def main() -> None:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks/inference.py needs a CUDA device; --device cpu only shows that it runs.")
    logging.basicConfig()
    logging.getLogger("famseg.deploy").setLevel(logging.INFO)  # says where a capture failed
    about = environment()
    results: list[Result] = []
    print(f"{about}, {options.size[0]}x{options.size[1]}\n\n{HEAD}", flush=True)
    for mode in options.modes:  # compiling, which takes longest, comes last
        for name in options.models:
            for batch in options.batches:
                results.append(run_case(name, mode, batch, options))
                print(row(results[-1]), flush=True)
                write_json(options.json, about, results)


if __name__ == "__main__":
    main()
