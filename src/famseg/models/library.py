"""Networks of segmentation_models.pytorch with encoders of timm, as image -> logits of any size."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.layers.options import require_choice, require_numbers
from famseg.models.images import cropped, padded, require_batch

DECODERS = {"unet": "Unet", "upernet": "UPerNet", "fpn": "FPN"}  # ours -> the library's class
# First letters of an encoder -> what frees it of its training's size
ANY_SIZE: dict[str, dict[str, Any]] = {"swin": {"strict_img_size": False}}


class LibraryModel(nn.Module):
    """A decoder of segmentation_models.pytorch on an encoder of timm.

    Any height and width from 32 px: inside, the image's border is repeated up to a multiple of 32, and the logits are
    cropped back.

    Args:
        encoder: timm's name, such as "resnet34" or "swin_tiny_patch4_window7_224".
        decoder: "unet", "upernet" or "fpn".
        in_channels: channels of the image.
        num_classes: channels of the logits.
        weights: of the encoder: None, "imagenet" (fetched by timm) or a file of such weights; a one-channel stem takes
            the sum of the colours' weights.

    Raises:
        UserError: an unknown value, weights that cannot be fetched or do not belong to the encoder; in `forward`, an
            image of other channels or smaller than 32 px, or a batch of one in training of "upernet".
    """

    def __init__(
        self,
        encoder: str,
        decoder: str,
        in_channels: int = 1,
        num_classes: int = 3,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        require_choice("decoder", decoder, tuple(DECODERS))
        require_numbers(1, in_channels=in_channels, num_classes=num_classes)
        self.in_channels, self.decoder = in_channels, decoder
        self.network = _build(encoder, decoder, in_channels, num_classes, weights)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), H and W >= 32 -> logits (B, num_classes, H, W)."""
        x = padded(image, self.in_channels)
        if self.training and self.decoder == "upernet":
            require_batch(image, "UPerNet")
        return cropped(self.network(x), image)


def _build(encoder: str, decoder: str, in_channels: int, num_classes: int, weights: str | Path | None) -> nn.Module:
    import segmentation_models_pytorch as library  # takes seconds, which FAMSeg's own networks need not wait for
    import timm

    if not timm.is_model(encoder):
        raise UserError(f"model.encoder={encoder} is unknown to timm: timm.list_models() names those that it has.")
    options = next((value for start, value in ANY_SIZE.items() if encoder.startswith(start)), {})
    if weights not in (None, "imagenet"):
        _require_weights_of(encoder, Path(str(weights)))
        options = options | {"pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        network: nn.Module = getattr(library, DECODERS[decoder])(
            f"tu-{encoder}",
            encoder_weights=None if weights is None else True,
            in_channels=in_channels,
            classes=num_classes,
            **options,
        )
    except Exception as error:  # timm, its hub and the network beneath raise a dozen types
        if weights is None:
            raise UserError(
                f"model.encoder={encoder} does not go with model.decoder={decoder} ({error}). "
                "Use an encoder with maps at strides 4, 8, 16 and 32."
            ) from error
        hub = timm.get_pretrained_cfg(encoder).hf_hub_id
        raise UserError(
            f"model.weights={weights}: cannot load the weights of {encoder} ({type(error).__name__}: {error}). "
            f"Go online, or download {hub} of the Hugging Face hub elsewhere and give its file: model.weights=PATH."
        ) from error
    attention: Any
    for attention in network.modules():
        if type(attention).__name__ == "LocallyGroupedAttn":  # of Twins
            attention.fused_attn = False  # five dimensions: no kernel fuses them, and ONNX has no form for a fused call
    return network


def _require_weights_of(encoder: str, path: Path) -> None:
    """Refuse what timm would pass over in silence: a file with hardly a tensor of the encoder's names."""
    import timm
    from timm.models import load_state_dict

    try:
        names = load_state_dict(str(path), weights_only=True).keys()
    except FileNotFoundError as error:
        raise UserError(f"model.weights={path}: there is no such file.") from error
    except Exception as error:  # torch and safetensors raise a dozen types for damaged files
        raise UserError(f"model.weights={path} is no file of PyTorch or safetensors weights.") from error
    with torch.device("meta"):
        own = timm.create_model(encoder).state_dict().keys()
    if 2 * len(own & names) < len(own):
        raise UserError(
            f"model.weights={path} holds {len(own & names)} of the {len(own)} tensors of {encoder}: it is another "
            "network's. Use timm's file for this encoder."
        )
