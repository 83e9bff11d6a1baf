"""The Hamburger's end against its plain form in float64: value and gradients of both maps, weight and bias."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.group_norm import add_norm_relu
from famseg.layers.hamburger import Hamburger

GROUPS = 4
SHAPES = [(2, 4, 5, 1), (2, 8, 1, 37), (1, 12, 9, 14), (3, 80, 7, 5), (1, 260, 3, 4)]


def kernel(x, h, weight, bias):
    return add_norm_relu(x, h, weight, bias, GROUPS, 1e-5)


def twin(x, h, weight, bias):
    return F.relu(x + F.group_norm(h, GROUPS, weight, bias))


def arguments(shape, dtype, device, layout="channels_last", seed=0, mean=0.0):
    """The first map is far from where the ReLU bends: there, rounding would decide a gradient."""
    h = random_map(shape, seed + 1, dtype, device, layout)
    x = random_map(shape, seed, dtype, device, layout)
    x = x + 20 * torch.where(x > 0, 1, -1).to(dtype)
    weight, bias = (torch.linspace(low, low + 1, shape[1], device=device) for low in (0.5, -0.5))
    return x, h + mean, weight, bias


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_maps(shape, dtype, device):
    assert_like_twin(kernel, twin, arguments(shape, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    assert_like_twin(kernel, twin, arguments((2, 20, 4, 6), torch.float32, device, layout), TOLERANCE[torch.float32])


def test_several_tiles_of_a_program(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.group_norm.CHUNKS", 3)
    monkeypatch.setattr("famseg.kernels.group_norm.HELD", 64)
    assert_like_twin(kernel, twin, arguments((2, 8, 13, 17), torch.float32, device), TOLERANCE[torch.float32])


def test_far_from_zero(device):
    args = arguments((2, 8, 13, 17), torch.float32, device, mean=1000.0)
    assert_like_twin(kernel, twin, args, 2e-4)  # float32 has 4 digits left of a deviation of 1


def test_the_layer_gives_the_same_with_both(device):
    torch.manual_seed(0)
    layer = Hamburger(64, 4, backend="triton").to(device).eval()
    x = random_map((1, 64, 3, 5), 0, device=device)
    ours = layer(x)
    layer.backend = layer.ham.backend = "torch"
    torch.testing.assert_close(ours, layer(x), rtol=1e-4, atol=1e-5)


def test_as_the_compiler_sees_it(device):
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    args = [t.requires_grad_() for t in arguments((2, 8, 3, 4), torch.float32, device, "contiguous")]
    torch.library.opcheck(torch.ops.famseg.add_norm_relu.default, (*args, GROUPS, 1e-5), test_utils=checks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=9, elements=2**19)):
        shape = (b, 4 * -(-c // 4), h, w + 4)  # of two numbers a norm gives signs, and its gradient is noise
        assert_like_twin(kernel, twin, arguments(shape, dtype, device, LAYOUTS[i % 3], seed=i), TOLERANCE[dtype])
