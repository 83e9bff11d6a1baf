"""A trained network for prediction: its batch norms are part of the convolutions beside them."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from famseg.kernels import use_triton
from famseg.layers.basic import ConvNorm, Shift
from famseg.layers.context import AggregatedDepthConv
from famseg.layers.strip import StripBlock

LEAST = 1e-3  # of a norm's scales, over its largest, that can be divided by


def folded(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode that computes the same with fewer passes over its maps.

    A norm by fixed statistics is a linear map of each channel: one behind a convolution scales its outputs, one before
    a 1x1 convolution (in a `StripBlock`) its inputs. Norms that follow a convolution in an `nn.Sequential` are folded
    in any network, those elsewhere in our own layers only.

    cuDNN takes another pass for a bias: where a Triton kernel does what follows the convolution, it adds the bias as
    well, and a `Shift` remains of the norm.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: it is in training mode.
    """
    if model.training:
        raise ValueError("a network in training has no fixed statistics to fold")
    result = copy.deepcopy(model)
    for module in list(result.modules()):
        if isinstance(module, nn.Sequential):
            _fold_neighbours(module)
        elif isinstance(module, StripBlock):
            _fold_strip_block(module)
        elif isinstance(module, AggregatedDepthConv):
            pair = _before_norm(module.depthwise, module.norm, module.backend)
            module.depthwise, module.norm = pair  # type: ignore[assignment]
    return result


def _fold_neighbours(row: nn.Sequential) -> None:
    backend = row.backend if isinstance(row, ConvNorm) and len(row) > 2 else "torch"
    for i in range(len(row) - 1):
        if isinstance(row[i], nn.Conv2d) and type(row[i + 1]) is nn.BatchNorm2d:  # some libraries' have an activation
            row[i], row[i + 1] = _before_norm(cast(nn.Conv2d, row[i]), cast(nn.BatchNorm2d, row[i + 1]), backend)


def _before_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, backend: str) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution that does what both do, and what remains of the norm."""
    conv = fuse_conv_bn_eval(conv, norm)
    bias = conv.bias
    if bias is None or not use_triton(backend, bias):
        return conv, nn.Identity()
    conv.bias = None
    return conv, Shift(nn.Parameter(bias, requires_grad=bias.requires_grad))


@torch.no_grad()
def _fold_strip_block(block: StripBlock) -> None:
    """Both norms go into the 1x1 convolutions behind them.

    The first one's result n = a x + b is needed once more, in x + s (c + n) with c = proj_out(...); this is
    x + s a ((c + b) / a + x), so that proj_out and s take it up, unless a channel's a is as good as zero.
    """
    a, b = _scale_and_shift(block.norm2)
    _take_up(block.expand, a, b)
    block.norm2 = nn.Identity()  # type: ignore[assignment]
    a, b = _scale_and_shift(block.norm1)
    if a.abs().min() <= LEAST * a.abs().max():
        return
    _take_up(block.proj_in, a, b)
    bias = cast(Tensor, block.proj_out.bias)
    bias.copy_((bias + b) / a)
    block.proj_out.weight.div_(a[:, None, None, None])
    block.residual1.scale.mul_(a)
    block.norm1 = nn.Identity()  # type: ignore[assignment]


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _take_up(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Make a 1x1 convolution that of scale x + shift."""
    cast(Tensor, conv.bias).add_(conv.weight.flatten(1) @ shift)
    conv.weight.mul_(scale[:, None, None])
