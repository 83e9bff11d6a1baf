"""A trained network for prediction: its batch norms are part of the convolutions beside them."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from famseg.layers.basic import ConvNorm
from famseg.layers.strip import StripBlock


def folded(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode that computes the same with fewer passes over its maps.

    A norm by fixed statistics is a linear map of each channel: one behind a convolution scales its outputs, one before
    a 1x1 convolution (`StripBlock.norm2`) its inputs. Folded are networks of our own layers; others stay as they are.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: it is in training mode.
    """
    if model.training:
        raise ValueError("a network in training has no fixed statistics to fold")
    result = copy.deepcopy(model)
    for module in result.modules():
        if isinstance(module, ConvNorm) and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()  # type: ignore[type-var]
        if isinstance(module, StripBlock) and isinstance(module.norm2, nn.BatchNorm2d):
            module.expand, module.norm2 = _after_norm(module.norm2, module.expand), nn.Identity()  # type: ignore[assignment]
    return result


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
