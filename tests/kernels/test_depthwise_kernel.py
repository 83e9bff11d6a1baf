"""Depthwise convolution with bias and GELU: the kernel against PyTorch's functions in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.depthwise import depthwise


def kernel(gelu):
    return lambda *arguments: depthwise(*arguments, gelu)


def twin(gelu):
    def convolve(x, weight, bias):
        side = round(len(weight) ** 0.5)
        square = weight.t().reshape(-1, 1, side, side)
        y = F.conv2d(x, square, bias, padding=side // 2, groups=x.shape[1])
        return F.gelu(y) if gelu else y

    return convolve


def arguments(shape, side, seed, dtype=torch.float32, device="cpu", layout="channels_last"):
    x = random_map(shape, seed, dtype, device, layout)
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(side * side, shape[1], generator=generator) / side
    return x, weight.to(device), torch.randn(shape[1], generator=generator).to(device)


@pytest.mark.parametrize(("side", "gelu"), [(3, True), (5, False)])
@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((1, 1, 1, 1), torch.float32, "channels_last"),
        ((2, 5, 9, 3), torch.float32, "contiguous"),
        ((1, 40, 2, 18), torch.bfloat16, "sliced"),
    ],
)
def test_like_the_twin(shape, dtype, layout, side, gelu, device):
    args = arguments(shape, side, 0, dtype, device, layout)
    assert_like_twin(kernel(gelu), twin(gelu), args, TOLERANCE[dtype])


def test_gelu_far_out(device):
    """Where the bell's tails vanish, and in the middle: the kernel's own erf against PyTorch's."""
    x = torch.linspace(-12, 12, 400, device=device).view(1, 1, 20, 20).requires_grad_()
    weight = torch.zeros(9, 1, device=device)
    weight[4] = 1
    y = depthwise(x, weight, torch.zeros(1, device=device), gelu=True)
    exact = x.detach().double().requires_grad_()
    torch.testing.assert_close(y, F.gelu(exact).float(), atol=1e-6, rtol=0)
    (slope,), (expected,) = (torch.autograd.grad(t.sum(), u) for t, u in ((y, x), (F.gelu(exact), exact)))
    torch.testing.assert_close(slope, expected.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gelu", [True, False])
def test_the_same_bits_every_time(gelu, device):
    def run():
        args = [t.requires_grad_() for t in arguments((2, 16, 11, 9), 3, 3, device=device)]
        return torch.autograd.grad(depthwise(*args, gelu).square().sum(), args)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_result_is_channels_last(device):
    y = depthwise(*arguments((2, 3, 4, 5), 3, 0, device=device, layout="contiguous"), gelu=False)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((1, 3, 4, 5), 3, 0, device=device)]
    torch.library.opcheck(depthwise, (*args, True), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("side", "gelu"), [(3, True), (5, False), (7, False)])
def test_random_shapes(side, gelu, dtype):
    for seed, shape in enumerate(random_shapes(200, seed=side)):
        args = arguments(shape, side, seed, dtype, "cuda", LAYOUTS[seed % 3])
        assert_like_twin(kernel(gelu), twin(gelu), args, TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("gelu", [True, False])
def test_more_elements_than_32_bits_count(gelu):
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    weight, bias = (t.cuda() for t in arguments((1, 64, 1, 1), 3, 0)[1:])
    alone = x[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(depthwise(x, weight, bias, gelu)[-1:], depthwise(alone, weight, bias, gelu))
    dx = [torch.ops.famseg.depthwise_backward(t, t, weight, bias, gelu)[0][-1:] for t in (x, alone)]
    assert torch.equal(*dx)


@pytest.mark.gpu
def test_compiled_and_in_a_graph():
    args = arguments((2, 32, 16, 16), 3, 0, torch.bfloat16, "cuda")
    expected = depthwise(*args, True)
    compiled = torch.compile(lambda *a: depthwise(*a, True), fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        assert torch.equal(compiled(*args), expected)
