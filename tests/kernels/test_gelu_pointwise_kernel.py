"""A 1x1 convolution with GELU in front of it: against PyTorch's functions in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, assert_like_twin, random_map, random_shapes

from famseg.kernels.gelu_pointwise import Cut, gelu_pointwise, gelu_pointwise_backward, suits
from famseg.layers.strip import StripBlock

INNER, OUTER = (64, 128, 256, 640), (16, 32, 64, 80, 128, 160)


@pytest.fixture(autouse=True)
def few_programs(device, monkeypatch):
    """Of the sum over partials, in Triton's interpreter: each takes it a millisecond."""
    if device.type == "cpu":
        monkeypatch.setattr("famseg.kernels.partials.MANY", 1)


def twin(z, weight):
    return F.conv2d(F.gelu(z), weight)


def arguments(shape, outer, dtype=torch.float16, device="cpu", layout="channels_last", seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(outer, shape[1], 1, 1, generator=generator) / shape[1] ** 0.5
    return random_map(shape, seed, dtype, device, layout), weight.to(device, dtype)


@pytest.mark.parametrize(
    ("shape", "outer", "dtype", "layout"),
    [
        ((1, 64, 1, 1), 256, torch.float32, "channels_last"),
        ((2, 128, 9, 13), 16, torch.float32, "contiguous"),
        ((3, 64, 15, 7), 48, torch.float16, "sliced"),  # the interpreter cannot multiply bf16 matrices
    ],
)
def test_like_the_twin(shape, outer, dtype, layout, device, monkeypatch):
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("no layer asks for float32, see `suits`")
    monkeypatch.setattr("famseg.kernels.gelu_pointwise.BACKWARD", Cut(64, stages=2, programs=3))  # of several tiles
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert_like_twin(gelu_pointwise, twin, arguments(shape, outer, dtype, device, layout), tolerance)


def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((2, 64, 4, 5), 16, device=device)]
    torch.library.opcheck(gelu_pointwise, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("inner", "outer", "dtype", "does"),
    [
        (256, 32, torch.bfloat16, True),
        (640, 160, torch.bfloat16, True),
        (640, 160, torch.float16, True),
        (1024, 256, torch.float16, False),
        (256, 32, torch.float32, False),
        (96, 32, torch.bfloat16, False),  # no blocks of 64
        (2048, 512, torch.bfloat16, False),  # sums that do not fit
        (640, 176, torch.bfloat16, False),  # eleven blocks of 16
        (64, 8, torch.bfloat16, False),
    ],
)
def test_what_it_suits(inner, outer, dtype, does):
    assert suits(*arguments((1, inner, 2, 2), outer, dtype)) == does


def test_the_layer_rounds_as_autocast_does(device):
    """In half precision the layer's kernels and PyTorch's functions differ by rounding alone."""
    torch.manual_seed(0)
    block, n = StripBlock(16, 4, (3,)).to(device), torch.randn(1, 16, 3, 5, device=device, requires_grad=True)
    inputs = [n, block.expand.bias, *block.depthwise.parameters(), block.project.weight]
    results = []
    for block.backend in ("triton", "torch"):
        with torch.autocast(device.type, torch.float16):
            y = block._mlp(n)
        if block.backend == "triton":
            assert "gelu_pointwise" in y.grad_fn.name()
            y = y + block.project.bias[:, None, None].half()
        results.append([y, *torch.autograd.grad(y.float().square().sum(), inputs)])
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() <= 5e-3 * plain.norm()


@pytest.mark.parametrize("why", ["no gradients", "too little memory to lend"])
def test_where_the_3x3_has_the_gelu(why, device, monkeypatch):
    """Without gradients nothing keeps its argument."""
    monkeypatch.setattr("famseg.kernels.gelu_pointwise.gelu_pointwise", None)
    if why != "no gradients":
        monkeypatch.setattr("famseg.kernels.gelu_pointwise.lends", lambda *_: False)
    torch.manual_seed(0)
    blocks = [StripBlock(16, 4, (3,), backend=backend).to(device) for backend in ("triton", "torch")]
    blocks[1].load_state_dict(blocks[0].state_dict())
    n = torch.randn(1, 16, 3, 5, device=device)
    with torch.set_grad_enabled(why != "no gradients"), torch.autocast(device.type, torch.float16):
        ours, plain = (block._mlp(n).float() for block in blocks)
    plain = plain - blocks[0].project.bias[:, None, None]  # by kernels the next one adds it
    assert (ours - plain).norm() <= 5e-3 * plain.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_shapes(dtype):
    for seed, (b, _, h, w) in enumerate(random_shapes(72, seed=12, elements=2**18)):
        shape, outer = (b, INNER[seed % 4], h, w), OUTER[seed // 4 % 6]
        args = arguments(shape, outer, dtype, "cuda", LAYOUTS[seed // 24], seed)
        assert suits(*args)
        assert_like_twin(gelu_pointwise, twin, args, 1e-2)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    z = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    weight = arguments((1, 64, 1, 1), 32, torch.bfloat16, "cuda")[1]
    dy, alone = z[:, :32].contiguous(memory_format=torch.channels_last), z[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(gelu_pointwise(z, weight)[-1:], gelu_pointwise(alone, weight))
    whole, part = gelu_pointwise_backward(dy, z, weight)[0], gelu_pointwise_backward(dy[-1:], alone, weight)[0]
    assert torch.equal(whole[-1:], part)
