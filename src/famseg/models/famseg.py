"""FAMSeg: fetal femur and cranial ultrasound segmentation with feature-aware attention and Mamba enhancement.

The drawing and every decision that the paper leaves open are in docs/network.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from famseg.errors import UserError
from famseg.layers.context import AggregatedDepthConv
from famseg.layers.fam import FeatureAwareUpsample, InterpolateUpsample
from famseg.layers.hamburger import Hamburger
from famseg.layers.options import require_choice, require_device, require_lengths, require_numbers, require_rate
from famseg.models.decoder import Decoder
from famseg.models.encoder import Encoder
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
        kernels: which code runs the scan, the strips, norms, FAM and the factorisation: "auto", "torch", "triton", or
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
