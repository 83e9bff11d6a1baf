"""Time and memory of a training step as images and batches grow: FAMSeg and a U-Net, in one process, on one GPU.

    python benchmarks/growth.py --json growth.json --plot growth
    python benchmarks/growth.py --drawn-from growth.json --plot growth        # the plot again, on any machine

Square images with sides of 256 to 1024 in batches of 4, and batches of 1 to 64 images of 256x256. A step is that of
benchmarks/train_step.py, replayed as one CUDA graph; its time is the median over blocks, its memory the most that
PyTorch had allocated. What does not fit into memory has a row that says so. The plot, PLOT.png and PLOT.svg, shows both
over the pixels of a batch, beside a line on which twice the pixels cost twice as much.
"""

import argparse
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train_step import Result, environment, run_case, write_json

COLORS = {"FAMSeg-T triton": "#c8442d", "FAMSeg-T torch": "#d99a2b", "U-Net ResNet-34": "#1f5fa8"}
NAMES = {"FAMSeg-T triton": "FAMSeg-T", "FAMSeg-T torch": "FAMSeg-T in plain PyTorch"}
SIDES = tuple((4, side) for side in (256, 512, 768, 1024))  # (batch, side)
BATCHES = tuple((batch, 256) for batch in (1, 2, 4, 8, 16, 32, 64))
SERIES = ((BATCHES, "o", "batches of 1 to 64, 256x256"), (SIDES, "s", "sides of 256 to 1024, batch 4"))
QUANTITIES = (("ms", "ms a step"), ("peak_gib", "peak memory, GiB"))
HEAD = "| network | batch | side | ms/step | us per 1,000 pixels | peak GiB |\n|---|---:|---:|---:|---:|---:|"


def megapixels(r: Result) -> float:
    return r.batch * r.size[0] * r.size[1] / 1e6


def row(r: Result) -> str:
    spread = f"{r.ms:.1f} ({r.ms_fastest:.1f} to {r.ms_slowest:.1f})"
    numbers = r.failed or f"{spread} | {r.ms / megapixels(r):.2f} | {r.peak_gib:.2f}"
    return f"| {r.model} | {r.batch} | {r.size[0]} | {numbers} |"


def run(options: argparse.Namespace) -> tuple[list[Result], dict[str, Any]]:
    about, results = environment(), []
    print(f"{about}\n\n{HEAD}", flush=True)
    for model in options.models:
        for batch, side in dict.fromkeys((*BATCHES, *SIDES)):
            options.batch, options.size = batch, (side, side)
            results.append(run_case(model, "graph", options))
            print(row(results[-1]), flush=True)
            gc.collect()  # a graph's memory
            write_json(options.json, about, results)
    return results, about


def read(path: Path) -> tuple[list[Result], dict[str, Any]]:
    record = json.loads(path.read_text())
    return [Result(**{**r, "size": tuple(r["size"])}) for r in record["results"]], record["environment"]


def draw(results: Sequence[Result], about: dict[str, Any], path: Path) -> None:
    """Write PATH.png and PATH.svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    pyplot.rcParams["svg.hashsalt"] = "growth"  # the same file each time
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    for panel, (quantity, label) in zip(panels, QUANTITIES, strict=True):
        panel.set(xscale="log", yscale="log", xlabel="pixels of a batch, millions", ylabel=label)
        _draw_panel(panel, results, quantity)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    figure.suptitle(f"A training step in bf16, replayed as a CUDA graph, on one {about['device']}", fontsize=10)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=160, metadata={"Date": None} if suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_panel(panel: Any, results: Sequence[Result], quantity: str) -> None:
    models = [model for model in COLORS if any(r.model == model for r in results)]
    for model in models:
        for points, marker, _ in SERIES:
            found = [r for r in results if r.model == model and (r.batch, r.size[0]) in points and not r.failed]
            panel.plot(
                [megapixels(r) for r in found], [getattr(r, quantity) for r in found], marker=marker,
                color=COLORS[model], linewidth=1.4, markersize=5, markerfacecolor="white" if marker == "s" else None,
            )  # fmt: skip
        panel.plot([], [], color=COLORS[model], label=NAMES.get(model, model))
    for _, marker, meaning in SERIES:
        fill = "white" if marker == "s" else "#666666"
        panel.plot([], [], marker, color="#666666", markerfacecolor=fill, markersize=5, label=meaning)
    measured = [r for r in results if r.model == models[0] and not r.failed]
    last = max(measured, key=megapixels)
    per_pixel = getattr(last, quantity) / megapixels(last)
    ends = [min(getattr(r, quantity) for r in results if not r.failed) / per_pixel, megapixels(last)]
    panel.plot(ends, [x * per_pixel for x in ends], "--", color="#888888", linewidth=1, label="linear in the pixels")
    for r in results:
        if r.failed:
            panel.plot(megapixels(r), 0.99, "x", color=COLORS[r.model], transform=panel.get_xaxis_transform())
    if any(r.failed for r in results):
        panel.plot([], [], "x", color="#666666", label="no number: see the table")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(COLORS), choices=list(COLORS))
    parser.add_argument("--blocks", type=int, default=3, help="blocks of steps whose median counts (3)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a block (0.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, written after each row")
    parser.add_argument("--plot", type=Path, metavar="PLOT", help="PLOT.png and PLOT.svg")
    parser.add_argument(
        "--drawn-from", type=Path, metavar="FILE", help="measure nothing, draw what this JSON file holds"
    )
    return parser.parse_args()


def main() -> None:
    import torch

    options = parse()
    if options.drawn_from is None and not torch.cuda.is_available():
        raise SystemExit("benchmarks/growth.py needs a CUDA device, or --drawn-from and --plot.")
    options.channels_last, options.casts = True, "together"
    results, about = read(options.drawn_from) if options.drawn_from else run(options)
    if options.plot:
        draw(results, about, options.plot)


if __name__ == "__main__":
    main()
