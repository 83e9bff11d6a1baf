import pytest
import torch
import torch.nn.functional as F

from famseg.errors import UserError
from famseg.layers.strip import StripAttention, StripBlock


def attention(scan="independent", channels=4):
    torch.manual_seed(0)
    return StripAttention(channels, scan=scan).double()


def image(channels=4):
    return torch.randn(2, channels, 9, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def square_kernel(layer):
    """The 2-D kernel, 21 x 21, that equals the sum of all independent scans and of the map itself."""
    kernel = torch.zeros(4, 1, 21, 21, dtype=torch.float64)
    kernel[:, :, 10, 10] += 1
    for row, column in zip(layer.rows, layer.columns, strict=True):
        half = row.weight.shape[-1] // 2
        kernel[:, :, 10:11, 10 - half : 11 + half] += row.weight
        kernel[:, :, 10 - half : 11 + half, 10:11] += column.weight
    bias = sum(conv.bias for conv in (*layer.rows, *layer.columns))
    return kernel, bias


def test_independent_scans_are_one_square_convolution():
    layer, x = attention(), image()
    kernel, bias = square_kernel(layer)
    s = F.conv2d(layer.local(x), kernel, bias, padding=10, groups=4)
    torch.testing.assert_close(layer(x), layer.mix(s) * x)


def test_merged_scans_equal_the_single_ones():
    layer, x = attention(), image()
    a = layer.local(x)
    s = a + sum(conv(a) for conv in (*layer.rows, *layer.columns))
    torch.testing.assert_close(layer(x), layer.mix(s) * x)


def test_merged_scans_give_the_single_ones_their_gradients():
    layer, x = attention(), image()
    a = layer.local(x)
    single = layer.mix(a + sum(conv(a) for conv in (*layer.rows, *layer.columns))) * x
    expected = torch.autograd.grad(single.square().sum(), tuple(layer.parameters()))
    for ours, theirs in zip(
        torch.autograd.grad(layer(x).square().sum(), tuple(layer.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_sequential_scans_are_products_of_rows_and_columns():
    layer, x = attention("sequential"), image()
    a = layer.local(x)
    s = a
    for row, column in zip(layer.rows, layer.columns, strict=True):
        inner = F.conv2d(a, row.weight, row.bias, padding=(0, row.weight.shape[-1] // 2), groups=4)
        s = s + F.conv2d(inner, column.weight, column.bias, padding=(column.weight.shape[-2] // 2, 0), groups=4)
    torch.testing.assert_close(layer(x), layer.mix(s) * x)


def test_the_two_scans_share_names_and_are_different_functions():
    independent, sequential = attention(), attention("sequential")
    sequential.load_state_dict(independent.state_dict())
    assert not torch.allclose(independent(image()), sequential(image()))


def test_unknown_scan():
    with pytest.raises(UserError, match=r"model.strip_scan='diagonal'.*independent, sequential"):
        StripAttention(4, scan="diagonal")


@pytest.mark.parametrize("kernels", [(7, 10), (11, 7), (7, 7)])
def test_impossible_kernels(kernels):
    with pytest.raises(UserError, match=r"model.strip_kernels=.* odd and ascending"):
        StripAttention(4, kernels)


def test_block_follows_its_equations():
    torch.manual_seed(0)
    block = StripBlock(4, 2).double().eval()
    block.residual1.scale.data.normal_()
    block.residual2.scale.data.normal_()
    x = image()
    n = block.norm1(x)
    mixed = block.proj_out(block.attention(F.gelu(block.proj_in(n)))) + n
    middle = x + block.residual1.scale.view(1, -1, 1, 1) * mixed
    hidden = F.gelu(block.depthwise(block.expand(block.norm2(middle))))
    expected = middle + block.residual2.scale.view(1, -1, 1, 1) * block.project(hidden)
    torch.testing.assert_close(block(x), expected)
