"""Cuts of kernels that `sweep.py` varies: where they are kept, and the calls of a training step that depend on them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from famseg.kernels import depthwise, depthwise3, gelu_pointwise, narrow, strip, tap_gradients
from famseg.kernels.lines import Walk
from famseg.kernels.narrow import Pace
from famseg.kernels.partials import merged_taps
from famseg.kernels.tiles import Tile, empty_map

Cut = Tile | Walk | Pace | gelu_pointwise.Cut
ATTENTION = ((32, 128, 3), (64, 64, 3), (160, 32, 5), (256, 16, 2))  # channels, side, calls in a step
MLP = ((256, 128, 3), (512, 64, 3), (640, 32, 5), (1024, 16, 2))


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel's call for a map of so many channels and this side, which a training step has so many times."""

    name: str
    channels: int
    side: int
    calls: int
    call: Callable[[Tensor], Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Knob:
    """A kernel's cut: where it is kept, calls that run this kernel alone, and other cuts to try, by the one in use."""

    get: Callable[[], Cut]
    keep: Callable[[Any], None]
    cases: tuple[Case, ...]
    others: Callable[[Cut], list[Any]]


def held_by(cut: Tile | Walk) -> float:
    """Elements of the map that a thread holds."""
    pixels = cut.lines if isinstance(cut, Walk) else cut.height * cut.width
    return pixels * cut.block_c / (32 * cut.warps)


def varied(values: dict[str, tuple[Any, ...]], held: tuple[int, int]) -> Callable[[Any], list[Any]]:
    """All cuts with these numbers, if a thread holds so many elements; those first that differ the least."""

    def others(now: Tile | Walk) -> list[Tile | Walk]:
        def changes(cut: Tile | Walk) -> int:
            return sum(getattr(cut, name) != getattr(now, name) for name in values)

        products = (dict(zip(values, numbers, strict=True)) for numbers in itertools.product(*values.values()))
        cuts = [dataclasses.replace(now, **numbers) for numbers in products]
        return sorted((cut for cut in cuts if held[0] <= held_by(cut) <= held[1]), key=changes)

    return others


def knobs() -> dict[str, Knob]:
    """By the name of the constant that the cut is."""
    return depthwise_knobs() | strip_knobs() | narrow_knobs() | gelu_pointwise_knobs()


def constant(module: Any, name: str) -> tuple[Callable[[], Cut], Callable[[Any], None]]:
    """A knob's place."""
    return lambda: getattr(module, name), lambda cut: setattr(module, name, cut)


def cases(sizes: Iterable[tuple[int, int, int]], call: Callable[[Tensor], Callable[[], Any]]) -> tuple[Case, ...]:
    """The same call at all sizes."""
    return tuple(Case(f"{c} ch {side}x{side}", c, side, calls, call) for c, side, calls in sizes)


def taps(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of a depthwise filter, and its bias."""
    return torch.randn(count, x.shape[1], device=x.device), torch.randn(x.shape[1], device=x.device)


def depthwise_knobs() -> dict[str, Knob]:
    """Of `famseg.kernels.depthwise` and `depthwise3`."""

    def filter_of(side: int, then: str) -> Callable[[Tensor], Callable[[], Any]]:
        def call(x: Tensor) -> Callable[[], Any]:
            (weight, bias), dy = taps(x, side * side), torch.empty_like(x)
            return lambda: depthwise._filter_of(weight)(x, weight, bias, bias if side == 3 else None, dy, then=then)

        return call

    def gradients(x: Tensor) -> Callable[[], Any]:
        (weight, bias), g = taps(x, 9), torch.empty_like(x)
        return lambda: depthwise3.gradients(g, x, weight, bias)

    values = {"block_c": (32, 64), "groups_h": (1, 2, 4, 8), "groups_w": (4, 8, 32), "warps": (2, 4, 8)}
    more = {"patch_h": (1, 2), "patch_w": (2, 4), "registers": (None, 128, 168)}
    walks = {
        "programs": (528, 660, 264, 396, 1024, 2048, 4096),
        "registers": (96, 128, None, 168),
        "step": (2, 4, 8),
        "lines": (8, 16, 32),
        "block_c": (32, 64),
        "warps": (2, 4, 8),
    }
    two_channels_of_a_patch = varied(walks, (2 * depthwise3.PATCH, 2 * depthwise3.PATCH))
    calls = {"FORWARD": filter_of(3, ""), "SLOPE": filter_of(3, "gelu slope"), "GRADIENTS": gradients}
    square = Knob(*constant(depthwise, "FILTER"), cases(ATTENTION, filter_of(5, "")), varied(values | more, (8, 64)))
    return {"depthwise.FILTER": square} | {
        f"depthwise3.{name}": Knob(*constant(depthwise3, name), cases(MLP, call), two_channels_of_a_patch)
        for name, call in calls.items()
    }


def strip_knobs() -> dict[str, Knob]:
    """Of what walks along lines."""

    def forward(x: Tensor) -> Callable[[], Any]:
        (lines, bias), y = taps(x, 42), torch.empty_like(x)
        return lambda: strip._walk(x, lines, bias, y, None, strip.BOTH)

    def backward(x: Tensor) -> Callable[[], Any]:
        (lines, _), y = taps(x, 42), torch.empty_like(x)
        return lambda: merged_taps(strip._walk(x, lines, None, y, x, strip.BOTH), 42)

    def squares(x: Tensor) -> Callable[[], Any]:
        return lambda: tap_gradients.tap_gradients(x, x, side=5)

    values = {
        "step": (4, 8),
        "registers": (None, 128, 168),
        "programs": (264, 396, 528, 660),
        "lines": (4, 8, 16),
        "warps": (2, 4, 8),
    }
    walks = varied(values, (1, 2))
    return {
        "strip.FORWARD": Knob(*constant(strip, "FORWARD"), cases(ATTENTION, forward), walks),
        "strip.BACKWARD": Knob(*constant(strip, "BACKWARD"), cases(ATTENTION, backward), walks),
        "tap_gradients.SQUARES": Knob(*constant(tap_gradients, "SQUARES"), cases(ATTENTION, squares), walks),
    }


# Stages, lines, programs and registers. With two stages a tile's loads are not in registers, and the shared memory says
# how many programs a processor has room for; more lines than these take more than narrow.ROOM.
PACES = {
    "RESULT": [
        (2, 4, 264),
        (2, 2, 264),
        (1, 2, 528, 128),
        (1, 3, 396, 168),
        (1, 4, 396),
        (1, 2, 528),
        (1, 4, 264, 255),
    ],
    "SUMS": [(1, 2, 396, 168), (1, 4, 396, 168), (1, 4, 264, 255), (2, 2, 264), (2, 1, 528), (1, 4, 396)],
    "BOTH": [(1, 2, 264, 255), (1, 4, 264, 255), (2, 2, 264), (2, 1, 396, 168), (1, 2, 396, 168), (1, 4, 264)],
    "WIDE": [(1, 1, 264, 255), (1, 1, 396, 168), (1, 2, 264), (1, 1, 264)],
}


def narrow_knobs() -> dict[str, Knob]:
    """Of `famseg.kernels.narrow`, in bf16 alone; x is the map or, of a gradient, that of the result."""

    def case(kind: str, channels: int, out: int, side: int, stride: int = 1) -> Case:
        def call(x: Tensor) -> Callable[[], Any]:
            turned = kind in ("of map", "of both")
            weight = torch.randn(*((channels, out) if turned else (out, channels)), 3, 3, device=x.device)
            other = narrow._result(x, out, stride).normal_()
            if kind in ("result", "of map"):
                return lambda: narrow._convolve(x, weight, other, stride, turned)
            gradients = torch.empty_like(weight), torch.empty_like(other) if turned else None
            return lambda: narrow._sum_products(x, other, stride, weight, *gradients)

        return Case(f"{kind}, {channels} to {out} ch {side}x{side}", channels, side, 1, call)

    of = {
        "RESULT": [
            *(case("result", 16, 16, side) for side in (512, 256, 128)),
            case("result", 16, 40, 256),
            case("result", 1, 16, 512, 2),
        ],
        "SUMS": [case("of weight", 16, 40, 256), case("of weight", 1, 16, 512, 2)],
        "BOTH": [case("of both", 16, 16, side) for side in (512, 256, 128)],
        "WIDE": [
            *(case("result", 32, out, 128) for out in (32, 40)),
            *(case("of map", *sizes) for sizes in ((40, 16, 256), (32, 32, 128), (40, 32, 128))),
            *(case("of weight", 32, out, 128) for out in (32, 40)),
        ],
    }
    return {
        f"narrow.{name}": Knob(
            *constant(narrow, name), tuple(of[name]), lambda now, paces=paces: [Pace(*numbers) for numbers in paces]
        )
        for name, paces in PACES.items()
    }


# Pixels, stages, programs and registers.
CUTS = {
    "FORWARD": [(64, 2), (64, 3), (64, 4), (128, 3)],
    "BACKWARD": [
        (64, 2, 528, 128),
        (64, 2, 1056, 128),
        (64, 2, 396),
        (64, 3, 396),
        (32, 2, 924),
        (32, 2, 660),
        (32, 3, 660),
    ],
    "BACKWARD_WIDE": [(32, 2, 264), (32, 2, 396), (32, 2, 132), (32, 3, 264), (64, 2, 264), (64, 2, 132)],
}


def gelu_pointwise_knobs() -> dict[str, Knob]:
    """Of `famseg.kernels.gelu_pointwise`, in bf16 alone; x is the wide map."""

    def case(name: str, inner: int, side: int, calls: int, outer: int) -> Case:
        def call(x: Tensor) -> Callable[[], Any]:
            weight = torch.randn(outer, inner, 1, 1, device=x.device).to(x.dtype)
            if name == "FORWARD":
                return lambda: gelu_pointwise.gelu_pointwise(x, weight)
            dy = empty_map(x, outer).normal_()
            return lambda: gelu_pointwise.gelu_pointwise_backward(dy, x, weight)

        return Case(f"{inner} to {outer} ch {side}x{side}", inner, side, calls, call)

    sizes = [(*wide, out[0]) for wide, out in zip(MLP, ATTENTION, strict=True)]
    of = {"FORWARD": sizes, "BACKWARD": sizes[:2], "BACKWARD_WIDE": sizes[2:]}
    return {
        f"gelu_pointwise.{name}": Knob(
            *constant(gelu_pointwise, name),
            tuple(case(name, *size) for size in of[name]),
            lambda now, cuts=cuts: [gelu_pointwise.Cut(*numbers) for numbers in cuts],
        )
        for name, cuts in CUTS.items()
    }
