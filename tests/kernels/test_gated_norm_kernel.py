"""The gated norm's kernel against the plain layer in float64: value and gradients of map, gate and weight."""

import pytest
import torch
import torch.nn.functional as F
from shapes import CORNERS, LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.gated_norm import gated_norm


def kernel(*args):
    *orders, z, weight = args
    y = torch.stack([y.permute(0, 2, 3, 1) for y in orders])
    return gated_norm(y, z.permute(0, 2, 3, 1), weight, 1e-5).permute(0, 3, 1, 2)


def twin(*args):
    *orders, z, weight = args
    s = (sum(orders) * F.silu(z)).permute(0, 2, 3, 1)
    return F.rms_norm(s, weight.shape, weight, 1e-5).permute(0, 3, 1, 2)


def arguments(shape, dtype, device, layout, seed=0, orders=1):
    weight = torch.linspace(0.5, 1.5, shape[1], device=device)
    return *(random_map(shape, seed + i, dtype, device, layout) for i in range(orders + 1)), weight


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [shape for shape in CORNERS if shape[1] > 1] + [(2, 32, 9, 15), (1, 160, 5, 6)])
def test_small_maps(shape, dtype, device):
    assert_like_twin(kernel, twin, arguments(shape, dtype, device, "channels_last"), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_orders(dtype, device):
    assert_like_twin(kernel, twin, arguments((2, 20, 5, 7), dtype, device, "channels_last", orders=2), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    assert_like_twin(kernel, twin, arguments((2, 20, 4, 6), torch.float32, device, layout), TOLERANCE[torch.float32])


def test_channels_of_a_wider_map(device):
    wide = random_map((2, 50, 4, 6), 3, device=device)
    y, _, weight = arguments((2, 20, 4, 6), torch.float32, device, "channels_last")
    args = (y, wide, weight)
    assert_like_twin(lambda y, z, w: kernel(y, z[:, 7:27], w), lambda y, z, w: twin(y, z[:, 7:27], w), args, 1e-5)


def test_several_tiles_of_a_program(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.gated_norm.PROGRAMS", 3)
    args = arguments((2, 64, 13, 17), torch.float32, device, "channels_last")
    assert_like_twin(kernel, twin, args, TOLERANCE[torch.float32])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, shape in enumerate(random_shapes(200, seed=8, elements=2**19)):
        if shape[1] > 1:  # of one channel the norm is a sign, and its gradient is noise
            args = arguments(shape, dtype, device, LAYOUTS[i % 3], seed=i, orders=1 + i % 2)
            assert_like_twin(kernel, twin, args, TOLERANCE[dtype])
