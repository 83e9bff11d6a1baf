"""The 3x3 convolution of few channels against PyTorch's in float64: value and gradients of map and weight."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes
from torch import nn

from famseg.kernels import narrow
from famseg.kernels.narrow import narrow_conv, suits
from famseg.layers.basic import conv_norm
from famseg.layers.fam import FeatureAwareUpsample
from famseg.layers.stem import Stem


@pytest.fixture(autouse=True)
def few_programs(monkeypatch, device):
    """In the interpreter, where a program takes as long as its instructions; each has several tiles then."""
    if device.type == "cpu":
        for name in ("RESULT", "SUMS", "BOTH", "WIDE"):
            monkeypatch.setattr(narrow, name, replace(getattr(narrow, name), programs=2))
        monkeypatch.setattr(narrow, "FEW", 4096)
        monkeypatch.setattr(narrow, "AT_ONCE", 2)


def kernel(padding):
    return lambda x, weight: narrow_conv(x, weight, len(weight) + padding)


def twin(padding):
    return lambda x, weight: F.pad(F.conv2d(x, weight, padding=1), (0, 0, 0, 0, 0, padding))


def of_image(function, x, **options):
    """A function of the weight: of images, it has no gradient."""
    return lambda weight: function(x.to(weight) if weight.dtype == torch.float64 else x, weight, **options)


def arguments(shape, out, dtype, device, layout="channels_last", seed=0):
    """The weight has numbers of the map's dtype, and lies in memory as the map does."""
    weight = random_map((out, shape[1], 3, 3), seed + 1, dtype, layout=layout) / 8
    return random_map(shape, seed, dtype, device, layout), weight.float().to(device)


@pytest.mark.parametrize(
    ("shape", "out", "padding", "dtype", "layout"),
    [
        ((2, 3, 1, 1), 5, 3, torch.bfloat16, "sliced"),
        ((1, 16, 9, 3), 16, 0, torch.float32, "channels_last"),  # 3 tiles for 2 programs, the last one cut off
        pytest.param((1, 16, 3, 5), 36, 4, torch.bfloat16, "contiguous", marks=pytest.mark.slow),
        pytest.param((1, 32, 2, 1), 2, 0, torch.float32, "channels_last", marks=pytest.mark.slow),  # two blocks
        ((1, 2, 2, 131), 2, 0, torch.float32, "channels_last"),  # tiles side by side
    ],
)
def test_like_the_twin(shape, out, padding, dtype, layout, device):
    assert_like_twin(kernel(padding), twin(padding), arguments(shape, out, dtype, device, layout), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((1, 1, 10, 7), torch.float32, marks=pytest.mark.slow),  # 3 tiles
        ((1, 3, 3, 260), torch.bfloat16),
    ],
)
def test_stride_of_two(shape, dtype, device):
    x, weight = arguments(shape, 5, dtype, device, "contiguous")
    ours = of_image(narrow_conv, x, row=5, stride=2)
    assert_like_twin(ours, of_image(F.conv2d, x, stride=2, padding=1), [weight], TOLERANCE[dtype])


def test_as_the_compiler_sees_it(device):
    x, weight = (t.requires_grad_() for t in arguments((1, 3, 4, 5), 2, torch.float32, device, "contiguous"))
    torch.library.opcheck(narrow_conv, (x, weight, 4), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(narrow_conv, (x.detach(), weight, 2, 2), test_utils=("test_faketensor",))
    dy = torch.ones(1, 4, 4, 5, device=device)
    torch.library.opcheck(narrow.of_map, (dy, weight), test_utils=("test_faketensor",))
    torch.library.opcheck(narrow.of_weight, (dy, x, weight, 1), test_utils=("test_faketensor",))
    torch.library.opcheck(narrow.of_both, (dy, x, weight), test_utils=("test_faketensor",))


def test_convolutions_that_they_are_made_for(monkeypatch):
    monkeypatch.setattr(narrow, "LEAST", 20)
    x, half = torch.empty(1, 16, 4, 5), torch.bfloat16

    def suited(channels=16, out=16, kernel=3, row=None, image=x, dtype=half, **options):
        conv = nn.Conv2d(channels, out, kernel, **{"padding": 1} | options)
        return suits(conv, row or out, image, dtype)

    assert all([suited(), suited(out=36, row=40), suited(dtype=torch.float16)])
    assert suited(channels=1, image=x[:, :1], stride=2)
    assert not suited(channels=1, image=x[:, :1].clone().requires_grad_(), stride=2)
    assert not any([suited(stride=2), suited(dilation=2), suited(groups=2), suited(padding_mode="reflect")])
    assert not any([suited(padding=0), suited(kernel=1), suited(out=36), suited(out=48), suited(dtype=torch.float32)])
    assert not suited(image=x[..., 1:])
    assert not suited(channels=64, image=torch.empty(1, 64, 4, 5))


def alike(gradient, parameter):
    """Whether both lie in memory alike; strides of single rows and columns mean nothing."""
    strides = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
    return all(n == 1 or one == other for n, one, other in strides)


def results(layer, x):
    """Of a layer in half precision: value and gradients, which lie as parameters do: autograd copies none."""
    with torch.autocast(x.device.type, torch.bfloat16):
        y = layer(x)
    parameters = list(layer.parameters())
    upstream = random_map(y.shape, 1, y.dtype, x.device)
    gradients = torch.autograd.grad(y, parameters, upstream)
    assert all(alike(g, p) for g, p in zip(gradients, parameters, strict=True))
    return y.detach(), *gradients


@pytest.mark.parametrize(
    ("channels", "build"),
    [
        (8, lambda backend: conv_norm(8, 8, 3, backend=backend)),
        (1, lambda backend: Stem(1, 16, backend)),
        pytest.param(
            8, lambda backend: FeatureAwareUpsample(8, 4, 8, kernel=3, backend=backend), marks=pytest.mark.slow
        ),
    ],
    ids=["convolution and norm", "stem", "FAM"],
)
def test_layers_give_the_same_with_both(channels, build, device, monkeypatch):
    """In bf16: the plain layer rounds gradients of weights, too."""
    monkeypatch.setattr(narrow, "LEAST", 1)
    used, convolve = [], narrow._convolve
    monkeypatch.setattr(narrow, "_convolve", lambda *a, **options: used.append(options) or convolve(*a, **options))
    ours, plain = (build(backend).to(device).to(memory_format=torch.channels_last) for backend in ("triton", "torch"))
    ours.load_state_dict(plain.state_dict())
    x = random_map((1, channels, 6, 10), 0, device=device)
    pairs = list(zip(results(ours, x), results(plain, x), strict=True))
    assert {"turned": False} in used
    for one, other in pairs:
        assert (one.float() - other.float()).norm() <= 3e-2 * other.float().norm() + 1e-4


def test_a_stem_of_any_width(device):
    """Its first norm has 12 channels; the convolution before it may not fill them up to 16."""
    ours, plain = Stem(1, 24, "triton").to(device), Stem(1, 24, "torch").to(device)
    ours.load_state_dict(plain.state_dict())
    image = random_map((2, 1, 4, 8), 0, device=device)
    torch.testing.assert_close(ours(image), plain(image), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_the_same_bits_every_time():
    args = [t.requires_grad_() for t in arguments((2, 16, 300, 200), 16, torch.bfloat16, "cuda")]
    first, second = (torch.autograd.grad(kernel(0)(*args).square().sum(), args) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("channels", "out", "dtype"),
    [
        (16, 16, torch.bfloat16),
        (16, 16, torch.float16),
        (16, 36, torch.bfloat16),
        (32, 36, torch.bfloat16),
        (32, 32, torch.bfloat16),
        (8, 24, torch.bfloat16),
        (8, 40, torch.bfloat16),
    ],
)
def test_random_shapes(channels, out, dtype):
    """Of maps; each pair of channels is a kernel to compile."""
    for i, (b, _, h, w) in enumerate(random_shapes(60, seed=11, elements=2**19)):
        x, weight = arguments((b, channels, h, w), out, dtype, "cuda", seed=i)
        x = random_map(x.shape, i, dtype, "cuda", LAYOUTS[i % 3])
        assert_like_twin(kernel(-out % 8), twin(-out % 8), (x, weight), TOLERANCE[torch.bfloat16])


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 3])
def test_random_images(channels):
    for i, (b, _, h, w) in enumerate(random_shapes(60, seed=12, elements=2**19)):
        x, weight = arguments((b, channels, h, w), 16, torch.bfloat16, "cuda", seed=i)
        ours, plain = of_image(narrow_conv, x, row=16, stride=2), of_image(F.conv2d, x, stride=2, padding=1)
        assert_like_twin(ours, plain, [weight], TOLERANCE[torch.bfloat16])


@pytest.mark.gpu
@pytest.mark.parametrize(("channels", "out", "side"), [(16, 16, 512), (16, 36, 256), (32, 36, 128), (32, 32, 128)])
def test_the_networks_own(channels, out, side):
    """At full size, against cuDNN's in the same precision: every program has many tiles."""
    conv = nn.Conv2d(channels, out, 3, padding=1, bias=False).cuda().to(memory_format=torch.channels_last)
    x = random_map((16, channels, side, side), 0, torch.bfloat16, "cuda").requires_grad_()
    row = out + -out % 8
    assert suits(conv, row, x, x.dtype)
    dy = random_map((16, row, side, side), 1, torch.bfloat16, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        plain = F.conv2d(x, F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, row - out)), padding=1)
        found = narrow_conv(x, conv.weight, row)
    for one, other in zip(
        (found, *torch.autograd.grad(found, (x, conv.weight), dy)),
        (plain, *torch.autograd.grad(plain, (x, conv.weight), dy)),
        strict=True,
    ):
        assert (one.float() - other.float()).norm() <= 1e-2 * other.float().norm()


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(129, 16, 1024, 1024, dtype=torch.bfloat16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    _, weight = arguments((1, 16, 1, 1), 16, torch.bfloat16, "cuda")
    alone = x[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(narrow_conv(x, weight, 16)[-1:], narrow_conv(alone, weight, 16))
    dx = [narrow.of_map(t, weight)[-1:] for t in (x, alone)]
    assert torch.equal(*dx)


@pytest.mark.gpu
def test_compiled_and_in_a_graph():
    layer = conv_norm(16, 16, 3, backend="triton").cuda().eval().requires_grad_(False)
    x = random_map((2, 16, 256, 256), 0, torch.bfloat16, "cuda")
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.autocast("cuda", torch.bfloat16):
        expected = layer(x).float()
        for _ in range(3):
            torch.testing.assert_close(compiled(x).float(), expected, rtol=2e-2, atol=2e-2)
