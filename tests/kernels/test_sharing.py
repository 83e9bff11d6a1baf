"""Additions of two gradients of a map, counted below autograd: what its readers' kernels add, autograd need not."""

import pytest
import torch
from shapes import random_map
from torch.profiler import ProfilerActivity, profile

from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.strip import StripBlock

SHAPE = 1, 16, 2, 3


def additions(layer, dtype, device):
    """Of maps of SHAPE, in the layer's backward pass."""
    layer = layer.to(device, memory_format=torch.channels_last).train()
    x = random_map(SHAPE, 0, dtype, device).requires_grad_()
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        y.sum().backward()
    events = seen.key_averages(group_by_input_shape=True)
    return sum(e.count for e in events if e.key in ("aten::add", "aten::add_") and e.input_shapes[0] == list(SHAPE))


@pytest.mark.parametrize(("backend", "dtype", "expected"), [
    ("torch", torch.float32, 5),  # x twice, n, what attention scans and gates, and what it scans two ways
    ("triton", torch.float32, 1),  # n, since 1x1 convolutions have a kernel for half precision alone
    pytest.param("triton", torch.bfloat16, 0, marks=pytest.mark.slow),
])  # fmt: skip
def test_of_a_strip_block(backend, dtype, expected, device):
    block = StripBlock(SHAPE[1], 2, kernels=(3,), backend=backend)
    assert additions(block, dtype, device) == expected


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 1), (torch.bfloat16, 0)])
def test_of_fam(dtype, expected, device):
    assert additions(FeatureAwareUpsample(SHAPE[1], 8, 16, kernel=3, backend="triton"), dtype, device) == expected


@pytest.mark.slow
def test_a_compiled_block_has_no_graph_break(device):
    """There a map is handed on by no Function, and gradients are the same."""
    block = StripBlock(SHAPE[1], 2, kernels=(3,), backend="triton").to(device).train()
    x, found = random_map(SHAPE, 0, device=device).requires_grad_(), []
    for layer in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
        y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
