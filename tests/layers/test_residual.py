import torch
from torch import nn

from famseg.layers.residual import BottleBlock, ConvolutionBlock


def test_convolution_block_halves_and_its_side_branch_sees_every_pixel():
    block = ConvolutionBlock(4, 8).eval()
    x = torch.randn(2, 4, 6, 10)
    assert block(x).shape == (2, 8, 3, 5)
    side = nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(block(x), block.main(x) + block.side[2](block.side[1](side)))


def test_bottle_block_adds_its_shortcut():
    shortcut = nn.Conv2d(8, 8, 1)
    block = BottleBlock(8, shortcut).eval()
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x), block.main(x) + shortcut(x))


def test_inner_width_is_a_quarter_but_16_at_least():
    def inner(block):
        return block.main[0][0].out_channels

    assert inner(BottleBlock(256, nn.Identity())) == 64
    assert inner(BottleBlock(32, nn.Identity())) == 16
    assert inner(ConvolutionBlock(64, 160)) == 40
