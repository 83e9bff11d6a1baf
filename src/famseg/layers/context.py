"""Aggregated depth convolution (paper section 3.2.1): features of several encoder layers, one wide receptive field."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from famseg.kernels import use_triton
from famseg.layers.basic import as_autocast, normalised, pointwise_conv, taps_and_bias
from famseg.layers.resize import stacked


class AggregatedDepthConv(nn.Module):
    """Brings encoder layers to one width and size, stacks them and scans the stack with a depthwise 7x7.

        g = conv1x1(gelu(norm(dw7x7(concat_i resize(conv1x1_i(f_i))))))

    A sum of depthwise 3x3, 5x5 and 7x7 is by linearity one depthwise 7x7. The 1x1 and the bilinear resize commute: the
    1x1 runs on the small map.
    """

    def __init__(
        self, in_channels: Sequence[int], level_channels: int, out_channels: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.backend = backend
        width = level_channels * len(in_channels)
        self.levels = nn.ModuleList(nn.Conv2d(c, level_channels, 1) for c in in_channels)
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, out_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, in_channels[i], H_i, W_i), the first one sets the size -> (B, out_channels, H_0, W_0)."""
        levels = [
            pointwise_conv(x, cast(nn.Conv2d, level), self.backend) for level, x in zip(self.levels, maps, strict=True)
        ]
        scanned = self._scanned(stacked(levels, self.backend))
        return pointwise_conv(normalised(scanned, self.norm, self.backend, gelu=True), self.project, self.backend)

    def _scanned(self, x: Tensor) -> Tensor:
        if not use_triton(self.backend, x):
            return cast(Tensor, self.depthwise(x))
        from famseg.kernels.depthwise import depthwise  # not without Triton

        return cast(Tensor, depthwise(as_autocast(x), *taps_and_bias(self.depthwise), gelu=False))
