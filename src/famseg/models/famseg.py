"""FAMSeg: fetal femur and cranial ultrasound segmentation with feature-aware attention and Mamba enhancement.

The drawing and every decision that the paper leaves open are in docs/network.md.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from famseg.errors import UserError
from famseg.kernels import use_triton
from famseg.layers.basic import (
    as_autocast,
    conv_norm,
    normalised,
    padded_conv,
    require_choice,
    require_device,
    require_lengths,
    require_numbers,
    require_rate,
)
from famseg.layers.context import AggregatedDepthConv
from famseg.layers.fam import FeatureAwareUpsample, InterpolateUpsample
from famseg.layers.hamburger import Hamburger
from famseg.layers.mamba2d import Mamba2D
from famseg.layers.residual import BottleBlock, ConvolutionBlock
from famseg.layers.strip import StripBlock
from famseg.models.images import cropped, padded
from famseg.models.mscan import load_mscan

# model.kernels -> backend of the scan, backend of the other blocks with a kernel
BACKENDS = {
    "auto": ("auto", "auto"),
    "torch": ("chunked", "torch"),
    "triton": ("triton", "triton"),
    "mamba_ssm": ("mamba_ssm", "torch"),
}

# The values that differ from FAMSeg's defaults, which are those of size T.
SIZES: dict[str, dict[str, Any]] = {
    "N": {
        "widths": (16, 32, 80, 128),
        "depths": (2, 2, 3, 2),
        "decoder_widths": (128, 64, 32, 16, 16, 16),
        "fam_compressed": (32, 32, 16, 16, 16),
        "context_width": 64,
        "head_width": 16,
    },
    "T": {},
    "S": {"widths": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "decoder_widths": (512, 256, 128, 32, 16, 16)},
    "B": {
        "widths": (64, 128, 320, 512),
        "depths": (3, 3, 12, 3),
        "decoder_widths": (512, 256, 128, 32, 16, 16),
        "rank": 64,
    },
    "L": {
        "widths": (64, 128, 320, 512),
        "depths": (3, 5, 27, 3),
        "decoder_widths": (512, 256, 128, 32, 16, 16),
        "rank": 64,
    },
}


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
        backend, half = self.backend, widths[0] // 2
        self.stem = nn.Sequential(
            conv_norm(in_channels, half, 3, stride=2, backend=backend),
            conv_norm(half, widths[0], 3, stride=2, activation=False, backend=backend),
        )
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
        # Depthwise convolutions are several times faster in channels last, and so are norms on a GPU; one channel alone
        # has no such format, so the first convolution's output is where it begins.
        first = cast(nn.Conv2d, self.stem[0][0])  # type: ignore[index]
        x = padded_conv(x, first, first.bias) if use_triton(self.backend, x) else first(x)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem[1](self.stem[0].after_conv(x))  # type: ignore[operator]
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


class Decoder(nn.Module):
    """Upsamplings by 2 with a convolution after each (paper section 3.3), and the 1x1 head.

    The first two fuse f3, and f2 with the context: the encoder's last three layers. Without `refine` there is no
    convolution at full resolution, and the last upsampling's reduction is the head: it carries logits.

    Args:
        encoder_widths: of the encoder's maps.
        widths: after the neck and after each upsampling.
        upsamplings: modules widths[i] -> widths[i + 1] channels; the last one -> num_classes without `refine`.
        context: f2, f3, f4 -> a map like f2; None decodes from f4 alone.
        context_width: channels of the context.
        num_classes: channels of the logits.
        refine: a convolution at full resolution.
        backend: of convolutions' ends and the head: "auto", "torch" or "triton", see `famseg.kernels`.
    """

    def __init__(
        self,
        encoder_widths: Sequence[int],
        widths: Sequence[int],
        upsamplings: Sequence[nn.Module],
        context: nn.Module | None,
        context_width: int,
        num_classes: int,
        refine: bool,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.context, self.backend = context, backend
        self.neck = conv_norm(encoder_widths[3], widths[0], backend=backend)
        self.upsamplings = nn.ModuleList(upsamplings)
        fused = [0] * len(upsamplings)
        if context is not None:
            fused[:2] = encoder_widths[2], encoder_widths[1] + context_width
        inputs = [width + more for width, more in zip(widths[1:], fused, strict=True)]
        convs = [conv_norm(wide, width, 3, backend=backend) for wide, width in zip(inputs, widths[1:], strict=True)]
        self.convs = nn.ModuleList(convs if refine else [*convs[:-1], nn.Identity()])
        self.head = nn.Conv2d(widths[-1], num_classes, 1) if refine else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's four maps -> (B, num_classes, H, W)."""
        fused: list[list[Tensor]] = [[] for _ in self.convs]
        if self.context is not None:
            fused[:2] = [maps[2]], [maps[1], self.context(maps[1:])]
        x: Tensor = self.neck(maps[3])
        for upsample, others, conv in zip(self.upsamplings, fused, self.convs, strict=True):
            x = conv(torch.cat([upsample(x), *others], dim=1))
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        if isinstance(self.head, nn.Conv2d) and use_triton(self.backend, x):
            from famseg.kernels import head  # Triton is imported where it runs

            if head.suits(x, len(self.head.weight)):
                return cast(Tensor, head.head(as_autocast(x), self.head.weight.flatten(1), self.head.bias))
        logits: Tensor = self.head(x)
        return logits


class FAMSeg(nn.Module):
    """Image -> logits (paper section 3). The defaults are size T; `FAMSeg(**SIZES["N"])` is another one.

    Any height and width from 32 px: inside, the image's border is repeated up to a multiple of 32, and the logits are
    cropped back.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits.
        widths: of the encoder's stages, at strides 4, 8, 16, 32.
        depths: StripBlocks of each stage.
        mlp_ratios: expansion in the StripBlocks of each stage.
        bottle_blocks: BottleBlocks of each stage, m; 0 is the other reading of "No mamba" in Table 3.
        mamba: False gives the BottleBlocks an identity as shortcut: "No mamba" in Table 3.
        directions: of the Mamba scan: 1, 2 or 4.
        expand: inner width of a Mamba shortcut over the stage's.
        head_width: channels of one Mamba head.
        state_size: states of one channel in the Mamba scan.
        strip_kernels: lengths of the strip scans.
        strip_scan: "independent" (FAMSeg) or "sequential" (SegNeXt).
        fusion: "full", or "none": decode from the deepest map alone, "Apomixis" in Table 3.
        level_width: channels of each encoder layer in the aggregated depth convolution.
        context_width: channels of the context, a multiple of 32.
        rank: of the Hamburger's factorisation.
        decoder_widths: at strides 32, 16, 8, 4, 2, 1.
        upsample: "fam", "bilinear" or "nearest".
        fam_kernels: K of the five upsamplings, coarse to fine.
        fam_compressed: Cd of the five upsamplings.
        refine: a 3x3 convolution at full resolution before the head.
        drop_path: stochastic depth of the last StripBlock; grows linearly from 0.
        checkpointing: less memory, more time: backward computes the encoder's stages again. Same gradients.
        kernels: which code runs the scan, the strips, FAM and the factorisation: "auto", "torch", "triton", or
            "mamba_ssm" (its scan, the rest as "torch"). Never changes the state dict.
        weights: MSCAN's ImageNet weights for the encoder: a file, or "imagenet"; see `famseg.models.mscan`.

    Raises:
        UserError: an unknown or impossible value; in `forward`, an image of other channels or smaller than 32 px.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 3,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        bottle_blocks: Sequence[int] = (1, 1, 1, 1),
        mamba: bool = True,
        directions: int = 4,
        expand: int = 1,
        head_width: int = 32,
        state_size: int = 16,
        strip_kernels: Sequence[int] = (7, 11, 21),
        strip_scan: str = "independent",
        fusion: str = "full",
        level_width: int = 64,
        context_width: int = 256,
        rank: int = 16,
        decoder_widths: Sequence[int] = (256, 128, 64, 32, 16, 16),
        upsample: str = "fam",
        fam_kernels: Sequence[int] = (5, 5, 5, 3, 3),
        fam_compressed: Sequence[int] = (64, 64, 32, 32, 16),
        refine: bool = True,
        drop_path: float = 0.1,
        checkpointing: bool = False,
        kernels: str = "auto",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        require_choice("fusion", fusion, ("full", "none"))
        require_choice("upsample", upsample, ("fam", "bilinear", "nearest"))
        require_choice("kernels", kernels, tuple(BACKENDS))
        require_lengths(
            widths=(widths, 4),
            depths=(depths, 4),
            mlp_ratios=(mlp_ratios, 4),
            bottle_blocks=(bottle_blocks, 4),
            decoder_widths=(decoder_widths, 6),
            fam_kernels=(fam_kernels, 5),
            fam_compressed=(fam_compressed, 5),
        )
        require_numbers(1, in_channels=in_channels, num_classes=num_classes, widths=widths, mlp_ratios=mlp_ratios)
        require_numbers(1, expand=expand, head_width=head_width, state_size=state_size, strip_kernels=strip_kernels)
        require_numbers(1, level_width=level_width, context_width=context_width, rank=rank)
        require_numbers(1, decoder_widths=decoder_widths, fam_compressed=fam_compressed)
        require_numbers(0, depths=depths, bottle_blocks=bottle_blocks)
        require_rate(drop_path=drop_path)
        self.in_channels = in_channels
        scan_backend, backend = BACKENDS[kernels]
        scan: dict[str, Any] = {
            "directions": directions,
            "expand": expand,
            "head_width": head_width,
            "state_size": state_size,
            "backend": scan_backend,
        }
        strips: dict[str, Any] = {"kernels": strip_kernels, "scan": strip_scan, "backend": backend}
        self.encoder = Encoder(
            in_channels,
            widths,
            depths,
            mlp_ratios,
            bottle_blocks,
            drop_path,
            scan if mamba else None,
            strips,
            checkpointing,
        )
        context = None
        if fusion == "full":
            aggregate = AggregatedDepthConv(widths[1:], level_width, context_width, backend)
            context = nn.Sequential(aggregate, Hamburger(context_width, rank, backend=backend))
        outputs = [*decoder_widths[1:]] if refine else [*decoder_widths[1:-1], num_classes]
        upsamplings = [
            FeatureAwareUpsample(wide, narrow, compressed, kernel, backend)
            if upsample == "fam"
            else InterpolateUpsample(wide, narrow, upsample)
            for wide, narrow, compressed, kernel in zip(
                decoder_widths[:-1], outputs, fam_compressed, fam_kernels, strict=True
            )
        ]
        self.decoder = Decoder(
            widths, decoder_widths, upsamplings, context, context_width, num_classes, refine, backend
        )
        if weights is not None:
            load_mscan(self.encoder, weights)

    @classmethod
    def from_pretrained(cls, where: str | Path) -> "FAMSeg":
        """A trained FAMSeg in evaluation mode.

        `famseg.checkpoint.load_predictor` gives it with the resize and normalisation that it was trained with.

        Args:
            where: a network of the package by name, a file of weights, a checkpoint, or a run's folder.

        Raises:
            UserError: there is none, or it is of another model.
        """
        from famseg.checkpoint import load_network  # which imports models by name

        model = load_network(where)
        if not isinstance(model, cls):
            raise UserError(f"{where}: is a {type(model).__name__}, no FAMSeg. Use famseg.checkpoint.load_network.")
        return model

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W >= 32 -> logits (B, num_classes, H, W)."""
        require_device(image, cast(Tensor, self.decoder.neck[0].weight))
        logits: Tensor = self.decoder(self.encoder(padded(image, self.in_channels)))
        return cropped(logits, image)
