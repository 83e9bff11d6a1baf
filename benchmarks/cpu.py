"""Prediction on the CPU: FAMSeg and its peers by PyTorch, ONNX Runtime and OpenVINO, in one run.

    pip install 'famseg[export,openvino]'
    python benchmarks/cpu.py --threads 2 --json cpu.json

One image of 256 x 384 at a time, float32. The cases take turns, round by round, so that a disturbance meets all of
them; a number is the median over the rounds, with the fastest and slowest round beside it, and the processor time of
one image. The last table is the whole command `famseg predict` on one image: from start to end, with its peak memory.
With --document, the tables replace what stands in that file between <!-- benchmarks/cpu.py --> and <!-- end -->.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from documents import in_words, insert, markdown, processor, provenance
from torch import Tensor, nn

from famseg.backends import load_network
from famseg.data.phantom import Phantom
from famseg.models import SIZES, FAMSeg
from famseg.processes import cores

DATA = {"classes": {"BG": 0, "FB": 2}, "resize": "letterbox", "mean": 0.2, "std": 0.2}


def famseg(size: str) -> Callable[[], nn.Module]:
    return lambda: FAMSeg(num_classes=2, **SIZES[size])


def peer(architecture: str, encoder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return smp.create_model(architecture, encoder, encoder_weights=None, in_channels=1, classes=2)

    return build


MODELS = {
    "FAMSeg-T": famseg("T"),
    "FAMSeg-N": famseg("N"),
    "U-Net ResNet-34": peer("unet", "resnet34"),
    "FPN MobileNetV3-L": peer("fpn", "tu-mobilenetv3_large_100"),
}
Run = Callable[[Tensor], Tensor]


def export(model: nn.Module, image: Tensor, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            torch.export.export(model, (image,)), dynamo=True, verbose=False, external_data=False
        )
    assert program is not None
    program.model.metadata_props["famseg"] = json.dumps({"data": DATA | {"size": list(image.shape[2:])}})
    program.save(path)


def cases(name: str, image: Tensor, runtimes: list[str], folder: Path) -> dict[tuple[str, str], Run]:
    """Runtime -> the network, each checked against PyTorch's logits."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    made: dict[tuple[str, str], Run] = {(name, "PyTorch"): model}
    with torch.inference_mode():
        expected = model(image)
    if not set(runtimes) - {"torch"}:
        return made
    path = folder / f"{name}.onnx"
    export(model, image, path)
    for runtime, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        if runtime in runtimes:
            network = load_network(path, backend=runtime).model
            torch.testing.assert_close(network(image), expected, atol=1e-3, rtol=1e-3)
            made[name, title] = network
    return made


def measure(runs: dict[tuple[str, str], Run], image: Tensor, rounds: int) -> list[dict[str, Any]]:
    wall: dict[tuple[str, str], list[float]] = {case: [] for case in runs}
    busy: dict[tuple[str, str], list[float]] = {case: [] for case in runs}
    with torch.inference_mode():
        for number in range(rounds + 2):
            for case, run in runs.items():
                start, start_busy = time.perf_counter(), time.process_time()
                run(image)
                if number >= 2:
                    wall[case].append(1e3 * (time.perf_counter() - start))
                    busy[case].append(1e3 * (time.process_time() - start_busy))
    return [
        {
            "model": case[0],
            "runtime": case[1],
            "ms": round(statistics.median(wall[case]), 1),
            "fastest": round(min(wall[case]), 1),
            "slowest": round(max(wall[case]), 1),
            "processor ms": round(statistics.median(busy[case]), 1),
        }
        for case in runs
    ]


def whole_command(folder: Path, threads: int, repeats: int) -> list[dict[str, Any]]:
    """`famseg predict` of one image by FAMSeg-T: a checkpoint, and what was exported from it."""
    sample = Phantom(1, (540, 800), planes={"head": 1.0})[0]
    cv2.imwrite(str(folder / "image.png"), sample.image)
    torch.manual_seed(0)
    model = {"_target_": "famseg.models.FAMSeg", "num_classes": 2}
    state = {f"model.{key}": value for key, value in MODELS["FAMSeg-T"]().state_dict().items()}
    about = {"format": 1, "version": "benchmark", "model": model, "data": DATA | {"size": [256, 384]}}
    torch.save({"famseg": about, "state_dict": state}, folder / "FAMSeg-T.ckpt")
    rows = []
    for backend in ("torch", "onnxruntime", "openvino"):
        file = folder / ("FAMSeg-T.ckpt" if backend == "torch" else "FAMSeg-T.onnx")
        if file.exists():
            arguments = ["predict", folder / "image.png", "--checkpoint", file, "--out", folder / "out", "--overwrite"]
            rows.append({"backend": backend} | timed([*arguments, "--backend", backend], threads, repeats))
    return rows


# A process inherits the peak memory of the one that started it: a small one stands in between.
TIMER = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
"""


def timed(arguments: list[Any], threads: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-c", TIMER, sys.executable, "-m", "famseg.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    runs = [subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE) for _ in range(repeats)]
    wall, busy, peak = zip(*([float(word) for word in run.stdout.split()] for run in runs), strict=True)
    return {
        "whole process, s": round(statistics.median(wall), 2),
        "processor s": round(statistics.median(busy), 2),
        "peak GiB": round(max(peak), 2),
    }


def environment(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": options.threads,
        "size": list(options.size),
        "own peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    } | provenance(("torch", "onnxruntime", "openvino", "segmentation-models-pytorch"))


def titled(content: dict[str, Any]) -> str:
    about = content["environment"]
    height, width = about["size"]
    machine = f"{about['processor']}, {about['threads']} threads"
    first = f"{machine}; one image of {height}x{width}, float32; {in_words(about)}"
    parts = [first, markdown(content["networks"]), "`famseg predict` of one image:", markdown(content["command"])]
    return "\n\n".join(parts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 384], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=20, help="rounds whose median counts (20)")
    parser.add_argument("--repeats", type=int, default=5, help="of the whole command (5)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--document", type=Path, metavar="FILE", help="Markdown file whose table to replace")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    image = torch.randn(1, 1, *options.size)
    with tempfile.TemporaryDirectory() as name:
        runs: dict[tuple[str, str], Run] = {}
        for model in options.models:
            runs |= cases(model, image, options.runtimes, Path(name))
            print(f"ready: {model}", flush=True)
        networks = measure(runs, image, options.rounds)
        commands = whole_command(Path(name), options.threads, options.repeats)
    content = {"environment": environment(options), "networks": networks, "command": commands}
    print(f"\n{titled(content)}")
    if options.json:
        options.json.write_text(json.dumps(content, indent=2))
    if options.document:
        insert(titled(content), options.document, "benchmarks/cpu.py")


if __name__ == "__main__":
    main()
