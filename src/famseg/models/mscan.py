"""ImageNet weights of MSCAN, SegNeXt's encoder (arXiv 2209.08575), for SegNeXt and for what of FAMSeg matches it.

That is the stem and the StripBlocks. The down-sampling convolutions and stage norms of MSCAN have no counterpart in
FAMSeg, whose ConvolutionBlocks, BottleBlocks and stage norms have none in MSCAN.
"""

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.layers.basic import ChannelNorm, ConvNorm
from famseg.layers.strip import StripBlock

logger = logging.getLogger(__name__)

URL = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext/mscan_{}.pth"
# (widths, depths) -> size, date and the first digits of the file's SHA-256
IMAGENET = {
    ((32, 64, 160, 256), (3, 3, 5, 2)): "t_20230227-119e8c9f",
    ((64, 128, 320, 512), (2, 2, 4, 2)): "s_20230227-f33ccdf2",
    ((64, 128, 320, 512), (3, 3, 12, 3)): "b_20230227-3ab7d230",
    ((64, 128, 320, 512), (3, 5, 27, 3)): "l_20230227-cef260d4",
}

# Our names -> SegNeXt's
STEM = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4"}
DOWN = {"0": "proj", "1": "norm"}
BLOCK = {
    "norm1": "norm1",
    "proj_in": "attn.proj_1",
    "attention.local": "attn.spatial_gating_unit.conv0",
    "attention.mix": "attn.spatial_gating_unit.conv3",
    "proj_out": "attn.proj_2",
    "norm2": "norm2",
    "expand": "mlp.fc1",
    "depthwise": "mlp.dwconv.dwconv",
    "project": "mlp.fc2",
}


@dataclass(frozen=True)
class Loaded:
    """Tensor names: ours that were filled, ours that keep their initial values, and the file's that were not used."""

    filled: list[str]
    missing: list[str]
    unused: list[str]

    def __str__(self) -> str:
        return (
            f"{len(self.filled)} encoder tensors loaded, {len(self.missing)} keep their initial values "
            f"({_outline(self.missing)}), {len(self.unused)} of the file not used ({_outline(self.unused)})"
        )


def load_mscan(encoder: nn.Module, weights: str | Path) -> Loaded:
    """Fill what matches of an encoder, and log and return what was filled and what was not.

    Args:
        encoder: `famseg.models.segnext.MSCAN` or `famseg.models.encoder.Encoder`; a one-channel stem takes the sum of
            the colours' weights.
        weights: a file of `torch.save` with SegNeXt's names, or "imagenet" to fetch the one for the encoder's size.

    Raises:
        UserError: no such file, no weights of MSCAN, weights of another size, or no published weights for this size.
    """
    state = _fetch(encoder) if weights == "imagenet" else _read(Path(weights))
    own = encoder.state_dict()
    theirs = {name: source for name, source in _names(encoder).items() if source in state}
    if not theirs:
        raise UserError(f"model.weights={weights} holds no MSCAN weights: none of SegNeXt's names is in it.")
    filled = {name: _fit(state, source, own[name]) for name, source in theirs.items()}
    for name, value in filled.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"model.weights={weights} is of another size: {theirs[name]} has shape {tuple(value.shape)}, "
                f"the model needs {tuple(own[name].shape)}."
            )
    encoder.load_state_dict(filled, strict=False)
    used = {*theirs.values(), *filter(None, map(_bias_before, theirs.values()))}
    loaded = Loaded([*filled], [n for n in own if n not in filled], [n for n in state if n not in used])
    logger.info("%s: %s", weights, loaded)
    return loaded


def _names(encoder: nn.Module) -> dict[str, str]:
    """Each tensor of ours that MSCAN has -> SegNeXt's name of it."""
    modules = {f"stem.{ours}": f"patch_embed1.proj.{theirs}" for ours, theirs in STEM.items()}
    exact = {}
    stages = encoder.get_submodule("stages")
    for i, stage in enumerate(stages.children()):
        blocks = [(name, block) for name, block in stage.named_children() if isinstance(block, StripBlock)]
        for b, (name, block) in enumerate(blocks):
            ours, theirs = f"stages.{i}.{name}", f"block{i + 1}.{b}"
            modules |= {f"{ours}.{mine}": f"{theirs}.{source}" for mine, source in BLOCK.items()}
            for k in range(len(block.attention.rows)):
                modules[f"{ours}.attention.rows.{k}"] = f"{theirs}.attn.spatial_gating_unit.conv{k}_1"
                modules[f"{ours}.attention.columns.{k}"] = f"{theirs}.attn.spatial_gating_unit.conv{k}_2"
            for k in (1, 2):
                exact[f"{ours}.residual{k}.scale"] = f"{theirs}.layer_scale_{k}"
        for name, module in stage.named_children():
            if isinstance(module, ChannelNorm):
                modules[f"stages.{i}.{name}"] = f"norm{i + 1}"
            elif isinstance(module, ConvNorm):  # SegNeXt's down-sampling convolution; FAMSeg has another block
                modules |= {
                    f"stages.{i}.{name}.{mine}": f"patch_embed{i + 1}.{source}" for mine, source in DOWN.items()
                }
    tensors = {name: name.rpartition(".") for name in encoder.state_dict()}
    return exact | {
        name: f"{modules[module]}.{tensor}" for name, (module, _, tensor) in tensors.items() if module in modules
    }


def _fit(state: dict[str, Tensor], source: str, own: Tensor) -> Tensor:
    """The file's tensor, brought to our form."""
    value = state[source]
    if source == "patch_embed1.proj.0.weight" and own.shape[1] == 1:
        return value.sum(1, keepdim=True)  # what the three equal colours of a grey picture come to
    bias = state.get(_bias_before(source) or "")
    return value if bias is None else value - bias  # our convolutions have none: the mean of their norm takes it away


def _bias_before(source: str) -> str | None:
    """SegNeXt's name of the bias of the convolution whose batch norm has the running mean `source`; else None."""
    embedding, _, rest = source.partition(".")
    if not embedding.startswith("patch_embed"):
        return None
    biases = {
        "proj.1.running_mean": "proj.0.bias",
        "proj.4.running_mean": "proj.3.bias",
        "norm.running_mean": "proj.bias",
    }
    return f"{embedding}.{biases[rest]}" if rest in biases else None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"model.weights={path}: there is no such file.") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"model.weights={path} is no file of PyTorch weights.") from error
    return _tensors(content, path)


def _fetch(encoder: nn.Module) -> dict[str, Tensor]:
    stages = list(encoder.get_submodule("stages").children())
    blocks = [[block for block in stage.children() if isinstance(block, StripBlock)] for stage in stages]
    size = tuple(b[0].proj_in.in_channels for b in blocks if b), tuple(len(b) for b in blocks)
    if size not in IMAGENET:
        raise UserError(
            f"model.weights=imagenet: there are none for widths {size[0]}, depths {size[1]}; use T, S, B or L."
        )
    url = URL.format(IMAGENET[size])
    try:
        content = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.weights=imagenet: cannot fetch {url} ({error}). Download it and give its path."
        ) from error
    return _tensors(content, url)


def _tensors(content: object, source: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint, which may be wrapped in "state_dict" and named "backbone." or "module."."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"model.weights={source} holds no table of weights.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module.").removeprefix("backbone."): value for name, value in tensors.items()}


def _outline(names: list[str]) -> str:
    """First parts of the names, each once: "stages.0, head"."""
    heads = [".".join(name.split(".")[:2]) if name.startswith("stages") else name.split(".")[0] for name in names]
    return ", ".join(dict.fromkeys(heads)) or "none"
