"""The two residual blocks of the paper's section 3.2.2."""

from typing import cast

from torch import Tensor, nn

from famseg.kernels import use_triton
from famseg.layers.basic import conv_norm, normalised
from famseg.streams import forked


def _main_branch(in_channels: int, out_channels: int, stride: int, backend: str) -> nn.Sequential:
    inner = max(16, out_channels // 4)
    return nn.Sequential(
        conv_norm(in_channels, inner, 1, backend=backend),
        conv_norm(inner, inner, 3, stride, backend=backend),
        conv_norm(inner, out_channels, 1, activation=False, backend=backend),
    )


class ConvolutionBlock(nn.Module):
    """Halves the map: y = main(x) + conv1x1(average_pool2x2(x)), main = 1x1, 3x3 with stride 2, 1x1.

    The inner width is max(16, out_channels / 4).
    """

    def __init__(self, in_channels: int, out_channels: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.main = _main_branch(in_channels, out_channels, 2, backend)
        self.side = nn.Sequential(nn.AvgPool2d(2), *conv_norm(in_channels, out_channels, activation=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W even -> (B, out_channels, H / 2, W / 2)."""
        side = forked(self._beside, x)
        y: Tensor = self.main(x) + side()
        return y

    def _beside(self, x: Tensor) -> Tensor:
        _, conv, norm = self.side
        return normalised(conv(self._pooled(x)), norm, self.backend)

    def _pooled(self, x: Tensor) -> Tensor:
        if not use_triton(self.backend, x):
            return cast(Tensor, self.side[0](x))
        from famseg.kernels.pool import average_pool  # not without Triton

        return cast(Tensor, average_pool(x))


class BottleBlock(nn.Module):
    """Keeps the size: y = main(x) + shortcut(x), main = 1x1, 3x3, 1x1.

    The shortcut of a ResNet would let the raw noise through; the paper's goes through Mamba-2 (`Mamba2D`), which
    filters it. `nn.Identity()` as shortcut is the row "No mamba" of Table 3. The inner width is max(16, channels / 4).
    """

    def __init__(self, channels: int, shortcut: nn.Module, backend: str = "auto") -> None:
        super().__init__()
        self.main = _main_branch(channels, channels, 1, backend)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        shortcut = forked(self.shortcut, x)
        y: Tensor = self.main(x) + shortcut()
        return y
