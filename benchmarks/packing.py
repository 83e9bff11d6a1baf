"""How many cells a GPU takes at once: cells per hour for 1, 2, 4, 8 of them, by the ray launcher.

    python benchmarks/packing.py --out packing.json --document docs/studies.md [--at-once 1 2 4 8] [OVERRIDE ...]

Overrides go to train.py; the default is FAMSeg-T, 300 phantom images of 256x256, twelve epochs, the network's default
batch. Counted is the time from the first cell's start to the last one's end, start-up of every process included; a cell
is run before, so that no row pays for compiling kernels. Start-up weighs less in longer cells: images per second of all
cells together, medians of their epochs, tell what those would gain. With --document, the table replaces what stands in
that file between <!-- benchmarks/packing.py --> and <!-- end -->.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from documents import insert

from famseg.run import environment
from famseg.study.cells import Cell, read_study
from famseg.study.spans import read_spans

ROOT = Path(__file__).parents[1]
SHORT = ["model=famseg_t", "data.n=300", "data.cache=gpu", "data.num_workers=0", "trainer.max_epochs=12"]
QUIET = ["logger=none", "trainer.progress=false"]


def main() -> None:
    options = parse()
    about = environment()
    with tempfile.TemporaryDirectory() as folder:
        train(options, [f"hydra.run.dir={folder}/warm"])
    rows = []
    for at_once in options.at_once:
        rows.append(measure(at_once, options))
        record = {"overrides": options.overrides, "rows": rows, "environment": about}
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(rows, about, options))
    if options.document:
        insert(table(rows, about, options), options.document, "benchmarks/packing.py")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="cells of a sweep for each place (1)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="cells at once")
    parser.add_argument("--out", type=Path, default=Path("packing.json"), metavar="FILE")
    parser.add_argument("--document", type=Path, metavar="FILE", help="Markdown file whose table to replace")
    parser.add_argument("--num-gpus", type=int, default=None, help="logical GPUs, to try the script without one")
    options, overrides = parser.parse_known_args()
    options.overrides = overrides or SHORT
    return options


def train(options: argparse.Namespace, arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "train.py", *arguments, *QUIET, *options.overrides], cwd=ROOT).returncode


def measure(at_once: int, options: argparse.Namespace) -> dict[str, Any]:
    count = options.rounds * at_once
    with tempfile.TemporaryDirectory() as runs:
        seeds = ",".join(str(seed) for seed in range(count))
        logical = [] if options.num_gpus is None else [f"hydra.launcher.num_gpus={options.num_gpus}"]
        if options.num_gpus is not None:
            logical.append(f"hydra.launcher.num_cpus={max(options.at_once)}")
        launcher = ["hydra/launcher=ray", f"hydra.launcher.gpus_per_cell={1 / at_once}", *logical]
        code = train(options, ["-m", *launcher, f"runs={runs}", "study=packing", f"seed={seeds}"])
        study = Path(runs) / "packing"
        cells = read_study(study) if study.is_dir() else []
        spans = [span for cell in cells for span in read_spans(cell.folder) if span.end is not None]
        seconds = max((span.end for span in spans), default=0.0) - min((span.start for span in spans), default=0.0)
        speed = sum(images_per_s(cell) for cell in cells) / options.rounds
    done = sum(cell.state == "done" for cell in cells)
    return {
        "at_once": at_once,
        "seconds": seconds,
        "done": done,
        "cells": count,
        "per_hour": 3600 * done / seconds if seconds else 0.0,
        "images_per_s": speed,
        "problems": sorted({cell.problem for cell in cells if cell.problem}),
        "exit_code": code,
    }


def images_per_s(cell: Cell) -> float:
    """Median of the epochs but the first; 0 if there are none."""
    path = cell.folder / "timing.csv"
    if not path.exists():
        return 0.0
    with path.open(newline="") as file:
        speeds = [float(row["images_per_s"]) for row in csv.DictReader(file)][1:]
    return median(speeds) if speeds else 0.0


def table(rows: list[dict[str, Any]], about: dict[str, Any], options: argparse.Namespace) -> str:
    lines = ["| cells at once | done | seconds | cells per hour | times one | images/s of all | times one |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|")
    first = rows[0]
    for row in rows:
        gains = [row[key] / first[key] if first[key] else float("nan") for key in ("per_hour", "images_per_s")]
        lines.append(
            f"| {row['at_once']} | {row['done']} of {row['cells']} | {row['seconds']:.0f} | {row['per_hour']:.0f} "
            f"| {gains[0]:.2f} | {row['images_per_s']:.0f} | {gains[1]:.2f} |"
        )
    gpus = about["gpus"][0] if about["gpus"] and options.num_gpus is None else "logical GPUs on a CPU"
    what = f"{gpus}, {about['cpus']} CPU cores, torch {about['packages']['torch']}, revision {about['revision']}"
    return "\n".join([*lines, "", f"`{' '.join(['python benchmarks/packing.py', *options.overrides])}`; {what}."])


if __name__ == "__main__":
    main()
