"""How many cells a GPU takes at once: cells per hour for 1, 2, 4, 8 of them, by the ray launcher.

python benchmarks/packing.py --out packing.json [--cells 8] [--at-once 1 2 4 8] [OVERRIDE ...]

Overrides go to train.py; the default is FAMSeg-T on 300 phantom images, four epochs. The wall time of a sweep is
measured from its start to its end, start-up of Ray and of every process included, since a user waits for it, too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from famseg.run import environment
from famseg.study.cells import read_study

ROOT = Path(__file__).parents[1]
SHORT = ["model=famseg_t", "data.images=300", "trainer.max_epochs=4", "data.num_workers=2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=8, help="cells of each sweep (8)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="cells at once")
    parser.add_argument("--out", type=Path, default=Path("packing.json"), metavar="FILE")
    parser.add_argument("--num-gpus", type=int, default=None, help="logical GPUs, to try the script without one")
    options, overrides = parser.parse_known_args()
    rows = [measure(at_once, options, overrides or SHORT) for at_once in options.at_once]
    record = {"overrides": overrides or SHORT, "cells": options.cells, "rows": rows, "environment": environment()}
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print("| cells at once | seconds | cells per hour | times one | done |\n|---|---|---|---|---|")
    for row in rows:
        gain = row["per_hour"] / rows[0]["per_hour"] if rows[0]["per_hour"] else float("nan")
        print(f"| {row['at_once']} | {row['seconds']:.0f} | {row['per_hour']:.1f} | {gain:.2f} | {row['done']} |")


def measure(at_once: int, options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as runs:
        seeds = ",".join(str(seed) for seed in range(options.cells))
        logical = [] if options.num_gpus is None else [f"hydra.launcher.num_gpus={options.num_gpus}"]
        launcher = ["hydra/launcher=ray", f"hydra.launcher.gpus_per_cell={1 / at_once}", *logical]
        fixed = [f"runs={runs}", "study=packing", "logger=none", "trainer.progress=false", f"seed={seeds}"]
        began = time.perf_counter()
        sweep = subprocess.run([sys.executable, "train.py", "-m", *overrides, *launcher, *fixed], cwd=ROOT)
        seconds = time.perf_counter() - began
        cells = read_study(Path(runs) / "packing")
    done = sum(cell.state == "done" for cell in cells)
    problems = sorted({cell.problem for cell in cells if cell.problem})
    per_hour = 3600 * done / seconds
    return {
        "at_once": at_once,
        "seconds": seconds,
        "done": done,
        "per_hour": per_hour,
        "problems": problems,
        "exit_code": sweep.returncode,
    }


if __name__ == "__main__":
    main()
