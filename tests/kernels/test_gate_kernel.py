"""The strip attention's gate: the kernel against a 1x1 convolution times the map in float64."""

import pytest
import torch
import torch.nn.functional as F
from shapes import LAYOUTS, assert_like_twin, random_map, random_shapes

from famseg.kernels.gate import gate, suits


def twin(s, x, weight, bias):
    return F.conv2d(s, weight[:, :, None, None], bias) * x


def arguments(shape, seed, dtype=torch.float32, device="cpu", layout="channels_last"):
    s, x = (random_map(shape, seed + i, dtype, device, layout) for i in range(2))
    generator = torch.Generator().manual_seed(seed + 2)
    weight = torch.randn(shape[1], shape[1], generator=generator) / shape[1] ** 0.5
    weight = weight.to(dtype).float()  # the kernel's products round it
    return s, x, weight.to(device), torch.randn(shape[1], generator=generator).to(device)


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((1, 1, 1, 1), torch.float32, "channels_last"),
        ((2, 5, 9, 13), torch.float32, "contiguous"),
        ((3, 64, 5, 7), torch.float16, "sliced"),  # the interpreter cannot multiply bf16 matrices
        pytest.param((1, 80, 3, 5), torch.float32, "channels_last", marks=pytest.mark.slow),  # takes 3 s
    ],
)
def test_like_the_twin(shape, dtype, layout, device):
    if device.type == "cuda" and dtype == torch.float32 and shape[1] > 64:
        pytest.skip("no layer asks for it, see `suits`: so much float32 does not fit a multiprocessor")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert_like_twin(gate, twin, arguments(shape, 0, dtype, device, layout), tolerance)


def test_more_tiles_than_programs(device, monkeypatch):
    monkeypatch.setattr("famseg.kernels.gate.PROGRAMS", 3)
    assert_like_twin(gate, twin, arguments((2, 3, 20, 17), 0, device=device), 1e-5)


def test_as_the_compiler_sees_it(device):
    args = [t.requires_grad_() for t in arguments((1, 3, 4, 5), 0, device=device)]
    torch.library.opcheck(gate, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_shapes(dtype):
    shapes = [s for s in random_shapes(400, seed=1) if suits(torch.empty(s, dtype=dtype, device="meta"))][:200]
    assert len(shapes) == 200
    for seed, shape in enumerate(shapes):
        args = arguments(shape, seed, dtype, "cuda", LAYOUTS[seed % 3])
        assert_like_twin(gate, twin, args, 1e-2)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    """The last sample alone gives what it gives at the end of a batch of 2^31 elements and more."""
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda").contiguous(
        memory_format=torch.channels_last
    )
    weight, bias = (t.cuda() for t in arguments((1, 64, 1, 1), 0)[2:])
    alone = x[-1:].clone(memory_format=torch.channels_last)
    assert torch.equal(gate(x, x, weight, bias)[-1:], gate(alone, alone, weight, bias))
    whole, part = (torch.ops.famseg.gate_backward(t, t, t, weight, bias) for t in (x, alone))
    assert all(torch.equal(w[-1:], p) for w, p in zip(whole[:2], part[:2], strict=True))
