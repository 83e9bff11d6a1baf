"""The batch norm's kernels against PyTorch's in float64: value, gradients, running statistics."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes
from torch import nn

from famseg.kernels.norm import batch_norm, batch_norm_shared, statistics, suits
from famseg.layers.stem import Stem

SHAPES = [
    (2, 3, 1, 2),
    (1, 1, 9, 14),
    (2, 16, 1, 37),
    (2, 16, 37, 1),
    (1, 65, 2, 3),
    (2, 40, 3, 5),
    (1, 160, 7, 5),
    (3, 36, 9, 11),
]


def norm_of(weight, bias, device):
    norm = nn.BatchNorm2d(len(weight)).to(device)
    del norm.weight, norm.bias
    norm.weight, norm.bias = weight, bias
    return norm


def functions(gelu, device):
    """Kernel and twin as functions of map, weight and bias."""

    def kernel(x, weight, bias):
        return batch_norm(x, norm_of(weight, bias, device), gelu)

    def twin(x, weight, bias):
        y = F.batch_norm(x, None, None, weight, bias, training=True)
        return F.gelu(y) if gelu else y

    return kernel, twin


def shared_functions(device):
    """The same for the norm of a map that another layer reads as well: both readers' maps, one behind the other."""

    def kernel(x, weight, bias):
        return torch.cat(batch_norm_shared(x, norm_of(weight, bias, device)))

    def twin(x, weight, bias):
        return torch.cat((F.batch_norm(x, None, None, weight, bias, training=True), x))

    return kernel, twin


def arguments(shape, dtype, device, layout="channels_last", seed=0, mean=0.0):
    weight, bias = (torch.linspace(low, low + 1, shape[1], device=device) for low in (0.5, -0.5))
    return random_map(shape, seed, dtype, device, layout) + mean, weight, bias


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_maps(shape, dtype, gelu, device):
    assert_like_twin(*functions(gelu, device), arguments(shape, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), torch.float32, device, layout)
    assert_like_twin(*functions(True, device), args, TOLERANCE[torch.float32])
    assert_like_twin(*shared_functions(device), args, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_shared_maps(shape, dtype, device):
    assert_like_twin(*shared_functions(device), arguments(shape, dtype, device), TOLERANCE[dtype])


def test_a_shared_map_of_which_one_reader_counts(device):
    """Backward comes with one gradient alone; where nothing is differentiated the map itself is handed on."""
    x, weight, bias = (t.requires_grad_() for t in arguments((2, 3, 4, 5), torch.float32, device))
    y, again = batch_norm_shared(x, norm_of(weight, bias, device))
    (alone,) = torch.autograd.grad(functions(False, device)[0](x, weight, bias).square().sum(), x)
    assert torch.equal(torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0], alone)
    assert torch.equal(torch.autograd.grad(again.sum(), x)[0], torch.ones_like(x))
    with torch.no_grad():
        assert batch_norm_shared(x, norm_of(weight, bias, device))[1] is x


def test_several_tiles_of_a_program(device, monkeypatch):
    """More than a program has at once: of 10 tiles of 64 rows, 4 programs have 3, 3, 3 and 1, the last one cut off."""
    monkeypatch.setattr("famseg.kernels.rows.PROGRAMS", 4)
    args = arguments((1, 64, 20, 30), torch.float32, device)
    assert_like_twin(*functions(True, device), args, TOLERANCE[torch.float32])


def test_far_from_zero(device):
    args = arguments((2, 8, 13, 17), torch.float32, device, mean=1000.0)
    assert_like_twin(*functions(False, device), args, 3e-4)  # of a deviation of 1, float32 has 4 digits left


def test_one_odd_pixel(device):
    """Differences from it are all large: their squares have no digits left for the variance of the others."""
    x = random_map((2, 8, 64, 80), 0, device=device)
    x[0, :, 0, 0] = 1e4
    x[1, :, 40, 50] = -3e3
    stats = statistics(x, *(t.to(device) for t in (torch.zeros(8), torch.ones(8), torch.tensor(0))), 0.1, 1e-5)
    exact = x.double()
    expected = torch.stack([exact.mean((0, 2, 3)), (exact.var((0, 2, 3), unbiased=False) + 1e-5).rsqrt()])
    torch.testing.assert_close(stats.double(), expected, rtol=1e-5, atol=0)


def test_moments_of_many_chunks(device):
    """Their means differ: the map's rows drift."""
    x = random_map((1, 64, 16, 61), 0, device=device) + torch.linspace(0, 1e3, 16, device=device)[:, None]
    stats = statistics(x, *(t.to(device) for t in (torch.zeros(64), torch.ones(64), torch.tensor(0))), 0.1, 1e-5)
    exact = x.double()
    expected = torch.stack([exact.mean((0, 2, 3)), (exact.var((0, 2, 3), unbiased=False) + 1e-5).rsqrt()])
    torch.testing.assert_close(stats.double(), expected, rtol=1e-5, atol=0)


def test_twice_the_same_bits(device):
    args = [t.requires_grad_() for t in arguments((2, 16, 33, 29), torch.float32, device)]
    kernel, _ = functions(True, device)
    first, second = (torch.autograd.grad(kernel(*args).square().sum(), args) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_running_statistics(device):
    torch.manual_seed(0)
    ours, theirs = (nn.BatchNorm2d(16, momentum=0.3).to(device) for _ in range(2))
    for seed in range(3):
        x = random_map((2, 16, 5, 7), seed, device=device) * 3 + 2
        batch_norm(x, ours, gelu=False)
        theirs(x)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value, rtol=1e-5, atol=1e-5, msg=name)
    assert ours.num_batches_tracked == 3


def test_norms_that_they_are_not_made_for():
    x = torch.empty(2, 4, 1, 1)
    assert suits(nn.BatchNorm2d(4), x)
    assert not suits(nn.BatchNorm2d(4), x[:1])
    assert not suits(nn.BatchNorm2d(4), x[:0])
    others = [nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)]
    assert not any(suits(n, x) for n in [*others, nn.SyncBatchNorm(4), nn.BatchNorm2d(4, track_running_stats=False)])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=10, elements=2**19)):
        shape = (b, c, h, w + 4)  # of two rows a norm gives signs, and its gradient is noise
        args = arguments(shape, dtype, device, LAYOUTS[i % 3], seed=i)
        assert_like_twin(*functions(bool(i % 2), device), args, TOLERANCE[dtype])
        assert_like_twin(*shared_functions(device), args, TOLERANCE[dtype])


def test_a_stem_of_any_width(device):
    """Its first norm has 12 channels; the convolution before it may not fill them up to 16."""
    ours, plain = Stem(1, 24, "triton").to(device), Stem(1, 24, "torch").to(device)
    ours.load_state_dict(plain.state_dict())
    image = random_map((2, 1, 8, 12), 0, device=device)
    torch.testing.assert_close(ours(image), plain(image), rtol=1e-3, atol=1e-4)
