"""The kernel that resizes maps and stacks them against PyTorch's `interpolate` and `cat` in float64."""

import pytest
import torch
from shapes import LAYOUTS, TOLERANCE, assert_like_twin, poisoned, random_map, random_shapes

from famseg.kernels.stack import stack
from famseg.layers.resize import stacked

# of the maps: channels, height, width
STACKS = [
    [(1, 1, 1)],
    [(3, 4, 6), (5, 4, 6)],
    [(2, 8, 12), (4, 4, 6), (3, 2, 3)],
    [(1, 9, 7), (65, 3, 4)],
    [(16, 3, 5), (32, 12, 8)],
    [(2, 1, 9), (1, 4, 1)],
    [(64, 6, 5), (1, 6, 1), (2, 1, 5)],
    [(7, 13, 4), (3, 2, 1)],
]


def ours(*maps):
    return stack(maps)


def twin(*maps):
    return stacked(maps, "torch")


def maps_of(sizes, batch, dtype, device, layouts=LAYOUTS[:1]):
    return [random_map((batch, *size), i, dtype, device, layouts[i % len(layouts)]) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", STACKS)
def test_small_maps(sizes, dtype, device):
    assert_like_twin(ours, twin, maps_of(sizes, 2, dtype, device), TOLERANCE[dtype])


@pytest.mark.parametrize("layout", range(3))
def test_layouts(layout, device):
    maps = maps_of(STACKS[2], 3, torch.float32, device, LAYOUTS[layout:] + LAYOUTS[:layout])
    assert_like_twin(ours, twin, maps, TOLERANCE[torch.float32])


def test_the_result_has_the_dtype_that_holds_all(device):
    maps = [random_map((1, 2, 4, 4), 0, torch.bfloat16, device), random_map((1, 3, 2, 2), 1, device=device)]
    x, y = (each.requires_grad_() for each in maps)
    whole = stack([x, y])
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole, twin(x.float(), y))
    assert [g.dtype for g in torch.autograd.grad(whole.sum(), [x, y])] == [x.dtype, y.dtype]


def test_a_map_of_the_same_size_is_copied_to_the_last_bit(device):
    maps = maps_of([(3, 5, 4), (2, 5, 4)], 2, torch.bfloat16, device)
    with poisoned():
        assert torch.equal(stack(maps), torch.cat(maps, 1))


def test_as_the_compiler_sees_it(device):
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    maps = [x.requires_grad_() for x in maps_of([(2, 6, 4), (3, 3, 2)], 2, torch.float32, device, LAYOUTS[1:])]
    torch.library.opcheck(torch.ops.famseg.stack.default, (maps,), test_utils=checks)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(device):
    """The last image alone gives what it gives at the end of a batch of 2^31 elements and more."""
    maps = maps_of([(64, 1024, 1024), (1, 512, 512)], 33, torch.bfloat16, device)

    def last_image(first, second):
        whole = stack([first, second])
        parts = torch.ops.famseg.stack_backward(whole, [64, 1], [1024, 512], [1024, 512])
        return [each[-1:] for each in (whole, *parts)]

    alone = last_image(*(x[-1:].clone(memory_format=torch.channels_last) for x in maps))
    assert all(torch.equal(a, b) for a, b in zip(last_image(*maps), alone, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_shapes(dtype, device):
    shapes = random_shapes(400, seed=31, elements=2**17)
    for i, (first, second) in enumerate(zip(shapes[::2], shapes[1::2], strict=True)):
        maps = maps_of([first[1:], second[1:], first[1:]], first[0], dtype, device, LAYOUTS[i % 3 :])
        assert_like_twin(ours, twin, maps, TOLERANCE[dtype])
