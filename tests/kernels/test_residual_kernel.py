"""The branch's end, and bias with GELU, against their plain forms in float64: values and all gradients."""

import pytest
import torch
import torch.nn.functional as F
from shapes import CORNERS, LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes
from torch import nn

from famseg.kernels.bias_gelu import bias_gelu
from famseg.kernels.residual import residual
from famseg.layers.strip import StripBlock

SHAPES = [*CORNERS, (3, 32, 9, 11), (2, 160, 5, 7)]


def gelu_twin(z, bias):
    return F.gelu(z + bias[:, None, None])


def functions(keep, other):
    """Kernel and twin as functions of x, branch, bias, scale and, with `other`, a further summand."""

    def kernel(x, branch, bias, scale, *more):
        return residual(x, branch, bias, scale, *more, keep=keep)

    def twin(x, branch, bias, scale, *more):
        factor = scale[:, None, None] * (1 if keep is None else keep[:, None, None, None])
        return x + factor * (branch + bias[:, None, None] + sum(more))

    return kernel, twin


def kept(batch, device):
    """Of three images, the second is dropped."""
    return torch.tensor([1.25, 0.0, 2.0, 1.0, 0.5], device=device)[:batch]


def arguments(shape, dtype, device, other, layout="channels_last", seed=0):
    bias, scale = (torch.linspace(low, low + 1, shape[1], device=device) for low in (-0.4, 0.5))
    x, branch, more = (random_map(shape, seed + i, dtype, device, layout) for i in range(3))
    return (x, branch, bias, scale, more) if other else (x, branch, bias, scale)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_of_small_maps(shape, drop, other, device):
    keep = kept(shape[0], device) if drop else None
    args = arguments(shape, torch.float32, device, other)
    assert_like_twin(*functions(keep, other), args, TOLERANCE[torch.float32])


def test_residual_in_half_precision(device):
    args = arguments((3, 36, 9, 11), torch.bfloat16, device, other=True)
    assert_like_twin(*functions(kept(3, device), True), args, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), torch.float32, device, True, layout)
    assert_like_twin(*functions(None, True), args, TOLERANCE[torch.float32])
    assert_like_twin(bias_gelu, gelu_twin, args[1:3], TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_bias_and_gelu_of_small_maps(shape, dtype, device):
    assert_like_twin(bias_gelu, gelu_twin, arguments(shape, dtype, device, False)[1:3], TOLERANCE[dtype])


def test_several_tiles_of_a_program(device):
    """More than a program has at once: 528 programs of 64 rows and 64 channels."""
    args = arguments((1, 64, 200, 190), torch.float32, device, True)
    assert_like_twin(*functions(None, True), args, TOLERANCE[torch.float32])
    assert_like_twin(bias_gelu, gelu_twin, args[1:3], TOLERANCE[torch.float32])


def test_a_block_in_training_gives_the_same_with_both(device):
    """Values and every gradient, with stochastic depth, which draws the same images with both."""
    torch.manual_seed(0)
    block = StripBlock(16, 4, drop_path=0.5, backend="triton").to(device).train()
    nn.init.uniform_(block.residual1.scale)
    nn.init.uniform_(block.residual2.scale)
    x = random_map((6, 16, 9, 7), 1, device=device)
    results = []
    for backend in ("triton", "torch"):
        block.backend = block.attention.backend = backend
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        y = block(leaf)
        gradients = torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])
        results.append([y, *gradients])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, shape in enumerate(random_shapes(200, seed=11, elements=2**19)):
        other, keep = bool(i % 2), kept(shape[0], device) if i % 3 else None
        args = arguments(shape, dtype, device, other, LAYOUTS[i % 3], seed=i)
        assert_like_twin(*functions(keep, other), args, TOLERANCE[dtype])
        assert_like_twin(bias_gelu, gelu_twin, args[1:3], TOLERANCE[dtype])
