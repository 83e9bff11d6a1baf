"""Bias and product against their plain form in float64: values and all gradients."""

import pytest
import torch
from shapes import CORNERS, LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.bias_product import bias_product
from famseg.layers.strip import StripAttention

SHAPES = [*CORNERS, (3, 32, 9, 11), (2, 160, 5, 7)]


def twin(z, bias, x):
    return (z + bias[:, None, None]) * x


def arguments(shape, dtype, device, layout="channels_last", seed=0):
    z, x = (random_map(shape, seed + i, dtype, device, layout) for i in range(2))
    return z, torch.linspace(-0.4, 0.6, shape[1], device=device), x


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_maps(shape, dtype, device):
    assert_like_twin(bias_product, twin, arguments(shape, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), torch.float32, device, layout)
    assert_like_twin(bias_product, twin, args, TOLERANCE[torch.float32])


def test_several_tiles_of_a_program(device, monkeypatch):
    """Of 19 tiles of 32 rows, 4 programs have 5, 5, 5 and 4, the last one cut off."""
    monkeypatch.setattr("famseg.kernels.rows.PROGRAMS", 4)
    args = arguments((1, 64, 20, 30), torch.float32, device)
    assert_like_twin(bias_product, twin, args, TOLERANCE[torch.float32])


def test_as_the_compiler_sees_it(device):
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    args = [t.requires_grad_() for t in arguments((2, 3, 4, 5), torch.float32, device)]
    torch.library.opcheck(torch.ops.famseg.bias_product.default, args, test_utils=checks)


def test_an_attention_too_wide_for_the_gate(device):
    """In float32 every one is: values and every gradient."""
    torch.manual_seed(0)
    attention = StripAttention(5, kernels=(3, 5), backend="triton").to(device)
    x = random_map((2, 5, 3, 4), 1, device=device).requires_grad_()
    results = []
    for backend in ("triton", "torch"):
        attention.backend = backend
        y = attention(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *attention.parameters()])])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(device):
    """The last image alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device=device)
    x, bias = x.contiguous(memory_format=torch.channels_last), torch.randn(64, device=device)

    def last_image(t):
        dz, _, dx = torch.ops.famseg.bias_product_backward(t, t, bias, t)
        return bias_product(t, bias, t)[-1:], dz[-1:], dx[-1:]

    alone = last_image(x[-1:].clone(memory_format=torch.channels_last))
    assert all(torch.equal(a, b) for a, b in zip(last_image(x), alone, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, shape in enumerate(random_shapes(200, seed=15, elements=2**19)):
        args = arguments(shape, dtype, device, LAYOUTS[i % 3], seed=i)
        assert_like_twin(bias_product, twin, args, TOLERANCE[dtype])
