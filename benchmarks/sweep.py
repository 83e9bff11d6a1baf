"""Cuts of the depthwise, strip and narrow kernels: compiled in parallel ahead of time, then timed one by one.

    python benchmarks/blocks.py --sweep --knobs strip.FORWARD narrow.RESULT --json sweep.json

The cut in use comes first, then those that differ from it in one number, in two, and so on, up to `--cuts` of a knob;
those of narrow.* are listed one by one. Processes that see no GPU put their machine code into Triton's cache on disk;
what has not come out of them when a share of `--seconds` is over is left out, and so is what has not been timed at the
end. Both are printed. Every cut's times are printed and written to the file at once, should the sweep be ended early.
"""

import argparse
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError, get_context
from typing import Any

import torch
from knobs import Case, Cut, Knob, knobs
from torch import Tensor

from famseg.kernels.ahead import compile_only

Row = dict[str, Any]
COMPILING = 0.6  # of the seconds
MILLISECONDS = 4  # of replays, ten times over, for one time


def candidates(knob: Knob) -> list[Cut]:
    """The cut in use and the other ones."""
    now = knob.get()
    return [now, *(cut for cut in knob.others(now) if cut != now)]


def map_of(case: Case, batch: int, dtype: str, device: str) -> Tensor:
    """Random, or on "meta" none."""
    x = torch.randn(batch, case.channels, case.side, case.side, device=device).to(getattr(torch, dtype))
    return x.contiguous(memory_format=torch.channels_last)


def become_compiler(target: Any) -> None:
    """What a worker does first."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    compile_only(target)


def compile_cut(job: tuple[str, Cut, int, str]) -> tuple[str, Cut, str]:
    """All kernels of this cut; the last of the result says why there is none."""
    name, cut, batch, dtype = job
    knob = knobs()[name]
    knob.keep(cut)
    try:
        for case in knob.cases:
            case.call(map_of(case, batch, dtype, "meta"))()
    except Exception as error:
        return name, cut, reason(error)
    return name, cut, ""


def reason(error: Exception) -> str:
    """Its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]


def compiled(jobs: list[tuple[str, Cut, int, str]], workers: int, until: float) -> Iterator[tuple[str, Cut, str]]:
    """The results of `compile_cut` that are there in time; the processes end with it."""
    from triton.runtime import driver

    target = driver.active.get_current_target()
    with get_context("spawn").Pool(workers, become_compiler, (target,)) as pool:  # terminates them at its end
        results = pool.imap_unordered(compile_cut, jobs)
        for _ in jobs:
            try:
                yield results.next(timeout=max(0.0, until - time.monotonic()))
            except TimeoutError:
                return


def measured(
    name: str, cut: Cut, options: argparse.Namespace, graph_ms: Callable[[Callable[[], Any], int], float]
) -> list[Row]:
    """A row of each case."""
    knob = knobs()[name]
    before = knob.get()
    rows = []
    try:
        knob.keep(cut)
        for case in knob.cases:
            call = case.call(map_of(case, options.batch, options.dtype, "cuda"))
            call()
            ms = graph_ms(call, MILLISECONDS)
            rows.append({"knob": name, "case": case.name, "calls": case.calls, "ms": ms, **dataclasses.asdict(cut)})
    finally:
        knob.keep(before)
    return rows


def sweep(
    options: argparse.Namespace,
    graph_ms: Callable[[Callable[[], Any], int], float],
    save: Callable[[list[Row]], None],
) -> None:
    """Saves the times of all cuts that were reached, after each; prints the best ones."""
    start = time.monotonic()
    chosen = {name: knob for name, knob in knobs().items() if not options.knobs or name in options.knobs}
    lists = [[(name, cut) for cut in candidates(knob)[: options.cuts]] for name, knob in chosen.items()]
    turns = [pair for turn in itertools.zip_longest(*lists) for pair in turn if pair is not None]
    jobs = [(name, cut, options.batch, options.dtype) for name, cut in turns]
    ready, failed = set(), {}
    for name, cut, why in compiled(jobs, min(options.workers, len(jobs)), start + COMPILING * options.seconds):
        if why:
            failed[name, cut] = why
        else:
            ready.add((name, cut))
    print(f"{len(ready)} of {len(jobs)} cuts compiled in {time.monotonic() - start:.0f} s", flush=True)
    found: list[Row] = []
    for name, cut in turns:
        if (name, cut) in ready and time.monotonic() < start + options.seconds:
            try:
                rows = measured(name, cut, options, graph_ms)
            except Exception as error:
                failed[name, cut] = reason(error)
                continue
            found += rows
            times = ", ".join(f"{row['ms']:.4f}" for row in rows)
            print(f"{name} {dataclasses.astuple(cut)}: {times}", flush=True)
            save(found)
    for (name, cut), why in failed.items():
        print(f"{name} {dataclasses.astuple(cut)} failed: {why}")
    gain = 0.0
    for (name, knob), cuts in zip(chosen.items(), lists, strict=True):
        rows = [f for f in found if f["knob"] == name]
        gain += report(name, knob, rows)
        tried = {numbers(f) for f in rows} | {dataclasses.astuple(cut) for n, cut in failed if n == name}
        own = [dataclasses.astuple(cut) for _, cut in cuts]
        missed = ", ".join(str(cut) for cut in own if cut not in tried) or "none"
        number = len(candidates(knob))
        print(f"{name}: {len(tried)} of {number} cuts tried; not reached of the first {len(cuts)}: {missed}")
    print(
        f"all of these, one for all cases each: {gain:.3f} ms less a step; {time.monotonic() - start:.0f} s", flush=True
    )


def numbers(row: Row) -> tuple[Any, ...]:
    """Of a row's cut."""
    return tuple(value for key, value in row.items() if key not in ("knob", "case", "calls", "ms"))


def report(name: str, knob: Knob, found: list[Row]) -> float:
    """Prints the best cuts of each case and the one that is best for a step; returns the ms a step that it saves."""
    now = dataclasses.astuple(knob.get())
    for case in knob.cases:
        rows = sorted((f for f in found if f["case"] == case.name), key=lambda f: f["ms"])
        if rows:
            in_use = "".join(f"; in use {f['ms']:.4f}" for f in rows if numbers(f) == now)
            cuts = "; ".join(f"{f['ms']:.4f} {numbers(f)}" for f in rows[:4])
            print(f"{name} {case.name}: {cuts}{in_use}; slowest {rows[-1]['ms']:.4f}", flush=True)
    steps: dict[tuple[Any, ...], float] = {}
    for f in found:
        steps[numbers(f)] = steps.get(numbers(f), 0.0) + f["calls"] * f["ms"]
    if now not in steps:
        return 0.0
    cut, best = min(steps.items(), key=lambda pair: pair[1])
    gain = steps[now] - best
    print(f"{name}: {steps[now]:.3f} ms a step in use; one for all cases {cut}: {gain:.3f} ms less", flush=True)
    return gain
