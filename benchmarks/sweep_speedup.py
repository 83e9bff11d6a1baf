"""One sweep on 1, 2, 4 GPUs: how much faster; a killed cell picked up; DDP on all of them against one GPU.

    python benchmarks/sweep_speedup.py --gpus 1 2 4 --out runs/speedup [OVERRIDE ...]
    python benchmarks/sweep_speedup.py --gpus 1 4 --logical --out runs/speedup OVERRIDE ...   # without GPUs

Table 2's ten recipes, or the cells of --axes, with as many seeds as --seeds says, by the ray launcher. The time is that
of the command, start-up of Ray and of every process included; a cell is run before, so that no sweep pays for compiling
kernels. Parts: `sweep`; `kill`: one seed of them on most GPUs, the first that has saved an epoch killed with -9, then
the same command again; `ddp`: the same total batch, no CUDA graphs in either. Results: speedup.json and table.md,
written after each part; a picture of each sweep's cells over time. With --logical the GPUs are names that Ray hands
out: the scheduling is real, a speed-up is not.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from famseg.run import environment
from famseg.study.cells import read_study
from famseg.study.spans import Span, read_spans

ROOT = Path(__file__).parents[1]
SHORT = ["data.n=300", "data.cache=ram", "data.num_workers=2", "trainer.max_epochs=20"]
QUIET = ["logger=none", "trainer.progress=false"]
STUDY = "speedup"


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.glob("sweep_*")) or (options.out / "ddp").exists():
        raise SystemExit(f"{options.out}: has the runs of another measurement. Give an empty folder.")
    record: dict[str, Any] = {"logical": options.logical, "overrides": options.overrides, "environment": environment()}
    if not options.logical:
        train(options, 1, ["experiment=fig5", f"hydra.run.dir={options.out / 'warm'}"], ["trainer.max_epochs=1"]).wait()
    for part in options.parts:
        record[part] = {"sweep": sweeps, "kill": killed, "ddp": ddp}[part](options)
        (options.out / "speedup.json").write_text(json.dumps(record, indent=2) + "\n")
        (options.out / "table.md").write_text(table(record))
    print(table(record))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="GPUs of each sweep")
    parser.add_argument("--axes", nargs="+", default=["experiment=table2"], help="what is swept (experiment=table2)")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="seeds of each recipe (4)")
    parser.add_argument("--parts", nargs="+", default=["sweep", "kill", "ddp"], choices=["sweep", "kill", "ddp"])
    parser.add_argument("--logical", action="store_true", help="names instead of GPUs, cells on the CPU")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results and runs")
    options, overrides = parser.parse_known_args()
    options.overrides = overrides or SHORT
    options.out = options.out.resolve()
    return options


def sweeps(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [sweep(options, gpus, f"sweep_{gpus}", options.seeds) for gpus in options.gpus]


def sweep(options: argparse.Namespace, gpus: int, name: str, seeds: int) -> dict[str, Any]:
    began = time.perf_counter()
    code = start(options, gpus, name, seeds).wait()
    seconds = time.perf_counter() - began
    return {"gpus": gpus, "seconds": seconds, "exit_code": code, **cells_of(options, name)}


def start(options: argparse.Namespace, gpus: int, name: str, seeds: int) -> subprocess.Popen[bytes]:
    launcher = ["hydra/launcher=ray"]
    if options.logical:
        launcher += [f"hydra.launcher.num_gpus={gpus}", f"hydra.launcher.num_cpus={gpus}", "trainer=cpu"]
    axes = [*options.axes, f"seed={','.join(map(str, range(seeds)))}", f"study={STUDY}"]
    return train(options, gpus, ["-m", *axes, *launcher, f"runs={options.out / name}"])


def train(
    options: argparse.Namespace, gpus: int, arguments: list[str], last: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    visible = {} if options.logical else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))}
    command = [sys.executable, "train.py", *arguments, *QUIET, *options.overrides, *last]
    print(" ".join(["python", *command[1:]]), flush=True)
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | visible)


def cells_of(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What became of a sweep's cells, the time they took, and a picture of when they ran."""
    cells = read_study(options.out / name / STUDY)
    spans = [span for cell in cells for span in read_spans(cell.folder)]
    draw(spans, options.logical).savefig(options.out / f"{name}.png", dpi=120)
    return {
        "cells": len(cells),
        "done": sum(cell.state == "done" for cell in cells),
        "problems": sorted({cell.problem for cell in cells if cell.problem}),
        "busy_percent": busy(options.out / name / STUDY / "gpus.csv"),
        "spans": [vars(span) for span in sorted(spans, key=lambda span: span.start)],
    }


def busy(path: Path) -> dict[str, float]:
    """Mean load of each GPU that was recorded."""
    loads: dict[str, list[float]] = {}
    for row in rows(path) if path.exists() else []:
        loads.setdefault(row["gpu"], []).append(float(row["busy_percent"] or "nan"))
    return {gpu: sum(values) / len(values) for gpu, values in loads.items()}


def killed(options: argparse.Namespace) -> dict[str, Any]:
    """One seed of the cells on most GPUs, one killed; then the same command again."""
    gpus, study = max(options.gpus), options.out / "kill" / STUDY
    process = start(options, gpus, "kill", 1)
    while not (saved := sorted(study.glob("*/checkpoints/last.ckpt"))) and process.poll() is None:
        time.sleep(0.05)
    if not saved:
        raise SystemExit("No cell has saved anything: the sweep failed before one could be killed.")
    victim = saved[0].parents[1]
    os.kill(json.loads((victim / "status.json").read_text())["pid"], signal.SIGKILL)
    codes = [process.wait()]
    states = {cell.name: cell.state for cell in read_study(study) if cell.state != "done"}
    codes.append(start(options, gpus, "kill", 1).wait())
    goes_on = [line for line in (victim / "output.txt").read_text().splitlines() if "Going on from" in line]
    return {
        "gpus": gpus,
        "killed": victim.name,
        "exit_codes": codes,
        "not_done_after_first": states,
        "goes_on": [line.replace(f"{options.out}/", "") for line in goes_on],
        **cells_of(options, "kill"),
    }


def ddp(options: argparse.Namespace) -> dict[str, Any]:
    """One run on one GPU and on most; the same total batch, no CUDA graphs in either."""
    gpus = max(options.gpus)
    total = 16 if (given := value(options.overrides, "data.batch_size")) is None else int(given)
    if total % gpus:
        raise SystemExit(f"data.batch_size={total} does not divide into {gpus}.")
    kinds = {1: "trainer=cpu" if options.logical else "trainer=gpu", gpus: f"trainer=ddp{'_cpu' * options.logical}"}
    result: dict[str, Any] = {"gpus": gpus, "batch": total}
    losses, speeds = [], []
    for count, trainer in kinds.items():
        folder = options.out / "ddp" / str(count)
        devices = [trainer, f"trainer.devices={count}", f"hydra.run.dir={folder}"]
        arguments = ["experiment=fig5", *devices, "callbacks.graphs.enabled=false"]
        one = argparse.Namespace(
            **{**vars(options), "overrides": [*options.overrides, f"data.batch_size={total // count}"]}
        )
        if code := train(one, count, arguments).wait():
            return result | {"failed": f"{trainer} left with {code}"}
        losses.append([float(row["train/loss"]) for row in rows(folder / "metrics.csv")])
        speeds.append(median(float(row["images_per_s"]) for row in rows(folder / "timing.csv")[1:]))
    differences = [abs(a - b) / abs(a) for a, b in zip(*losses, strict=True)]
    return result | {
        "images_per_s": speeds,
        "ratio": speeds[1] / speeds[0],
        "losses": losses,
        "largest_relative_difference": max(differences),
        "at_the_end": differences[-1],
    }


def value(overrides: list[str], key: str) -> str | None:
    return next((text.partition("=")[2] for text in reversed(overrides) if text.startswith(f"{key}=")), None)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(record: dict[str, Any]) -> str:
    gpus = "logical GPUs" if record["logical"] else "GPUs"
    lines = []
    if "sweep" in record:
        lines += [f"| {gpus} | cells done | seconds | times as fast | mean load of each |", "|---:|---:|---:|---:|---|"]
        for row in record["sweep"]:
            load = ", ".join(f"{percent:.0f} %" for percent in row["busy_percent"].values()) or "not recorded"
            gain = record["sweep"][0]["seconds"] / row["seconds"]
            done = f"{row['done']} of {row['cells']}"
            lines.append(f"| {row['gpus']} | {done} | {row['seconds']:.0f} | {gain:.2f} | {load} |")
    if kill := record.get("kill"):
        left = ", ".join(f"{name} {state}" for name, state in kill["not_done_after_first"].items())
        lines += ["", f"Killed with -9: `{kill['killed']}`. Not done after the first start: {left}.", ""]
        lines += [f"After the second: {kill['done']} of {kill['cells']} done; exit codes {kill['exit_codes']}."]
    if one := record.get("ddp"):
        lines += ["", f"DDP on {one['gpus']} {gpus} against one, batch {one['batch']} in all: {outcome(one)}."]
    return "\n".join(lines).strip() + "\n"


def outcome(one: dict[str, Any]) -> str:
    if "failed" in one:
        return str(one["failed"])
    slow, fast = one["images_per_s"]
    return (
        f"{fast:.1f} images/s against {slow:.1f}, {one['ratio']:.2f} times as fast; training losses differ by "
        f"{100 * one['largest_relative_difference']:.2f} % at most, {100 * one['at_the_end']:.2f} % in the last epoch"
    )


def draw(spans: list[Span], logical: bool) -> Figure:
    """A row per GPU, a bar per start of a cell; a bar that was cut off is red, what went on after it green."""
    names = sorted({span.gpus or "none" for span in spans})
    figure = Figure(figsize=(10, 1.3 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    first = min((span.start for span in spans), default=0.0)
    cut = {span.cell for span in spans if span.problem}
    for span in spans:
        end = span.start if span.end is None else span.end
        again = span.cell in cut and not span.problem
        colour = "#d62728" if span.problem else "#1a9641" if again else "#2563a8"
        place = (span.start - first, end - span.start)
        axes.broken_barh([place], (names.index(span.gpus or "none") - 0.4, 0.8), color=colour, edgecolor="white")
    axes.set_yticks(range(len(names)), [f"{'logical ' * logical}GPU {name}" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlabel="seconds since the first cell's start", title=title(spans, bool(cut)))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def title(spans: list[Span], cut: bool) -> str:
    text = f"{len({span.cell for span in spans})} cells, a bar each"
    return f"{text}; red: cut off, green: the same cell, going on" if cut else text


if __name__ == "__main__":
    main()
