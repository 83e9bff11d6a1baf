"""The network's end in one pass against batch norm, GELU and a 1x1 convolution in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, random_map, random_shapes
from torch import nn

from famseg.folding import folded
from famseg.kernels.norm_head import norm_head, suits
from famseg.models import SIZES, FAMSeg


def kernel(x, norm_weight, norm_bias, weight, bias):
    norm = nn.BatchNorm2d(len(norm_weight)).to(x.device)
    del norm.weight, norm.bias
    norm.weight, norm.bias = norm_weight, norm_bias
    return norm_head(x, norm, weight, bias)


def twin(x, norm_weight, norm_bias, weight, bias):
    y = F.gelu(F.batch_norm(x, None, None, norm_weight, norm_bias, training=True))
    return F.conv2d(y, weight[..., None, None], bias)


def arguments(shape, classes, dtype, device, layout="channels_last", seed=0):
    generator = torch.Generator().manual_seed(seed)
    of_norm = (torch.linspace(low, low + 1, shape[1], device=device) for low in (0.5, -0.5))
    weight, bias = torch.randn(classes, shape[1], generator=generator), torch.randn(classes, generator=generator)
    return random_map(shape, seed, dtype, device, layout), *of_norm, weight.to(device), bias.to(device)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "classes"), [((2, 16, 9, 14), 3), ((2, 3, 1, 7), 4), ((1, 70, 5, 6), 2)])
def test_small_maps(shape, classes, dtype, device):
    assert_like_twin(kernel, twin, arguments(shape, classes, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    args = arguments((2, 20, 4, 6), 3, torch.float32, device, layout)
    assert_like_twin(kernel, twin, args, TOLERANCE[torch.float32])


def test_several_tiles_of_a_program(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.norm_head.PROGRAMS", 3)
    args = arguments((2, 16, 20, 31), 3, torch.float32, device)
    assert_like_twin(kernel, twin, args, TOLERANCE[torch.float32])


def test_running_statistics(device):
    ours, theirs = (nn.BatchNorm2d(16).to(device) for _ in range(2))
    x, _, _, weight, bias = arguments((2, 16, 5, 7), 3, torch.float32, device)
    norm_head(x, ours, weight, bias)
    theirs(x)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value, rtol=1e-5, atol=1e-5, msg=name)


def test_as_the_compiler_sees_it(device):
    x, norm_weight, norm_bias, *head = arguments((2, 3, 4, 5), 3, torch.float16, device)
    stats = torch.stack([torch.zeros_like(norm_bias), torch.ones_like(norm_bias)])
    args = [t.requires_grad_(t is not stats) for t in (x, norm_weight, norm_bias, stats, *head)]
    torch.library.opcheck(torch.ops.famseg.norm_head.default, args, test_utils=("test_schema", "test_faketensor"))


def test_what_it_suits():
    x = torch.empty(2, 16, 4, 4)
    assert suits(nn.BatchNorm2d(16), x, 3)
    assert not suits(nn.BatchNorm2d(16), x, 5)
    assert not suits(nn.BatchNorm2d(16).eval(), x, 3)


@pytest.mark.parametrize("refine", [True, False])
def test_the_decoder_ends_in_it(refine, device, monkeypatch):
    """In training, where there is a convolution at full resolution; the prediction has its own way."""
    calls = []
    monkeypatch.setattr("famseg.kernels.norm_head.norm_head", lambda x, *_: calls.append(x) or x)
    decoder = FAMSeg(**SIZES["N"], kernels="triton", refine=refine).to(device).decoder
    x = torch.randn(2, 16 if refine else 3, 8, 8, device=device)
    decoder.train()._logits(x)
    assert len(calls) == refine
    decoder.eval()._logits(x)
    assert len(calls) == refine


@pytest.mark.parametrize("mode", ["training", "evaluation", "folded"])
def test_the_decoders_end_on_kernels_and_without(mode, device):
    results = []
    for kernels in ("triton", "torch"):
        torch.manual_seed(0)
        model = FAMSeg(**SIZES["N"], kernels=kernels).to(device).train(mode == "training")
        decoder = (folded(model) if mode == "folded" else model).decoder
        x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
        with torch.set_grad_enabled(mode == "training"):
            results.append(decoder._logits(x))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    for i, (b, c, h, w) in enumerate(random_shapes(200, seed=16, elements=2**19)):
        shape, classes = (b, c, h, w + 4), 2 + i % 3  # of two rows a norm gives signs, and its gradient is noise
        args = arguments(shape, classes, dtype, device, LAYOUTS[i % 3], seed=i)
        if suits(nn.BatchNorm2d(c), args[0], classes):
            assert_like_twin(kernel, twin, args, TOLERANCE[dtype])
