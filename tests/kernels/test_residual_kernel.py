"""The branch's end, and bias with and without GELU, against their plain forms in float64: values and all gradients."""

import pytest
import torch
import torch.nn.functional as F
from shapes import CORNERS, LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes
from torch import nn

from famseg.kernels.bias_gelu import add_bias, bias_gelu, bias_gelu_twice, bias_relu
from famseg.kernels.residual import residual
from famseg.layers.basic import pointwise_conv
from famseg.layers.strip import StripBlock

SHAPES = [*CORNERS, (3, 32, 9, 11), (2, 160, 5, 7)]


def bias_twin(z, bias):
    return z + bias[:, None, None]


def gelu_twin(z, bias):
    return F.gelu(bias_twin(z, bias))


def gelu_of_both_readers(z, bias):
    return torch.cat(bias_gelu_twice(z, bias))


def gelu_twin_of_both_readers(z, bias):
    return torch.cat(2 * [gelu_twin(z, bias)])


def square_of_relu(z, bias):
    """A reader without gradient where it reads zero."""
    return bias_relu(z, bias).square()


def square_of_relu_twin(z, bias):
    return F.relu(bias_twin(z, bias)).square()


BIASES = [
    (bias_gelu, gelu_twin),
    (add_bias, bias_twin),
    (gelu_of_both_readers, gelu_twin_of_both_readers),
    (square_of_relu, square_of_relu_twin),
]
KINDS = ["bias and GELU", "bias", "bias and GELU, two readers"]


RATE = 0.3


def functions(draws, other):
    """Kernel and twin as functions of x, branch, bias, scale and, with `other`, a further summand."""

    def kernel(x, branch, bias, scale, *more):
        return residual(x, branch, bias, scale, *more, draws=draws, rate=RATE)

    def twin(x, branch, bias, scale, *more):
        keep = 1 if draws is None else (draws >= RATE)[:, None, None, None] / (1 - RATE)
        return x + scale[:, None, None] * keep * (branch + bias[:, None, None] + sum(more))

    return kernel, twin


def drawn(batch, device):
    """Of three images, the second is dropped, and the third, which has the rate itself, is not."""
    return torch.tensor([0.9, 0.1, RATE, 0.0, 0.5], device=device)[:batch]


def arguments(shape, dtype, device, other, layout="channels_last", seed=0):
    bias, scale = (torch.linspace(low, low + 1, shape[1], device=device) for low in (-0.4, 0.5))
    x, branch, more = (random_map(shape, seed + i, dtype, device, layout) for i in range(3))
    return (x, branch, bias, scale, more) if other else (x, branch, bias, scale)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_of_small_maps(shape, drop, other, device):
    draws = drawn(shape[0], device) if drop else None
    args = arguments(shape, torch.float32, device, other)
    assert_like_twin(*functions(draws, other), args, TOLERANCE[torch.float32])


def test_residual_in_half_precision(device):
    args = arguments((3, 36, 9, 11), torch.bfloat16, device, other=True)
    assert_like_twin(*functions(drawn(3, device), True), args, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), torch.float32, device, True, layout)
    assert_like_twin(*functions(None, True), args, TOLERANCE[torch.float32])
    for kernel, twin in BIASES:
        assert_like_twin(kernel, twin, args[1:3], TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "twin"), BIASES[:3], ids=KINDS)  # ReLU differs by a line: below
def test_biases_of_small_maps(kernel, twin, shape, dtype, device):
    assert_like_twin(kernel, twin, arguments(shape, dtype, device, False)[1:3], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_convolution_with_such_a_bias(dtype, device):
    """Its gradients are of the parameters' dtype, and its numbers those of the plain convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 5, 1).to(device)
    x = random_map((2, 12, 3, 4), 1, device=device).requires_grad_()
    leaves, results = (x, conv.weight, conv.bias), []
    for backend in ("triton", "torch"):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            y = pointwise_conv(x, conv, backend)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), leaves)])
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype
        torch.testing.assert_close(ours, plain, rtol=TOLERANCE[dtype], atol=5 * TOLERANCE[dtype])


def test_several_tiles_of_a_program(device, monkeypatch):
    """More than a program has at once: of 10 tiles of 64 rows, 4 programs have 3, 3, 3 and 1, the last one cut off."""
    monkeypatch.setattr("famseg.kernels.rows.PROGRAMS", 4)
    args = arguments((1, 64, 20, 30), torch.float32, device, True)
    assert_like_twin(*functions(None, True), args, TOLERANCE[torch.float32])
    for kernel, twin in BIASES:
        assert_like_twin(kernel, twin, args[1:3], TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("channels", "scan"), [(4, "independent"), pytest.param(5, "sequential", marks=pytest.mark.slow)]
)
def test_a_block_in_training_gives_the_same_with_both(channels, scan, device):
    """Values and every gradient, with stochastic depth, which draws the same images with both."""
    torch.manual_seed(0)
    block = StripBlock(channels, 2, kernels=(3, 5), scan=scan, drop_path=0.5, backend="triton").to(device).train()
    nn.init.uniform_(block.residual1.scale)
    nn.init.uniform_(block.residual2.scale)
    x = random_map((3, channels, 3, 4), 1, device=device)
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


@pytest.mark.parametrize("trunk", TOLERANCE)
def test_maps_of_two_dtypes(trunk, device):
    """Autocast's branch on a trunk of another dtype: the result has the trunk's, each gradient that of its tensor."""
    x, branch, bias, scale, other = arguments((3, 20, 5, 7), torch.float32, device, other=True)
    half = torch.bfloat16 if trunk == torch.float32 else torch.float32
    args = x.to(trunk), branch.to(half), bias, scale, other.to(trunk)
    kernel, twin = functions(drawn(3, device), True)
    assert_like_twin(kernel, twin, args, TOLERANCE[torch.bfloat16])
    leaves = [t.requires_grad_() for t in args]
    y = kernel(*leaves)
    assert y.dtype == trunk
    assert [g.dtype for g in torch.autograd.grad(y.sum(), leaves)] == [t.dtype for t in leaves]


def test_dropped_images_pass_unchanged(device):
    x, *branch = arguments((3, 5, 6, 7), torch.float32, device, other=True)
    y = functions(drawn(3, device), True)[0](x, *branch)
    assert torch.equal(y[1], x[1])
    assert not torch.equal(y[0], x[0])


@pytest.mark.parametrize("other", [False, True])
def test_as_the_compiler_sees_it(other, device):
    x, branch, bias, scale, *more = (
        t.requires_grad_() for t in arguments((2, 3, 4, 5), torch.float32, device, other=other)
    )
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    everything = x, branch, bias, scale, more[0] if other else None, drawn(2, device), RATE
    torch.library.opcheck(torch.ops.famseg.residual.default, everything, test_utils=checks)
    for op in (torch.ops.famseg.bias_gelu, torch.ops.famseg.add_bias, torch.ops.famseg.bias_relu):
        torch.library.opcheck(op.default, (x, bias), test_utils=checks)


@pytest.mark.gpu
def test_the_same_bits_every_time(device):
    args = [t.requires_grad_() for t in arguments((16, 32, 128, 128), torch.bfloat16, device, other=True)]
    draws = torch.rand(16, device=device)

    def run():
        y = add_bias(bias_gelu(functions(draws, True)[0](*args), args[2]), args[2])
        return y, *torch.autograd.grad(y.float().square().sum(), args)

    first = run()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, run(), strict=True))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(device):
    """The last image alone gives what it gives at the end of a batch of 2^31 elements and more."""
    shape = 33, 64, 1024, 1024
    x = torch.randn(shape, dtype=torch.bfloat16, device=device).contiguous(memory_format=torch.channels_last)
    (bias, scale), draws = torch.randn(2, 64, device=device), torch.rand(33, device=device)

    def last_image(t):
        own = draws[-len(t) :]
        results = (
            residual(t, t, bias, scale, t, own, RATE),
            torch.ops.famseg.residual_backward(t, t, bias, scale, t, own, RATE)[0],
            bias_gelu(t, bias),
            torch.ops.famseg.bias_gelu_backward(t, t, bias)[0],
            add_bias(t, bias),
            bias_relu(t, bias),
        )
        return [result[-1:] for result in results]

    alone = last_image(x[-1:].clone(memory_format=torch.channels_last))
    assert all(torch.equal(a, b) for a, b in zip(last_image(x), alone, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, shape in enumerate(random_shapes(200, seed=11, elements=2**19)):
        other, draws = bool(i % 2), drawn(shape[0], device) if i % 3 else None
        args = arguments(shape, dtype, device, other, LAYOUTS[i % 3], seed=i)
        assert_like_twin(*functions(draws, other), args, TOLERANCE[dtype])
        assert_like_twin(*BIASES[i % len(BIASES)], args[1:3], TOLERANCE[dtype])
