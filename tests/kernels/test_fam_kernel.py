"""FAM's kernel against its plain twin in float64: value and gradients of features, logits and bias."""

import pytest
import torch
from shapes import CORNERS, LAYOUTS, assert_like_twin, random_map, random_shapes

from famseg.errors import UserError
from famseg.kernels import fam
from famseg.layers.fam import PHASES, FeatureAwareUpsample, reassemble

# The logits' gradient is a difference of numbers that are each rounded to bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
WIDTHS = (1, 16, 32, 80, 160)  # channels


def twin(features, logits, logit_bias, bias):
    """Of logits whose channels go tap by tap, and a bias whose channels go phase by phase."""
    logits = logits.permute(0, 2, 3, 1)[..., : len(logit_bias)].unflatten(-1, (-1, PHASES)).transpose(-1, -2)
    weights = (logits + logit_bias.unflatten(-1, (PHASES, -1))).softmax(-1)
    return reassemble(features, weights) + bias[:, None, None]


def arguments(shape, kernel, dtype, device, layout, seed=0, padding=4):
    """Logits have channels that do not count: there is no gradient in them."""
    b, c, h, w = shape
    channels = PHASES * kernel**2
    logits = random_map((b, channels + padding, h, w), seed + 1, dtype, device, layout)
    biases = (torch.linspace(-1, 1, n, device=device) for n in (channels, c))
    return random_map(shape, seed, dtype, device, layout), logits, *biases


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [3, pytest.param(5, marks=pytest.mark.slow)])  # the interpreter takes 4 s for each
@pytest.mark.parametrize("shape", [*CORNERS[:5], (1, 70, 3, 5), (1, 130, 2, 3)])
def test_small_maps(shape, kernel, dtype, device):
    assert_like_twin(fam.reassemble, twin, arguments(shape, kernel, dtype, device, "channels_last"), TOLERANCE[dtype])


def test_several_runs_of_positions_in_a_program(device, monkeypatch):
    monkeypatch.setattr(fam, "PROGRAMS", 1)
    args = arguments((2, 16, 12, 14), 3, torch.float32, device, "channels_last")
    assert_like_twin(fam.reassemble, twin, args, TOLERANCE[torch.float32])


@pytest.mark.parametrize("padding", [0, 1, 40])
def test_padding(padding, device):
    args = arguments((2, 16, 3, 5), 3, torch.float32, device, "channels_last", padding=padding)
    assert_like_twin(fam.reassemble, twin, args, TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), 3, torch.float32, device, layout)
    assert_like_twin(fam.reassemble, twin, args, TOLERANCE[torch.float32])


def test_smooth_features_keep_their_gradient_in_half_precision(device):
    """What differs between taps is small beside what is common: it must not drown in bfloat16's rounding."""
    features, *others = arguments((1, 16, 6, 8), 3, torch.bfloat16, device, "channels_last")
    features = (8 + 0.05 * features.float()).to(torch.bfloat16)
    assert_like_twin(fam.reassemble, twin, (features, *others), TOLERANCE[torch.bfloat16])


def test_the_output_is_channels_last_and_so_says_the_fake_kernel(device):
    args = arguments((2, 16, 4, 6), 3, torch.float32, device, "contiguous")
    result = fam.reassemble(*args)
    assert result.is_contiguous(memory_format=torch.channels_last)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = fam.reassemble(*(mode.from_tensor(t) for t in args))
    assert (fake.shape, fake.stride()) == (result.shape, result.stride())


def test_the_layer_gives_the_same_with_both(device):
    layer = FeatureAwareUpsample(24, 16, 8, kernel=3, backend="triton").to(device)
    torch.nn.init.normal_(layer.reorganize.weight)
    x = random_map((2, 24, 5, 6), 0, device=device).requires_grad_()
    found = []
    for backend in ("triton", "torch"):
        layer.backend = backend
        y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-3)


def test_float64_cannot_be_asked_for(device):
    layer = FeatureAwareUpsample(16, 16, 8, kernel=3, backend="triton").to(device).double()
    with pytest.raises(UserError, match="no float64"):
        layer(torch.zeros(1, 16, 4, 4, dtype=torch.float64, device=device))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_shapes(dtype, device):
    """Of few widths, kernels and paddings: each combination is compiled anew, for some seconds."""
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=3, elements=2**19)):
        shape = b, max(width for width in WIDTHS if width <= c), h, w
        kernel, padding = ((3, 4), (3, 0), (5, 3))[i % 3]
        args = arguments(shape, kernel, dtype, device, LAYOUTS[i // 3 % 3], seed=i, padding=padding)
        assert_like_twin(fam.reassemble, twin, args, TOLERANCE[dtype])
