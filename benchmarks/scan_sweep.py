"""GPU time of the scan's and the factorisation's kernels over their cuts: chunk, tile, warps.

    python benchmarks/scan_sweep.py

A time is the median over replays of one CUDA graph with the op alone, forward or forward and backward, bf16, batch 16.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from famseg.kernels import nmf, scan

BATCH = 16
MAPS = ((32, 128), (64, 64), (160, 32), (256, 16))  # channels, side


def graph_ms(function: Callable[[], Any]) -> float:
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(function, rep=50, return_mode="median")


def scans(channels: int, side: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward, and forward and backward, of a map in four directions with heads 32 wide and 16 states."""
    heads = channels // 32
    mixed = torch.randn(BATCH, side, side, channels + 32, device="cuda").bfloat16().requires_grad_()
    dt = torch.randn(BATCH, side, side, 4 * heads, device="cuda").bfloat16().requires_grad_()
    parameters = [torch.full((4 * heads,), v, device="cuda", requires_grad=True) for v in (-4.0, 2.0, 1.0)]
    inputs = mixed, dt, *parameters  # bias, A_log, skip
    upstream = torch.randn(BATCH, side, side, channels, device="cuda").bfloat16().expand(2, -1, -1, -1, -1)

    def forward() -> Tensor:
        return scan.scan_map([mixed, mixed], *inputs[1:], 2, 16)

    return forward, lambda: torch.autograd.grad(forward(), inputs, upstream)


def report(title: str, rows: list[tuple[float, str]]) -> None:
    best = "; ".join(f"{ms:.4f} {cut}" for ms, cut in sorted(rows)[:4])
    print(f"{title}: {best}", flush=True)


def attempt(function: Callable[[], Any], cut: str) -> Iterator[tuple[float, str]]:
    try:
        function()
        yield graph_ms(function), cut
    except Exception as error:  # a cut may need more shared memory than there is
        print(f"{cut}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")


def sweep_scan() -> None:
    launches = {name: dict(options) for name, options in scan.LAUNCH.items()}
    for channels, side in MAPS:
        forward, both = scans(channels, side)
        rows: dict[str, list[tuple[float, str]]] = {"forward": [], "forward and backward": []}
        for chunk in (32, 64, 128):
            scan.CHUNK = chunk
            for warps in (2, 4, 8):
                scan.LAUNCH["outputs"] = {"num_warps": warps}
                rows["forward"] += attempt(forward, f"chunk {chunk}, outputs {warps} warps")
            scan.LAUNCH["outputs"] = launches["outputs"]
            for warps, stages, registers in itertools.product((2, 4, 8), (1, 2), (128, 168, 255)):
                scan.LAUNCH["gradients"] = {"num_warps": warps, "num_stages": stages, "maxnreg": registers}
                cut = f"chunk {chunk}, gradients {warps} warps, {stages} stages, {registers} registers"
                rows["forward and backward"] += attempt(both, cut)
        for mode, found in rows.items():
            report(f"scan {channels} ch {side}x{side}, {mode}", found)


def sweep_nmf() -> None:
    for side, rank in ((64, 16), (16, 16), (64, 64)):
        x = torch.rand(BATCH, side * side, 256, device="cuda").bfloat16().requires_grad_()
        basis, upstream = torch.rand(256, rank, device="cuda"), torch.rand_like(x)
        rows: list[tuple[float, str]] = []
        name, values = ("RUN", (2, 4, 8)) if rank <= nmf.MOST_RANK else ("CHANNELS", (32, 64, 128))
        for nmf.TILE, value, nmf.WARPS in itertools.product((32, 64, 128), values, (4, 8)):
            setattr(nmf, name, value)
            cut = f"tile {nmf.TILE}, {name} {value}, {nmf.WARPS} warps"
            rows += attempt(lambda: torch.autograd.grad(nmf.factorise(x, basis, 6), x, upstream), cut)  # noqa: B023
        report(f"NMF 256 ch {side}x{side}, rank {rank}, 6 steps", rows)


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), torch.__version__)
    sweep_nmf()
    sweep_scan()
