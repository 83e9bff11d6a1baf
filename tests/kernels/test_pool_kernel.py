"""The average pool's kernel against PyTorch's in float64: value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.pool import average_pool
from famseg.layers.residual import ConvolutionBlock

SHAPES = [(1, 1, 2, 2), (2, 3, 4, 6), (2, 16, 3, 2), (1, 80, 7, 5), (3, 65, 2, 9), (2, 32, 10, 11)]


def twin(x):
    return F.avg_pool2d(x, 2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_maps(shape, dtype, device):
    assert_like_twin(average_pool, twin, [random_map(shape, 0, dtype, device)], TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    x = random_map((2, 20, 5, 6), 0, device=device, layout=layout)
    assert_like_twin(average_pool, twin, [x], TOLERANCE[torch.float32])


def test_as_the_compiler_sees_it(device):
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    x = random_map((2, 3, 5, 4), 0, device=device, layout="contiguous").requires_grad_()
    torch.library.opcheck(torch.ops.famseg.average_pool.default, (x,), test_utils=checks)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_the_block_pools_as_it_is_told(backend, device, monkeypatch):
    calls = []
    monkeypatch.setattr("famseg.kernels.pool.average_pool", lambda x: calls.append(1) or twin(x))
    ConvolutionBlock(4, 8, backend).to(device)(random_map((2, 4, 6, 10), 0, device=device))
    assert len(calls) == (backend == "triton")


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(device):
    """The last image alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def last_image(t):
        y = average_pool(t)
        return y[-1:], torch.ops.famseg.average_pool_backward(y, 1024, 1024)[-1:]

    alone = last_image(x[-1:].clone(memory_format=torch.channels_last))
    assert all(torch.equal(a, b) for a, b in zip(last_image(x), alone, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=14, elements=2**19)):
        x = random_map((b, c, h + 1, w + 1), i, dtype, device, LAYOUTS[i % 3])
        assert_like_twin(average_pool, twin, [x], TOLERANCE[dtype])
