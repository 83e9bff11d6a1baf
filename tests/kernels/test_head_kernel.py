"""The head's kernel against a 1x1 convolution in float64: value and gradients of map, weight and bias."""

import pytest
import torch
import torch.nn.functional as F
from shapes import CORNERS, LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.head import head, suits


def twin(x, weight, bias):
    return F.conv2d(x, weight[..., None, None], bias)


def arguments(shape, classes, dtype, device, layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, shape[1], generator=generator).to(device)
    return random_map(shape, seed, dtype, device, layout), weight, torch.randn(classes, generator=generator).to(device)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("shape", [*CORNERS, (2, 16, 33, 41)])
def test_small_maps(shape, classes, dtype, device):
    assert_like_twin(head, twin, arguments(shape, classes, dtype, device, "channels_last"), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), 3, torch.float32, device, layout)
    assert_like_twin(head, twin, args, TOLERANCE[torch.float32])


def test_several_tiles_of_a_program(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.head.PROGRAMS", 3)
    args = arguments((2, 16, 40, 31), 3, torch.float32, device, "channels_last")
    assert_like_twin(head, twin, args, TOLERANCE[torch.float32])


def test_the_output_is_channels_last_and_so_says_the_fake_kernel(device):
    args = arguments((2, 16, 4, 6), 3, torch.float32, device, "contiguous")
    result = head(*args)
    assert result.is_contiguous(memory_format=torch.channels_last)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = head(*(mode.from_tensor(t) for t in args))
    assert (fake.shape, fake.stride()) == (result.shape, result.stride())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, shape in enumerate(random_shapes(200, seed=6, elements=2**19)):
        classes = 2 + i % 3
        x, *parameters = arguments(shape, classes, dtype, device, LAYOUTS[i % 3], seed=i)
        if suits(x, classes):
            assert_like_twin(head, twin, (x, *parameters), TOLERANCE[dtype])
