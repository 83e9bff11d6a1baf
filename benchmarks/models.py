"""All networks of conf/model/ in one run: parameters, multiply-adds, images per second of training and inference.

    python benchmarks/models.py --device cuda --json models_cuda.json --document docs/models.md
    python benchmarks/models.py --device cpu --batch 4 --json models_cpu.json --document docs/models.md

A training step is forward, cross-entropy + Dice (of auxiliary heads too), backward and AdamW: bf16 autocast on a GPU,
float32 on a CPU. On a GPU it is measured twice: launched by Python, and replayed as one CUDA graph, much as train.py
does it. A number is the median over blocks of steps, which are all in the JSON file. With --document, the table
replaces what stands in that file between <!-- benchmarks/models.py DEVICE --> and <!-- end -->.
"""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from documents import in_words, insert, processor, provenance
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from train_step import captured

from famseg.checkpoint import build
from famseg.configuration import composed, folder
from famseg.kernels.launch import compiling
from famseg.losses import CrossEntropyDice, supervised
from famseg.task import parameter_groups

CLASSES = 3
# Sorted as in Table 1, each family from small to large
FAMILIES = ["famseg", "unet", "upernet", "twins", "swin", "segnext", "mobilenet", "convnext", "bisenet"]
ORDER = "ntsbl"
SAME = ("segnext",)  # another option's other name
PACKAGES = ("torch", "segmentation-models-pytorch", "timm")


@dataclass
class Result:
    """One row of the table; 0 where there is no number; `failed` says why. Speeds are in images per second."""

    model: str
    parameters: int = 0
    macs: int = 0
    training: float = 0.0
    replayed: float = 0.0
    inference: float = 0.0
    peak_gib: float = 0.0
    training_blocks: tuple[float, ...] = ()
    replayed_blocks: tuple[float, ...] = ()
    inference_blocks: tuple[float, ...] = ()
    failed: str = ""


def network(option: str) -> nn.Module:
    config = composed("train", [f"model={option}", f"model.num_classes={CLASSES}", "output=none"])
    return build({"model": OmegaConf.to_container(config.model, resolve=True)})


def count(option: str, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and matrix products for one image; auxiliary heads left out."""
    model = network(option).eval()
    parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("boosters"))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 1, *size))
    return parameters, counter.get_total_flops() // 2


def steps_of(option: str, options: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    """A function that does one training step, and one that does one inference, of the same network."""
    device, shape = options.device, (options.batch, 1, *options.size)
    torch.manual_seed(0)
    model = network(option).to(device)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    image = torch.randn(shape, device=device)
    mask = torch.randint(CLASSES, (options.batch, *options.size), device=device)
    known = torch.ones(options.batch, CLASSES, dtype=torch.bool, device=device)
    gpu = device == "cuda"
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-4, fused=True, capturable=gpu)
    loss = CrossEntropyDice()
    autocast = torch.autocast(device, torch.bfloat16, enabled=gpu, cache_enabled=False)  # a graph renews no kept cast

    def train() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            outputs = model(image)
            total = supervised(loss, outputs, mask, known, auxiliary_weight=1.0)
        total.backward()
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        model.eval()
        with autocast:
            model(image)

    return train, infer


def compile_kernels(option: str, options: argparse.Namespace) -> None:
    """All of them side by side, on a network that is thrown away: its weights become whatever lay in memory."""
    with compiling():
        for step in steps_of(option, options):
            step()


def images_per_second(step: Callable[[], None], options: argparse.Namespace) -> tuple[float, ...]:
    """Of each block; a block takes about `options.seconds`, and one step at least."""
    seconds(step, options.warmup, options.device)
    steps = max(1, round(options.seconds / max(1e-4, seconds(step, 1, options.device))))
    return tuple(steps * options.batch / seconds(step, steps, options.device) for _ in range(options.repeats))


def seconds(step: Callable[[], None], steps: int, device: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return time.perf_counter() - start


def measure(option: str, options: argparse.Namespace) -> Result:
    result = Result(option)
    try:
        result.parameters, result.macs = count(option, tuple(options.size))
        if options.device == "cuda":
            compile_kernels(option, options)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        train, infer = steps_of(option, options)
        result.training_blocks = images_per_second(train, options)
        if options.device == "cuda":
            result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
        result.inference_blocks = images_per_second(infer, options)
        if options.device == "cuda" and options.graphs:
            result.replayed_blocks = images_per_second(captured(train), options)
    except Exception as error:  # one network out of memory must not cost the others their numbers
        traceback.print_exc()
        result.failed = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    for name in ("training", "replayed", "inference"):
        blocks = getattr(result, f"{name}_blocks")
        setattr(result, name, statistics.median(blocks) if blocks else 0.0)
    return result


def row(result: Result, gpu: bool) -> str:
    """A line of the Markdown table."""
    speeds = [result.training, result.replayed, result.inference] if gpu else [result.training, result.inference]
    cells = [f"`{result.model}`", f"{result.parameters / 1e6:.2f}", f"{result.macs / 1e9:.2f}"]
    cells += [f"{speed:.{0 if gpu else 2}f}" if speed else "-" for speed in speeds]
    cells += [f"{result.peak_gib:.1f}"] if gpu else []
    return f"| {' | '.join(cells)} |"


def markdown(results: list[Result], about: dict[str, Any]) -> str:
    """The table and, above it, all that it depends on."""
    gpu = about["device_type"] == "cuda"
    names = ["model", "parameters, M", "MACs, G", "training, images/s"]
    names += ["as a CUDA graph", "inference, images/s", "training, peak GiB"] if gpu else ["inference, images/s"]
    height, width = about["size"]
    threads = "" if gpu else f", {about['threads']} threads"
    setting = f"{height}x{width}, batch {about['batch']}, {about['precision']}"
    first = f"{about['device']}{threads}; {setting}; {in_words(about)}"
    rule = "|---" + "|---:" * (len(names) - 1) + "|"
    failed = [f"\n`{result.model}`: {result.failed}" for result in results if result.failed]
    return "\n".join([first, "", f"| {' | '.join(names)} |", rule, *(row(r, gpu) for r in results), *failed])


def environment(options: argparse.Namespace) -> dict[str, Any]:
    gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else processor(),
        "device_type": options.device,
        "threads": torch.get_num_threads(),
        "size": list(options.size),
        "batch": options.batch,
        "precision": "bf16 autocast" if gpu else "float32",
    } | provenance(PACKAGES)


def place(option: str) -> tuple[int, int, str]:
    """Sorts options as Table 1 has them, small to large; new ones come last."""
    family, _, size = option.partition("_")
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), ORDER.find(size), option


def parse() -> argparse.Namespace:
    every = sorted({path.stem for path in (folder() / "model").glob("*.yaml")} - {*SAME}, key=place)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", nargs=2, type=int, default=[256, 384], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, help="images per step (16 on a GPU, 4 on a CPU)")
    parser.add_argument("--models", nargs="+", default=every, choices=[*every, *SAME], metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=7, help="blocks whose median counts (7)")
    parser.add_argument("--seconds", type=float, help="length of a block (0.5 on a GPU, one step on a CPU)")
    parser.add_argument("--warmup", type=int, help="steps before (10 on a GPU, 1 on a CPU)")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="weights in channels last (on a GPU)",
    )
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="no CUDA graphs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    parser.add_argument("--document", type=Path, metavar="FILE", help="Markdown file whose table to replace")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    defaults = {"batch": (16, 4), "seconds": (0.5, 0.0), "warmup": (10, 1), "channels_last": (True, False)}
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[0] if gpu else values[1])
    return options


def main() -> None:
    options = parse()
    about = environment(options)
    results = []
    for option in options.models:
        results.append(measure(option, options))
        print(row(results[-1], options.device == "cuda"), flush=True)
        if options.json:  # after each: an interrupted run keeps what it has
            record = {"environment": about, "results": [asdict(result) for result in results]}
            options.json.write_text(json.dumps(record, indent=2))
    table = markdown(results, about)
    print(f"\n{table}")
    if options.document:
        insert(table, options.document, f"benchmarks/models.py {options.device}")


if __name__ == "__main__":
    main()
