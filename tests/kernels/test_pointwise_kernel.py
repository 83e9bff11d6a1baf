"""Backward of a 1x1 convolution in one kernel: against the convolution in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import CORNERS, LAYOUTS, assert_like_twin, random_map, random_shapes, relative_norm
from torch import nn

from famseg.kernels.pointwise import pointwise, pointwise_shared, suits
from famseg.layers.basic import padded_pointwise, pointwise_conv, pointwise_conv_shared


def arguments(shape, outer, dtype=torch.float32, device="cpu", layout="channels_last", seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(outer, shape[1], 1, 1, generator=generator) / shape[1] ** 0.5
    bias = torch.randn(outer, generator=generator)
    return random_map(shape, seed, dtype, device, layout), weight.to(device, dtype), bias.to(device, dtype)


def of_both_readers(shared):
    """The result and the map that is handed on, in one: (B, O + I, H, W)."""
    return lambda x, weight, bias=None: torch.cat(shared(x, weight, bias), 1)


def shared_twin(x, weight, bias=None):
    return F.conv2d(x, weight, bias), x


@pytest.mark.parametrize(
    ("shape", "outer", "dtype", "layout"),
    [
        ((1, 1, 1, 1), 1, torch.float32, "channels_last"),
        ((2, 5, 9, 13), 7, torch.float32, "contiguous"),
        ((2, 16, 17, 19), 16, torch.float16, "sliced"),  # the interpreter cannot multiply bf16 matrices
        ((1, 12, 5, 5), 70, torch.float16, "channels_last"),
    ],
)
def test_like_the_twin(shape, outer, dtype, layout, device):
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("no layer asks for float32, see `suits`")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    x, weight, bias = arguments(shape, outer, dtype, device, layout)
    assert_like_twin(pointwise, F.conv2d, (x, weight, bias), tolerance)
    assert_like_twin(pointwise, F.conv2d, (x, weight), tolerance)
    assert_like_twin(of_both_readers(pointwise_shared), of_both_readers(shared_twin), (x, weight, bias), tolerance)


def test_several_tiles_of_a_program(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.pointwise.MANY", 3)
    args = arguments((2, 3, 40, 31), 4, torch.float16, device)
    assert_like_twin(pointwise, F.conv2d, args, 1e-2)


@pytest.mark.parametrize("half", [True, False])
def test_padded(half, device):
    conv = nn.Conv2d(5, 20, 1, bias=False).to(device)
    x, found = random_map((2, 5, 3, 4), 0, device=device).requires_grad_(), []
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        wide = padded_pointwise(x, conv)
        assert wide.shape[1] == 32
        assert not wide[:, 20:].any()
        for y in (wide[:, :20], conv(x)):
            found.append([y, *torch.autograd.grad(y.float().square().sum(), (x, conv.weight))])
    for ours, plain in zip(*found, strict=True):
        assert relative_norm(ours, plain.double()) < (2e-2 if half else 2e-3)  # the latter: TF32


def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((2, 3, 4, 5), 6, torch.float16, device)]
    torch.library.opcheck(torch.ops.famseg.pointwise.default, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("shape", "outer", "dtype", "does"),
    [
        ((2, 32, 4, 4), 256, torch.bfloat16, True),
        ((2, 256, 4, 4), 32, torch.bfloat16, False),
        ((2, 64, 4, 4), 256, torch.bfloat16, False),
        ((2, 32, 4, 4), 32, torch.float32, False),
    ],
)
def test_what_it_suits(shape, outer, dtype, does):
    x, weight, _ = arguments(shape, outer, dtype)
    assert suits(x, weight) == does


def test_it_suits_no_gpu_that_lends_too_little(monkeypatch):
    x, weight, _ = arguments((2, 32, 4, 4), 32, torch.bfloat16)
    monkeypatch.setattr("famseg.kernels.pointwise.lends", lambda device, amount: amount < 2**17)
    assert not suits(x, weight)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_rounds_as_autocast_does(bias, device):
    """In half precision the layer's kernel and the convolution differ by the rounding of sums alone."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 16, 1).to(device), torch.randn(2, 8, 9, 7, device=device, requires_grad=True)
    results = []
    for backend in ("triton", "torch"):
        with torch.autocast(device.type, torch.float16):
            y = pointwise_conv(x, conv, backend, bias)
        inputs = [x, *(p for p in conv.parameters() if bias or p.ndim > 1)]
        results.append([y, *torch.autograd.grad(y.float().square().sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_other_reader_gets_the_map_as_it_was(dtype, device):
    """A float32 map is rounded for the convolution alone."""
    conv, x = nn.Conv2d(8, 16, 1).to(device), torch.randn(2, 8, 9, 7, device=device, dtype=dtype, requires_grad=True)
    with torch.autocast(device.type, torch.float16):
        y, shared = pointwise_conv_shared(x, conv, "triton")
    assert (y.dtype, shared.dtype) == (torch.float16, dtype)
    assert torch.equal(shared, x)
    assert (shared is x) == (dtype == torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_shapes(dtype):
    count = 0
    for seed, shape in enumerate(CORNERS + random_shapes(300, seed=11)):
        outer = shape[1] * (1, 2, 8)[seed % 3] + seed % 2
        args = arguments(shape, outer, dtype, "cuda", LAYOUTS[seed % 3], seed)
        if suits(*args[:2]):
            count += 1
            assert_like_twin(pointwise, F.conv2d, args[: 2 + seed % 2], 1e-2)
            assert_like_twin(of_both_readers(pointwise_shared), of_both_readers(shared_twin), args, 1e-2)
    assert count > 100


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(65, 32, 1024, 1024, dtype=torch.bfloat16, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    weight = arguments((1, 32, 1, 1), 32, torch.bfloat16, "cuda")[1]
    alone = x[-1:].clone(memory_format=torch.channels_last)
    whole, part = (torch.ops.famseg.pointwise_backward(t, t, weight, False)[0] for t in (x, alone))
    assert torch.equal(whole[-1:], part)
