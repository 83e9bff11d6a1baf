"""SegNeXt: MSCAN and a Hamburger head (arXiv 2209.08575), from the layers of FAMSeg, which grew out of it.

Where it differs from the published code, docs/models.md says so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.layers.basic import ChannelNorm, conv_norm
from famseg.layers.hamburger import GROUPS, Hamburger
from famseg.layers.options import require_lengths, require_numbers, require_rate
from famseg.layers.resize import resize
from famseg.layers.stem import Stem
from famseg.layers.strip import StripBlock
from famseg.models.images import cropped, padded
from famseg.models.mscan import load_mscan

# The values that differ from SegNeXt's defaults, which are those of size T.
SIZES: dict[str, dict[str, Any]] = {
    "T": {},
    "S": {"widths": (64, 128, 320, 512), "depths": (2, 2, 4, 2)},
    "B": {"widths": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "head_width": 512, "rank": 64},
    "L": {
        "widths": (64, 128, 320, 512),
        "depths": (3, 5, 27, 3),
        "head_width": 1024,
        "rank": 64,
        "drop_path": 0.3,
    },
}


class MSCAN(nn.Module):
    """SegNeXt's encoder: a stem with stride 4, then four stages of strip blocks, each closed by a layer norm.

    Stages two to four begin with a 3x3 convolution with stride 2 and batch norm.

    Args:
        in_channels: channels of the image.
        widths: of the stages.
        depths: StripBlocks of the stages.
        mlp_ratios: expansion in the StripBlocks of the stages.
        drop_path: rate of the last StripBlock; grows linearly from 0.
        backend: of the strips, see `famseg.kernels`.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[int],
        drop_path: float,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, widths[0], backend)
        rates = iter(drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            down = [conv_norm(widths[i - 1], width, 3, 2, activation=False, backend=backend)] if i > 0 else []
            options: dict[str, Any] = {"scan": "sequential", "backend": backend}
            blocks = [StripBlock(width, mlp_ratios[i], drop_path=next(rates), **options) for _ in range(depths[i])]
            self.stages.append(nn.Sequential(*down, *blocks, ChannelNorm(width)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> (B, widths[i], H / 2^(i+2), W / 2^(i+2)), i = 0 to 3."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class HamburgerHead(nn.Module):
    """The last three maps at the size of the first of them, a Hamburger over their stack, and a 1x1 classifier.

    Args:
        in_channels: of the three maps.
        width: of the Hamburger, a multiple of 32.
        rank: of its factorisation.
        num_classes: channels of the logits.
        dropout: how often training hides a channel from the classifier.
        backend: of the factorisation, see `famseg.kernels`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        width: int,
        rank: int,
        num_classes: int,
        dropout: float,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.squeeze = _conv_group_norm(sum(in_channels), width)
        self.hamburger = Hamburger(width, rank, backend=backend)
        self.align = _conv_group_norm(width, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, in_channels[i], H_i, W_i), i = 0 to 2 -> (B, num_classes, H_0, W_0)."""
        size = maps[0].shape[-2:]
        stack = [maps[0], *(resize(x, size) for x in maps[1:])]
        x = self.align(self.hamburger(self.squeeze(torch.cat(stack, dim=1))))
        logits: Tensor = self.classify(self.dropout(x))
        return logits


def _conv_group_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)  # the norm has the bias
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, out_channels), nn.ReLU())


class SegNeXt(nn.Module):
    """Image -> logits. The defaults are size T; `SegNeXt(**SIZES["B"])` is another one.

    Any height and width from 32 px: inside, the image's border is repeated up to a multiple of 32, and the logits are
    cropped back.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits.
        widths: of the encoder's stages, at strides 4, 8, 16, 32.
        depths: StripBlocks of each stage.
        mlp_ratios: expansion in the StripBlocks of each stage.
        head_width: of the Hamburger head, a multiple of 32.
        rank: of the Hamburger's factorisation.
        dropout: how often training hides a channel from the classifier.
        drop_path: stochastic depth of the last StripBlock; grows linearly from 0.
        kernels: which code runs the strips and the factorisation: "auto", "torch" or "triton". Never changes the state
            dict.
        weights: MSCAN's ImageNet weights for the encoder: a file, or "imagenet"; see `famseg.models.mscan`.

    Raises:
        UserError: an impossible value; in `forward`, an image of other channels or smaller than 32 px.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 3,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        head_width: int = 256,
        rank: int = 16,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        kernels: str = "auto",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        require_lengths(widths=(widths, 4), depths=(depths, 4), mlp_ratios=(mlp_ratios, 4))
        require_numbers(1, in_channels=in_channels, num_classes=num_classes, widths=widths, mlp_ratios=mlp_ratios)
        require_numbers(1, head_width=head_width, rank=rank)
        require_numbers(0, depths=depths)
        require_rate(dropout=dropout, drop_path=drop_path)
        if head_width % GROUPS:
            raise UserError(f"model.head_width={head_width} is no multiple of {GROUPS}, the groups of its norms.")
        self.in_channels = in_channels
        self.encoder = MSCAN(in_channels, widths, depths, mlp_ratios, drop_path, kernels)
        self.head = HamburgerHead(widths[1:], head_width, rank, num_classes, dropout, kernels)
        if weights is not None:
            load_mscan(self.encoder, weights)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W >= 32 -> logits (B, num_classes, H, W)."""
        x = padded(image, self.in_channels)
        logits: Tensor = self.head(self.encoder(x)[1:])
        return cropped(resize(logits, x.shape[-2:]), image)
