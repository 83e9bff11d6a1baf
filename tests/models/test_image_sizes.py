"""Images brought to sizes that the strides of all networks divide, and back."""

import pytest
import torch

from famseg.models.images import cropped, padded


@pytest.mark.parametrize("size", [(33, 64), (64, 70), (45, 100)])
def test_the_border_is_repeated_below_and_on_the_right(size):
    image = torch.randn(2, 1, *size)
    x = padded(image, 1)
    height, width = x.shape[-2:]
    assert (height, width) == tuple(-(-side // 32) * 32 for side in size)
    assert torch.equal(cropped(x, image), image)
    assert torch.equal(x[:, :, size[0] :], x[:, :, size[0] - 1 : size[0]].expand(-1, -1, height - size[0], -1))
    assert torch.equal(x[..., size[1] :], x[..., size[1] - 1 : size[1]].expand(-1, -1, -1, width - size[1]))


def test_images_of_fitting_sizes_are_not_copied():
    image = torch.randn(1, 3, 32, 96)
    assert padded(image, 3) is image


def test_an_exported_network_pads_images_of_other_sizes():
    class Padding(torch.nn.Module):
        def forward(self, image):
            return padded(image, 1)

    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Padding(), (torch.zeros(2, 1, 64, 96),), dynamic_shapes=(sizes,))
    image = torch.randn(2, 1, 40, 70)
    assert torch.equal(program.module()(image), padded(image, 1))
