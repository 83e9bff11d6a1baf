"""Depthwise convolution with bias and GELU: the kernel against PyTorch's functions in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes

from famseg.kernels.depthwise import depthwise
from famseg.kernels.lines import Walk
from famseg.kernels.tap_gradients import tap_gradients


def kernel(gelu):
    return lambda x, weight, bias, *input_bias: depthwise(x, weight, bias, gelu, *input_bias)


def twin(gelu):
    def convolve(x, weight, bias, *input_bias):
        for b in input_bias:
            x = x + b.view(-1, 1, 1)
        side = round(len(weight) ** 0.5)
        square = weight.t().reshape(-1, 1, side, side)
        y = F.conv2d(x, square, bias, padding=side // 2, groups=x.shape[1])
        return F.gelu(y) if gelu else y

    return convolve


def arguments(shape, side, seed, dtype=torch.float32, device="cpu", layout="channels_last", biases=1):
    """Input, weight, bias and, as the second of the biases, the input's: of the numbers that its dtype has."""
    x = random_map(shape, seed, dtype, device, layout)
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(side * side, shape[1], generator=generator) / side
    if biases == 2:  # a channel's weights may not sum to nothing: the input's bias has as gradient what is left of them
        weight[side * side // 2] += 4
    both = torch.randn(2, shape[1], generator=generator)
    both[1] = both[1].to(dtype)
    return x, weight.to(device), *both[:biases].to(device)


@pytest.mark.parametrize(("side", "gelu", "biases"), [(3, True, 1), (3, True, 2), (5, False, 1)])
@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((1, 1, 1, 1), torch.bfloat16, "channels_last"),
        ((2, 5, 9, 3), torch.float32, "contiguous"),
        pytest.param((1, 40, 2, 18), torch.bfloat16, "sliced", marks=pytest.mark.slow),  # the interpreter takes 5 s
    ],
)
def test_like_the_twin(shape, dtype, layout, side, gelu, biases, device):
    args = arguments(shape, side, 0, dtype, device, layout, biases)
    assert_like_twin(kernel(gelu), twin(gelu), args, TOLERANCE[dtype])


@pytest.mark.parametrize("side", [5, 7])
def test_several_tiles_of_a_program(side, device, monkeypatch):
    """Of the taps' gradients: the last ones cut off; 7 x 7 is more than one program sums."""
    monkeypatch.setattr("famseg.kernels.lines.RUNS", (4,))
    monkeypatch.setattr("famseg.kernels.tap_gradients.SQUARES", Walk(lines=2, step=2, programs=3, block_c=4))
    x, g = (random_map((1, 3, 3, 5), seed, device=device) for seed in range(2))
    dweight, dbias = tap_gradients(g, x, side)
    weight = torch.zeros(3, 1, side, side, dtype=torch.float64, device=device, requires_grad=True)
    y = F.conv2d(x.double(), weight, padding=side // 2, groups=3)
    (expected,) = torch.autograd.grad(y, weight, g.double())
    torch.testing.assert_close(dweight, expected.flatten(1).t().float())
    torch.testing.assert_close(dbias, g.sum((0, 2, 3))[None])


@pytest.mark.parametrize("shape", [pytest.param((2, 5, 6, 7), marks=pytest.mark.slow), (1, 3, 1, 9), (3, 2, 11, 1)])
def test_several_tiles_of_a_program_of_3x3(shape, device, monkeypatch):
    """Patches of two lines, runs of four pixels: borders of tiles lie everywhere on the map."""
    monkeypatch.setattr("famseg.kernels.lines.RUNS", (4,))
    monkeypatch.setattr("famseg.kernels.depthwise3.PATCH", 2)
    for name in ("FORWARD", "SLOPE", "GRADIENTS"):
        monkeypatch.setattr(f"famseg.kernels.depthwise3.{name}", Walk(lines=4, step=2, programs=3, block_c=4))
    args = arguments(shape, 3, 0, device=device, biases=2)
    assert_like_twin(kernel(True), twin(True), args, TOLERANCE[torch.float32])


def test_without_gelu_and_with_a_bias_of_the_input(device):
    args = arguments((2, 3, 5, 7), 3, 0, device=device, biases=2)
    assert_like_twin(kernel(False), twin(False), args, TOLERANCE[torch.float32])


@pytest.mark.parametrize(("side", "gelu"), [(3, True), pytest.param(7, False, marks=pytest.mark.slow)])
def test_without_a_bias(side, gelu, device):
    x, weight, _ = arguments((2, 3, 5, 7), side, 0, device=device)
    assert_like_twin(
        lambda *args: depthwise(*args, None, gelu), lambda *args: twin(gelu)(*args, None), (x, weight), 1e-5
    )


def test_padding_has_no_bias(device):
    """A map of nothing but the input's bias: each output counts the taps that lie on the map."""
    x, ones = torch.zeros(1, 1, 3, 4, device=device), torch.ones(9, 1, device=device)
    y = depthwise(x, ones, torch.zeros(1, device=device), False, torch.full((1,), 100.0, device=device))
    expected = torch.tensor([[4.0, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], device=device) * 100
    torch.testing.assert_close(y[0, 0], expected)


def test_gelu_far_out(device):
    """Where the bell's tails vanish, and in the middle: the kernel's own erf against PyTorch's."""
    x = torch.linspace(-12, 12, 128, device=device).view(1, 1, 8, 16).requires_grad_()
    weight = torch.zeros(9, 1, device=device)
    weight[4] = 1
    y = depthwise(x, weight, torch.zeros(1, device=device), gelu=True)
    exact = x.detach().double().requires_grad_()
    torch.testing.assert_close(y, F.gelu(exact).float(), atol=1e-6, rtol=0)
    (slope,), (expected,) = (torch.autograd.grad(t.sum(), u) for t, u in ((y, x), (F.gelu(exact), exact)))
    torch.testing.assert_close(slope, expected.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gelu", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_same_bits_every_time(gelu, device):
    def run():
        args = [t.requires_grad_() for t in arguments((2, 4, 5, 9), 3, 3, device=device, biases=2)]
        return torch.autograd.grad(kernel(gelu)(*args).square().sum(), args)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_result_is_channels_last(device):
    y = depthwise(*arguments((2, 3, 4, 5), 3, 0, device=device, layout="contiguous"), gelu=False)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_as_the_compiler_sees_it(device):
    *args, input_bias = [t.requires_grad_() for t in arguments((1, 3, 4, 5), 3, 0, device=device, biases=2)]
    torch.library.opcheck(depthwise, (*args, True, input_bias), test_utils=("test_schema", "test_faketensor"))
    dy = torch.ones_like(args[0])
    for side, last in ((3, input_bias), (3, None), (5, None)):
        weight = torch.ones(side * side, 3, device=device)
        backward = torch.ops.famseg.depthwise_backward
        torch.library.opcheck(backward, (dy, args[0], weight, args[2], True, last), test_utils=("test_faketensor",))


def test_gradients_lie_as_parameters_do(device):
    """Autograd keeps them as they are, instead of a copy."""
    weight = torch.randn(3, 1, 3, 3, device=device, requires_grad=True)
    x, _, bias = arguments((1, 3, 4, 5), 3, 0, device=device)
    (gradient,) = torch.autograd.grad(depthwise(x, weight.flatten(1).t().contiguous(), bias, True).sum(), weight)
    assert gradient.stride() == weight.stride()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("side", "gelu", "biases"), [(3, True, 1), (3, True, 2), (3, False, 2), (5, False, 1), (7, False, 2)]
)
def test_random_shapes(side, gelu, biases, dtype):
    for seed, shape in enumerate(random_shapes(200, seed=side)):
        args = arguments(shape, side, seed, dtype, "cuda", LAYOUTS[seed % 3], biases)
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
