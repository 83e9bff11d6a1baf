"""The two residual blocks of the paper's section 3.2.2."""

from torch import Tensor, nn

from famseg.layers.basic import conv_norm


def _main_branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    inner = max(16, out_channels // 4)
    return nn.Sequential(
        conv_norm(in_channels, inner, 1),
        conv_norm(inner, inner, 3, stride),
        conv_norm(inner, out_channels, 1, activation=False),
    )


class ConvolutionBlock(nn.Module):
    """Halves the map: y = main(x) + conv1x1(average_pool2x2(x)), main = 1x1, 3x3 with stride 2, 1x1.

    The inner width is max(16, out_channels / 4).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = _main_branch(in_channels, out_channels, stride=2)
        self.side = nn.Sequential(nn.AvgPool2d(2), *conv_norm(in_channels, out_channels, activation=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W even -> (B, out_channels, H / 2, W / 2)."""
        y: Tensor = self.main(x) + self.side(x)
        return y


class BottleBlock(nn.Module):
    """Keeps the size: y = main(x) + shortcut(x), main = 1x1, 3x3, 1x1.

    The shortcut of a ResNet would let the raw noise through; the paper's goes through Mamba-2 (`Mamba2D`), which
    filters it. `nn.Identity()` as shortcut is the row "No mamba" of Table 3. The inner width is max(16, channels / 4).
    """

    def __init__(self, channels: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.main = _main_branch(channels, channels, stride=1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        y: Tensor = self.main(x) + self.shortcut(x)
        return y
