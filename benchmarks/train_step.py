"""Training steps per second: FAMSeg and its peers in one process, on one GPU.

    python benchmarks/train_step.py --size 512 512 --batch 16 --json train_step.json

A step is forward, cross-entropy + Dice, backward and a fused AdamW, in bf16 autocast. Modes: eager; compiled (model and
loss by torch.compile); graph (the whole step replayed as one CUDA graph). A number is the median over blocks of steps,
with the fastest and slowest block beside it. Peak memory is what PyTorch allocated.
"""

import argparse
import json
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from famseg.casts import PrecastWeights
from famseg.losses import CrossEntropyDice
from famseg.models import SIZES, FAMSeg
from famseg.replay import gradients_of
from famseg.run import revision
from famseg.streams import URGENT
from famseg.task import parameter_groups
from famseg.update import SideBySide

CLASSES = 3


def famseg(size: str = "T", **options: Any) -> Callable[[], nn.Module]:
    return lambda: FAMSeg(**(SIZES[size] | options))


def peer(architecture: str, encoder: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return smp.create_model(architecture, encoder, encoder_weights=None, in_channels=1, classes=CLASSES)

    return build


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "U-Net ResNet-34": (peer("unet", "resnet34"), ("eager", "graph", "compiled")),
    "UPerNet ConvNeXt-T": (peer("upernet", "tu-convnext_tiny"), ("eager", "compiled")),
    "FAMSeg-T torch": (famseg(kernels="torch"), ("eager", "graph", "compiled")),
    "FAMSeg-T mamba_ssm": (famseg(kernels="mamba_ssm"), ("eager", "graph")),
    "FAMSeg-T triton": (famseg(kernels="triton"), ("eager", "graph", "compiled", "compiled+graph")),
}


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
    peak_gib: float = 0.0
    prepare_s: float = 0.0
    failed: str = ""


def training_step(
    model: nn.Module, image: Tensor, mask: Tensor, compiled: bool, graph: bool, together: bool = True
) -> Callable[[], None]:
    """A function that does one step; with `graph` its replay. `together`: weights are cast so, as in training."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-4, fused=True, capturable=graph)
    loss = CrossEntropyDice()
    network = PrecastWeights(model) if together and not compiled else model  # a compiler makes fewer casts by itself

    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(image)
        return loss(logits, mask)  # type: ignore[no-any-return]

    run = torch.compile(forward, dynamic=False) if compiled else forward
    parameters = list(model.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        run().backward()
        optimizer.step()

    def step_side_by_side() -> None:  # as train.py captures it
        for parameter, gradient in gradients_of(run(), parameters):
            parameter.grad = gradient
        with SideBySide():
            optimizer.step()

    if graph and not compiled:
        return captured(step_side_by_side)
    return captured(step) if graph else step


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(priority=URGENT)):  # as in training
        step()

    def replayed(_held: Callable[[], object] = step) -> None:  # the graph writes the state of the step's optimizer
        graph.replay()

    return replayed


def measure(step: Callable[[], object], blocks: int, seconds: float) -> list[float]:
    """Milliseconds per step of each block; a block takes about `seconds`."""
    for _ in range(3):
        step()
    steps = max(2, min(50, int(seconds / max(1e-4, block_ms(step, 2) / 1e3))))
    return [block_ms(step, steps) for _ in range(blocks)]


def block_ms(step: Callable[[], object], steps: int) -> float:
    if not torch.cuda.is_available():
        started = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - started) / steps * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / steps


def run_case(name: str, mode: str, options: argparse.Namespace) -> Result:
    result = Result(name, mode, options.batch, tuple(options.size))
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        model = CASES[name][0]().cuda().train()
        if options.channels_last:
            model = model.to(memory_format=torch.channels_last)
        image = torch.randn(options.batch, 1, *options.size, device="cuda")
        mask = torch.randint(CLASSES, (options.batch, *options.size), device="cuda")
        step = training_step(model, image, mask, "compiled" in mode, "graph" in mode, options.casts == "together")
        step()
        torch.cuda.synchronize()
        result.prepare_s = round(time.perf_counter() - started, 1)
        times = measure(step, options.blocks, options.seconds)
    except Exception as error:
        result.failed = why(error)
        return result
    take_times(result, times)
    result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
    return result


def take_times(result: Any, times: Sequence[float]) -> None:
    """Fill in what follows from the milliseconds of each block."""
    result.ms, result.ms_fastest, result.ms_slowest = statistics.median(times), min(times), max(times)
    result.images_per_s = result.batch / result.ms * 1e3


def why(error: Exception) -> str:
    """What a row says instead of numbers; the trace goes to the terminal."""
    traceback.print_exc()
    return f"{type(error).__name__}: {error}".splitlines()[0][:150]


def write_json(path: Path | None, about: dict[str, Any], results: Sequence[Any]) -> None:
    """The environment and all rows so far, if a file is asked for."""
    if path:
        path.write_text(json.dumps({"environment": about, "results": [asdict(r) for r in results]}, indent=2))


def profile(name: str, options: argparse.Namespace) -> str:
    """Operations by the shapes of their arguments, then kernels, of one eager step, longest first."""
    model = CASES[name][0]().cuda().train()
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image = torch.randn(options.batch, 1, *options.size, device="cuda")
    mask = torch.randint(CLASSES, (options.batch, *options.size), device="cuda")
    step = training_step(model, image, mask, compiled=False, graph=False, together=options.casts == "together")
    for _ in range(3):
        step()
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities()), record_shapes=True) as record:
        step()
        torch.cuda.synchronize()
    by_shape = record.key_averages(group_by_input_shape=True)
    ops = by_shape.table(sort_by="self_cuda_time_total", row_limit=120, max_name_column_width=60)
    kernels = record.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=100)
    return f"{ops}\n{kernels}"


def environment() -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "revision": revision(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def make_deterministic() -> None:
    """What trainer.deterministic=true sets; cuBLAS reads its variable when it starts."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False


def markdown(results: list[Result]) -> str:
    lines = ["| model | mode | ms/step | images/s | peak GiB | preparing, s |", "|---|---|---|---|---|---|"]
    for r in results:
        spread = f"{r.ms:.1f} ({r.ms_fastest:.1f} to {r.ms_slowest:.1f})"
        numbers = r.failed or f"{spread} | {r.images_per_s:.0f} | {r.peak_gib:.1f} | {r.prepare_s:.0f}"
        lines.append(f"| {r.model} | {r.mode} | {numbers} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=[512, 512], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--modes", nargs="+", help="only these of each model's modes")
    parser.add_argument("--blocks", type=int, default=7, help="blocks of steps whose median counts (7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a block (0.5)")
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, default=True, help="weights in channels last (yes)"
    )
    parser.add_argument(
        "--cudnn-benchmark",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let cuDNN time its algorithms for each convolution (no)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="PyTorch's deterministic algorithms, as with trainer.deterministic=true (no)",
    )
    parser.add_argument(
        "--casts",
        choices=("together", "single"),
        default="together",
        help="of weights, where nothing is compiled: as in training, or each by autocast (together)",
    )
    parser.add_argument(
        "--profile", metavar="MODEL", choices=list(CASES), help="print the operations and kernels of one eager step"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/train_step.py needs a CUDA device.")
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    if options.deterministic:
        make_deterministic()
    if options.profile:
        print(profile(options.profile, options))
        return
    results = []
    for name in options.models:
        for mode in CASES[name][1]:
            if options.modes is None or mode in options.modes:
                results.append(run_case(name, mode, options))
                print(markdown(results[-1:]).splitlines()[-1], flush=True)
    about = environment()
    print(f"\n{about}, batch {options.batch}, {options.size[0]}x{options.size[1]}\n\n{markdown(results)}")
    write_json(options.json, about, results)


if __name__ == "__main__":
    main()
