"""The split into views of channels, and the kernel that joins their gradients, against PyTorch's."""

import pytest
import torch
from shapes import LAYOUTS, poisoned, random_map

from famseg.kernels.split import split


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "widths"),
    [((1, 1, 1, 1), [1]), ((2, 100, 3, 5), [32, 64, 4]), ((1, 84, 5, 7), [20, 52, 3]), ((2, 7, 13, 17), [1, 2])],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_joined(shape, widths, dtype, layout, device):
    x = random_map(shape, 0, dtype, device, layout).requires_grad_()
    parts = split(x, widths)
    expected = torch.split(x.permute(0, 2, 3, 1), [*widths, shape[1] - sum(widths)], dim=-1)[:-1]
    assert all(torch.equal(part, other) for part, other in zip(parts, expected, strict=True))
    upstream = [random_map(part.shape, i, dtype, device, "contiguous") for i, part in enumerate(parts)]
    with poisoned():
        (ours,) = torch.autograd.grad(parts, x, upstream)
    assert torch.equal(ours, torch.autograd.grad(expected, x, upstream)[0])


def test_a_part_that_nobody_reads(device):
    x = random_map((1, 9, 3, 4), 0, device=device).requires_grad_()
    (gradient,) = torch.autograd.grad(split(x, [3, 4])[1].sum(), x)
    assert torch.equal(
        gradient, torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 0, 0], device=device).view(1, 9, 1, 1).expand_as(x)
    )


def test_parts_are_views(device):
    x = random_map((2, 9, 3, 4), 0, device=device)
    for y in (x, x.clone().requires_grad_()):
        assert [part.data_ptr() - y.data_ptr() for part in split(y, [3, 4])] == [0, 12]
