import pytest
import torch
import torch.nn.functional as F

from famseg.errors import UserError
from famseg.layers import fam
from famseg.layers.fam import FeatureAwareUpsample, InterpolateUpsample, reassemble


def inputs(batch=2, channels=3, height=4, width=5, kernel=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)
    kernels = torch.rand(batch, height, width, 4, kernel**2, generator=generator, dtype=dtype)
    return features, kernels


def loops(features, kernels):
    """Every output pixel by itself, from the definition."""
    batch, channels, height, width = features.shape
    taps = kernels.shape[-1]
    side = round(taps**0.5)
    out = torch.zeros(batch, channels, 2 * height, 2 * width, dtype=features.dtype)
    for b, y, x, tap in torch.cartesian_prod(*(torch.arange(n) for n in (batch, 2 * height, 2 * width, taps))).tolist():
        row, column = y // 2 + tap // side - side // 2, x // 2 + tap % side - side // 2
        if 0 <= row < height and 0 <= column < width:
            weight = kernels[b, y // 2, x // 2, 2 * (y % 2) + x % 2, tap]
            out[b, :, y, x] += weight * features[b, :, row, column]
    return out


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 7)])
def test_reassembly_is_the_explicit_sum(kernel, size):
    features, kernels = inputs(height=size[0], width=size[1], kernel=kernel)
    torch.testing.assert_close(reassemble(features, kernels), loops(features, kernels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("whole_map", [0, 2**24])
def test_reassembly_gradients(monkeypatch, whole_map):
    monkeypatch.setattr(fam, "WHOLE_MAP", whole_map)
    features, kernels = inputs(kernel=3)
    assert torch.autograd.gradcheck(reassemble, (features.requires_grad_(), kernels.requires_grad_()))


@pytest.mark.parametrize("kernel", [3, 5])
def test_bands_change_nothing(monkeypatch, kernel):
    features, kernels = inputs(height=11, kernel=kernel)
    whole = reassemble(features, kernels)
    monkeypatch.setattr(fam, "WHOLE_MAP", 0)
    assert torch.equal(reassemble(features, kernels), whole)


@pytest.mark.parametrize("kernel", [3, 5])
def test_bands_bound_the_neighbourhoods_by_the_output(kernel):
    kernels = torch.empty(1, 64, 2048, 4, kernel**2, device="meta")
    bands = fam._bands(kernels, channels=32)
    assert bands[0].start == 0
    assert bands[-1].stop == 64
    assert max((band.stop - band.start) * kernel**2 for band in bands) <= 4 * 64 + kernel**2


def test_the_module_follows_its_equation():
    torch.manual_seed(0)
    layer = FeatureAwareUpsample(6, 3, compressed=4, kernel=3).double()
    torch.nn.init.normal_(layer.reorganize.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    logits = layer.reorganize(layer.compress(x)).unflatten(1, (4, 9)).permute(0, 3, 4, 1, 2)
    expected = loops(x, logits.softmax(-1))  # the 1x1 after the reassembly: they commute
    torch.testing.assert_close(layer(x), F.conv2d(expected, layer.reduce.weight, layer.bias))


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_new_module_is_nearly_bilinear(kernel):
    torch.manual_seed(0)
    layer = FeatureAwareUpsample(4, 4, kernel=kernel)
    y, x = torch.meshgrid(torch.linspace(0, 1, 12), torch.linspace(0, 1, 12), indexing="ij")
    smooth = torch.sin(3 * x + 2 * y).expand(1, 4, 12, 12)
    ours = reassemble(smooth, layer.kernels(smooth))
    expected = F.interpolate(smooth, scale_factor=2, mode="bilinear")
    inside = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(ours[inside], expected[inside], atol=0.03, rtol=0)


@pytest.mark.parametrize("kernel", [1, 4])
def test_impossible_kernels(kernel):
    with pytest.raises(UserError, match=f"model.fam_kernels: K={kernel} is impossible"):
        FeatureAwareUpsample(4, 4, kernel=kernel)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtype_under_autocast(memory_format):
    layer = FeatureAwareUpsample(8, 4)
    x = torch.randn(1, 8, 6, 6).to(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.05, rtol=0.05)
    y.sum().backward()


def test_backward_keeps_no_neighbourhoods():
    features, kernels = inputs(kernel=5)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        reassemble(features.requires_grad_(), kernels.requires_grad_())
    assert sum(kept) <= features.numel() + kernels.numel()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_interpolation_doubles(mode):
    layer = InterpolateUpsample(6, 3, mode)
    x = torch.randn(2, 6, 4, 5)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode=mode), layer.reduce.weight, layer.reduce.bias)
    torch.testing.assert_close(layer(x), expected)
