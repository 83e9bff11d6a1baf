"""Cuts of the depthwise and the strip kernels: compiled in parallel ahead of time, then timed one by one.

    python benchmarks/blocks.py --sweep --knobs strip.FORWARD strip.BACKWARD

The cut in use comes first, then those that differ from it in one number, in two, and so on, up to `--cuts` of a knob.
Processes that see no GPU put their machine code into Triton's cache on disk; what has not come out of them when a share
of `--seconds` is over is left out, and so is what has not been timed at the end. Both are printed.
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
from torch import Tensor

from famseg.kernels import depthwise, strip, tap_gradients
from famseg.kernels.ahead import compile_only
from famseg.kernels.lines import Walk
from famseg.kernels.partials import merged_taps
from famseg.kernels.tiles import Tile

Cut = Tile | Walk
ATTENTION = ((32, 128), (64, 64), (160, 32), (256, 16))  # channels, side
MLP = ((256, 128), (512, 64), (640, 32), (1024, 16))
COMPILING = 0.6  # of the seconds
MILLISECONDS = 4  # of replays, ten times over, for one time


@dataclasses.dataclass(frozen=True)
class Knob:
    """A kernel's cut: where it is kept, a call that runs this kernel alone, and the values to try for its numbers."""

    get: Callable[[], Cut]
    keep: Callable[[Any], None]
    call: Callable[[Tensor], Callable[[], Any]]
    sizes: tuple[tuple[int, int], ...]
    values: dict[str, tuple[Any, ...]]
    held: tuple[int, int]  # elements of a thread, from and to


def held_by(cut: Cut) -> float:
    """Elements of the map that a thread holds."""
    pixels = cut.lines if isinstance(cut, Walk) else cut.height * cut.width
    return pixels * cut.block_c / (32 * cut.warps)


def candidates(knob: Knob) -> list[Cut]:
    """Cuts, those first that differ the least from the one in use."""
    now = knob.get()
    products = (dict(zip(knob.values, numbers, strict=True)) for numbers in itertools.product(*knob.values.values()))
    cuts = [dataclasses.replace(now, **numbers) for numbers in products]

    def changes(cut: Cut) -> int:
        return sum(getattr(cut, name) != getattr(now, name) for name in knob.values)

    fitting = {cut for cut in cuts if knob.held[0] <= held_by(cut) <= knob.held[1]} - {now}
    return [now, *sorted(fitting, key=lambda cut: (changes(cut), cuts.index(cut)))]


def knobs() -> dict[str, Knob]:
    """By the name of the constant that the cut is."""

    def taps(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, x.shape[1], device=x.device), torch.randn(x.shape[1], device=x.device)

    def filter_of(side: int, then: str) -> Callable[[Tensor], Callable[[], Any]]:
        def call(x: Tensor) -> Callable[[], Any]:
            weight, bias = taps(x, side * side)
            return lambda: depthwise._filter(x, weight, bias, bias if then else None, x, then=then)

        return call

    def gradients(x: Tensor) -> Callable[[], Any]:
        weight, bias = taps(x, 9)
        return lambda: depthwise._gradients(x, x, weight, bias)

    def strips(x: Tensor) -> Callable[[], Any]:
        (lines, bias), y = taps(x, 42), torch.empty_like(x)
        return lambda: strip._walk(x, lines, bias, y, None, strip.BOTH)

    def strips_backward(x: Tensor) -> Callable[[], Any]:
        (lines, _), y = taps(x, 42), torch.empty_like(x)
        return lambda: merged_taps(strip._walk(x, lines, None, y, x, strip.BOTH), 42)

    def squares(x: Tensor) -> Callable[[], Any]:
        return lambda: tap_gradients.tap_gradients(x, x, side=5)

    def tile_of(get: Callable[[], Cut], keep: Any, call: Any, sizes: Any, patches: Any, limits: Any = (None,)) -> Knob:
        high, wide = zip(*patches, strict=True)
        values = {"block_c": (32, 64), "groups_h": (1, 2, 4, 8), "groups_w": (4, 8, 32), "warps": (2, 4, 8)}
        values |= {"patch_h": tuple(set(high)), "patch_w": tuple(set(wide)), "registers": limits}
        return Knob(get, keep, call, sizes, values, (8, 64))

    def walk_of(module: Any, name: str, call: Any) -> Knob:
        values = {
            "step": (4, 8),
            "registers": (None, 128, 168),
            "programs": (264, 396, 528, 660),
            "lines": (4, 8, 16),
            "warps": (2, 4, 8),
        }
        return Knob(
            lambda: getattr(module, name), lambda cut: setattr(module, name, cut), call, ATTENTION, values, (1, 2)
        )

    def constant(name: str) -> tuple[Callable[[], Cut], Callable[[Any], None]]:
        return lambda: getattr(depthwise, name), lambda cut: setattr(depthwise, name, cut)

    def filters(side: int) -> tuple[Callable[[], Cut], Callable[[Any], None]]:
        return lambda: depthwise.FILTERS[side], lambda cut: depthwise.FILTERS.update({side: cut})

    areas, limits = ((2, 2), (1, 4), (1, 2)), (None, 128, 168)  # with these, 4 and 3 programs share a processor
    return {
        "strip.FORWARD": walk_of(strip, "FORWARD", strips),
        "strip.BACKWARD": walk_of(strip, "BACKWARD", strips_backward),
        "tap_gradients.SQUARES": walk_of(tap_gradients, "SQUARES", squares),
        "FILTERS[5]": tile_of(*filters(5), filter_of(5, ""), ATTENTION, areas),
        "FILTERS[3], GELU": tile_of(*filters(3), filter_of(3, "gelu"), MLP, areas, limits),
        "SLOPE": tile_of(*constant("SLOPE"), filter_of(3, "slope"), MLP, areas, limits),
        "GRADIENTS": tile_of(*constant("GRADIENTS"), gradients, MLP, areas, limits),
    }


def map_of(size: tuple[int, int], batch: int, dtype: str, device: str) -> Tensor:
    """Random, or on "meta" none, of (channels, side)."""
    channels, side = size
    x = torch.randn(batch, channels, side, side, device=device).to(getattr(torch, dtype))
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
        for size in knob.sizes:
            knob.call(map_of(size, batch, dtype, "meta"))()
    except Exception as error:
        return name, cut, f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return name, cut, ""


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
) -> list[dict[str, Any]]:
    """A row of each size."""
    knob = knobs()[name]
    before = knob.get()
    rows = []
    try:
        knob.keep(cut)
        for size in knob.sizes:
            call = knob.call(map_of(size, options.batch, options.dtype, "cuda"))
            call()
            ms = graph_ms(call, MILLISECONDS)
            rows.append({"knob": name, "channels": size[0], "side": size[1], "ms": ms, **dataclasses.asdict(cut)})
    finally:
        knob.keep(before)
    return rows


def sweep(options: argparse.Namespace, graph_ms: Callable[[Callable[[], Any], int], float]) -> list[dict[str, Any]]:
    """The times of all cuts that were reached; prints the best ones."""
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
    found = []
    for name, cut in turns:
        if (name, cut) in ready and time.monotonic() < start + options.seconds:
            ready.remove((name, cut))
            try:
                found += measured(name, cut, options, graph_ms)
            except Exception as error:
                failed[name, cut] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    for (name, cut), why in failed.items():
        print(f"{name} {dataclasses.astuple(cut)} failed: {why}")
    for (name, knob), cuts in zip(chosen.items(), lists, strict=True):
        rows = [f for f in found if f["knob"] == name]
        report(name, knob, rows)
        tried = {numbers(f) for f in rows} | {dataclasses.astuple(cut) for n, cut in failed if n == name}
        own = [dataclasses.astuple(cut) for _, cut in cuts]
        missed = ", ".join(str(cut) for cut in own if cut not in tried) or "none"
        number = len(candidates(knob))
        print(f"{name}: {len(tried)} of {number} cuts tried; not reached of the first {len(cuts)}: {missed}")
    print(f"{time.monotonic() - start:.0f} s", flush=True)
    return found


def numbers(row: dict[str, Any]) -> tuple[Any, ...]:
    """Of a row's cut."""
    return tuple(value for key, value in row.items() if key not in ("knob", "channels", "side", "ms"))


def report(name: str, knob: Knob, found: list[dict[str, Any]]) -> None:
    """The best cuts of each size, and the one whose times, each over the best of its size, have the smallest sum."""
    best, sums = {}, dict.fromkeys((numbers(f) for f in found), 0.0)
    now = dataclasses.astuple(knob.get())
    for channels, side in knob.sizes:
        rows = sorted((f for f in found if (f["channels"], f["side"]) == (channels, side)), key=lambda f: f["ms"])
        if not rows:
            continue
        best[channels, side] = rows[0]["ms"]
        in_use = "".join(f"; in use {f['ms']:.4f}" for f in rows if numbers(f) == now)
        cuts = "; ".join(f"{f['ms']:.4f} {numbers(f)}" for f in rows[:4])
        print(f"{name} {channels} ch {side}x{side}: {cuts}{in_use}; slowest {rows[-1]['ms']:.4f}", flush=True)
    for f in found:
        sums[numbers(f)] += f["ms"] / best[f["channels"], f["side"]] / len(best)
    if sums:
        cut, excess = min(sums.items(), key=lambda pair: pair[1])
        print(f"{name}: one for all sizes {cut}, {100 * (excess - 1):.0f} % above the best of each", flush=True)
