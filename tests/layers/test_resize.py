"""Bilinear resizing as matrix products, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from famseg.layers.resize import multiplied, resize

SIZES = [((4, 6), (8, 12)), ((5, 7), (13, 11)), ((1, 9), (4, 9)), ((12, 8), (3, 5)), ((3, 1), (12, 7))]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_products_are_bilinear_interpolation(before, after, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *before).to(memory_format=memory_format).requires_grad_()
    y, want = multiplied(x, after), F.interpolate(x, after, mode="bilinear")
    torch.testing.assert_close(y, want)
    assert y.is_contiguous(memory_format=memory_format)
    dy = torch.randn_like(want)
    torch.testing.assert_close(*(torch.autograd.grad(each, x, dy)[0] for each in (y, want)))


def test_half_precision_is_rounded_once():
    """Within autocast, too."""
    x = torch.randn(1, 2, 5, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = multiplied(x, (15, 8))
    assert torch.equal(y, multiplied(x.float(), (15, 8)).bfloat16())


def test_double_precision_stays():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(multiplied(x, (13, 11)), F.interpolate(x, (13, 11), mode="bilinear"))


@pytest.mark.gpu
def test_a_deterministic_gpu_multiplies(monkeypatch):
    """And has no operation that PyTorch would refuse."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x = torch.randn(2, 16, 9, 7, device="cuda", requires_grad=True)
    want, dy = F.interpolate(x, (18, 20), mode="bilinear"), torch.randn(2, 16, 18, 20, device="cuda")
    (slope,) = torch.autograd.grad(want, x, dy)
    torch.use_deterministic_algorithms(True)
    try:
        y = resize(x, (18, 20))
        (ours,) = torch.autograd.grad(y, x, dy)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, slope, rtol=1e-4, atol=1e-4)
