"""A trained network for prediction: its batch norms are part of the convolutions beside them."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from famseg.kernels import use_triton
from famseg.layers.basic import ConvNorm, Shift
from famseg.layers.context import AggregatedDepthConv
from famseg.layers.strip import StripBlock


def folded(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode that computes the same with fewer passes over its maps.

    A norm by fixed statistics is a linear map of each channel: one behind a convolution scales its outputs, one before
    a 1x1 convolution (`StripBlock.norm2`) its inputs. Norms that follow a convolution in an `nn.Sequential` are folded
    in any network, those elsewhere in our own layers only. Where a Triton kernel does what follows the convolution, it
    adds the bias, too, which cuDNN would take another pass for: there a `Shift` remains.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: it is in training mode.
    """
    if model.training:
        raise ValueError("a network in training has no fixed statistics to fold")
    result = copy.deepcopy(model)
    for module in result.modules():
        if isinstance(module, nn.Sequential):
            _fold_neighbours(module)
        elif isinstance(module, StripBlock) and isinstance(module.norm2, nn.BatchNorm2d):
            module.expand, module.norm2 = _after_norm(module.norm2, module.expand), nn.Identity()  # type: ignore[assignment]
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
def _after_norm(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """The 1x1 convolution of what the norm gives."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    result = copy.deepcopy(conv)
    result.weight.mul_(scale[:, None, None])
    assert result.bias is not None
    result.bias.add_(conv.weight.flatten(1) @ shift)
    return result
