"""The stem of MSCAN's encoders (SegNeXt, arXiv 2209.08575), which FAMSeg's is as well."""

from typing import cast

import torch
from torch import Tensor, nn

from famseg.kernels import use_triton
from famseg.layers.basic import ALIGNED, ConvNorm, conv_norm, padded_conv


class Stem(nn.Sequential):
    """Two 3x3 convolutions with stride 2, each with its norm, a GELU between them.

    Args:
        in_channels: channels of the image.
        width: of the result.
        backend: "auto", "torch" or "triton", see `famseg.kernels`.
    """

    def __init__(self, in_channels: int, width: int, backend: str) -> None:
        half = width // 2
        first = conv_norm(in_channels, half, 3, stride=2, backend=backend)
        super().__init__(first, conv_norm(half, width, 3, stride=2, activation=False, backend=backend))
        self.backend = backend

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W multiples of 4 -> (B, width, H / 4, W / 4), channels last."""
        # Depthwise convolutions are several times faster in channels last, and so are norms on a GPU; one channel alone
        # has no such format, so the first convolution's output is where it begins.
        first, second = (cast(ConvNorm, module) for module in self)
        conv = cast(nn.Conv2d, first[0])
        aligned = conv.out_channels % ALIGNED == 0 and use_triton(
            self.backend, image
        )  # the norm takes no more channels
        x = padded_conv(image, conv, conv.bias) if aligned else conv(image)
        y: Tensor = second(first.after_conv(x.contiguous(memory_format=torch.channels_last)))
        return y
