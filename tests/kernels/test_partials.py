"""Partial sums added up, against PyTorch's sums."""

import pytest
import torch
from shapes import poisoned

from famseg.kernels.partials import merged, merged_taps


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((1, 1), 0),
        ((5, 3), 0),
        ((300, 7, 3), 0),
        ((2, 257, 9), 1),
        ((3, 2, 4, 5), 2),
        ((2100, 3), 0),
        ((35, 16400), 0),  # wide programs
    ],
)
def test_merged(shape, dim, device):
    partials = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    with poisoned():
        sums = merged(partials, dim)
    torch.testing.assert_close(sums, partials.double().sum(dim).float())


@pytest.mark.parametrize(("rows", "taps"), [(10, 9), (11, 9), (1, 1)])
def test_merged_taps_lie_as_parameters_do(rows, taps, device):
    partials = torch.randn(6, rows, 5, generator=torch.Generator().manual_seed(0)).to(device)
    with poisoned():
        own, others = merged_taps(partials, taps)
    expected = partials.double().sum(0).float()
    torch.testing.assert_close(torch.cat((own, others)), expected)
    assert own.t().is_contiguous()
