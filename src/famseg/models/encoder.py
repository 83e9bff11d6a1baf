"""FAMSeg's encoder."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from famseg.layers.basic import normalised
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.residual import BottleBlock, ConvolutionBlock
from famseg.layers.stem import Stem
from famseg.layers.strip import StripBlock


class Encoder(nn.Module):
    """Stem and four stages (paper section 3.2).

    Stem: two 3x3 convolutions with stride 2. Stage: ConvolutionBlock (not in the first: the stem has down-sampled),
    BottleBlocks, StripBlocks, norm.

    Args:
        in_channels: channels of the image.
        widths: of the stages.
        depths: StripBlocks of the stages.
        mlp_ratios: expansion in the StripBlocks of the stages.
        bottle_blocks: BottleBlocks of the stages.
        drop_path: rate of the last StripBlock.
        mamba: arguments of the `Mamba2D` shortcuts; None for identity shortcuts.
        strips: arguments of the `StripBlock`s, their backend among them, which is the stem's as well.
        checkpointing: keep no map within a stage for backward, which computes the stages again.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[int],
        bottle_blocks: Sequence[int],
        drop_path: float,
        mamba: dict[str, Any] | None,
        strips: dict[str, Any],
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing, self.backend = checkpointing, strips["backend"]
        backend = self.backend
        self.stem = Stem(in_channels, widths[0], backend)
        rates = iter(drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            down = [ConvolutionBlock(widths[i - 1], width, backend)] if i > 0 else []
            shortcuts = [nn.Identity() if mamba is None else Mamba2D(width, **mamba) for _ in range(bottle_blocks[i])]
            bottles = [BottleBlock(width, shortcut, backend) for shortcut in shortcuts]
            scans = [StripBlock(width, mlp_ratios[i], drop_path=next(rates), **strips) for _ in range(depths[i])]
            self.stages.append(nn.Sequential(*down, *bottles, *scans, nn.BatchNorm2d(width)))
        if checkpointing:
            for norm in self.stages.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    # backward repeats the forward pass and its update of the running statistics: two equal steps of
                    # this momentum are one of the original
                    norm.momentum = 1 - math.sqrt(1 - (norm.momentum or 0.0))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W), H and W multiples of 32 -> (B, widths[i], H / 2^(i+2), W / 2^(i+2)), i = 0 to 3."""
        x = self.stem(x)
        maps, repeat = [], self.checkpointing and self.training
        for stage in self.stages:
            x = checkpoint(self._stage, stage, x, use_reentrant=False) if repeat else self._stage(stage, x)
            maps.append(x)
        return maps

    def _stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        *blocks, norm = stage.children()
        for block in blocks:
            x = block(x)
        return normalised(x, norm, self.backend)
