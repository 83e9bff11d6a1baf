"""Depthwise 3x3 with bias and SiLU: the kernel against PyTorch's functions in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.depthwise_silu import depthwise_silu, depthwise_silu_backward, depthwise_silu_twice
from famseg.kernels.lines import Walk


def twin(x, weight, bias):
    return F.silu(F.conv2d(x, weight.t().reshape(-1, 1, 3, 3), bias, padding=1, groups=x.shape[1]))


def arguments(shape, dtype=torch.float32, device="cpu", layout="channels_last", seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    weight, bias = (torch.randn(*size, shape[1], generator=generator).to(device) for size in ((9,), ()))
    return random_map(shape, seed, dtype, device, layout), weight / 3, bias


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((1, 1, 1, 1), torch.float32, "channels_last"),
        ((1, 20, 3, 2), torch.bfloat16, "contiguous"),
        pytest.param((1, 5, 6, 9), torch.float32, "sliced", marks=pytest.mark.slow),
    ],
)
def test_like_the_twin(shape, dtype, layout, device):
    assert_like_twin(depthwise_silu, twin, arguments(shape, dtype, device, layout), TOLERANCE[dtype])


@pytest.mark.slow
def test_two_readers_of_channels_of_a_wider_map(device, monkeypatch):
    """Nothing is copied. Tiles' borders are everywhere on the map: patches of two lines, runs of four pixels."""
    monkeypatch.setattr("famseg.kernels.lines.RUNS", (4,))
    monkeypatch.setattr("famseg.kernels.depthwise3.PATCH", 2)
    for name in ("FORWARD", "SLOPE", "GRADIENTS"):
        monkeypatch.setattr(f"famseg.kernels.depthwise3.{name}", Walk(lines=4, step=2, programs=3, block_c=4))
    monkeypatch.setattr("famseg.kernels.rows.channels_last", lambda x: pytest.fail("copied"))
    wide, (_, *parameters) = random_map((1, 9, 5, 6), 3, device=device), arguments((1, 5, 5, 6), device=device)

    def ours(wide, weight, bias):
        y, again = depthwise_silu_twice(wide[:, 3:8], weight, bias)
        return y + 2 * again

    def plain(wide, weight, bias):
        return 3 * twin(wide[:, 3:8], weight, bias)

    assert_like_twin(ours, plain, (wide, *parameters), TOLERANCE[torch.float32])


@pytest.mark.slow
def test_as_the_compiler_sees_it(device):
    _, *parameters = arguments((1, 4, 4, 5), device=device)
    x, checks = random_map((1, 6, 4, 5), 0, device=device)[:, 1:5], ("test_schema", "test_faketensor")
    torch.library.opcheck(depthwise_silu, (x, *parameters), test_utils=checks)
    torch.library.opcheck(depthwise_silu_backward, (torch.ones_like(x), x, *parameters), test_utils=checks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_shapes(dtype):
    for seed, shape in enumerate(random_shapes(100, seed=9)):
        args = arguments(shape, dtype, "cuda", LAYOUTS[seed % 3], seed)
        assert_like_twin(depthwise_silu, twin, args, TOLERANCE[dtype])
