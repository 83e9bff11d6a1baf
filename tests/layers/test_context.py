import torch
import torch.nn.functional as F

from famseg.layers.context import AggregatedDepthConv


def test_fuses_three_layers_at_the_first_ones_size():
    torch.manual_seed(0)
    layer = AggregatedDepthConv((4, 6, 8), 5, 32).eval()
    maps = [torch.randn(2, 4, 8, 12), torch.randn(2, 6, 4, 6), torch.randn(2, 8, 2, 3)]
    stack = torch.cat(
        [F.interpolate(conv(f), (8, 12), mode="bilinear") for conv, f in zip(layer.levels, maps, strict=True)], 1
    )
    expected = layer.project(F.gelu(layer.norm(layer.depthwise(stack))))
    torch.testing.assert_close(layer(maps), expected)
    assert expected.shape == (2, 32, 8, 12)


def test_the_deepest_layer_reaches_far():
    layer = AggregatedDepthConv((4, 4, 4), 4, 32).eval()
    maps = [torch.zeros(1, 4, 64, 64), torch.zeros(1, 4, 32, 32), torch.randn(1, 4, 16, 16, requires_grad=True)]
    layer(maps)[0, :, 32, 32].sum().backward()
    reached = maps[2].grad.abs().sum((0, 1)) > 0
    assert reached.any(0).sum() >= 3  # 7 px at H/8 and the resize: some 12 px of the image at each side
