"""Depthwise 3x3 convolution with bias and SiLU, in the passes of `famseg.kernels.depthwise`.

    y = silu(z),    dz = (dy [+ other]) silu'(z),    z = the convolution of x, plus bias

`other` is the gradient of y from a second reader, see `famseg.kernels.sharing`. Forward keeps no map but x.
"""

import torch
from torch import Tensor

from famseg.kernels.depthwise3 import filtered, gradients
from famseg.kernels.sharing import doubling
from famseg.kernels.tiles import channels_last, empty_map


@torch.library.custom_op("famseg::depthwise_silu", mutates_args=())
def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the zero-padded convolution plus bias.

    Args:
        x: (B, C, H, W); channels of a wider channels-last map are read where they are.
        weight: (9, C), tap by tap in reading order.
        bias: (C,).

    Returns:
        (B, C, H, W), channels last, in x's dtype; sums are float32.
    """
    return filtered(x, weight, bias, then="silu")


@depthwise_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_map(x)


@torch.library.custom_op("famseg::depthwise_silu_backward", mutates_args=())
def depthwise_silu_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, for dy + other, the latter channels last; of weight; of bias, (1, C): the latter two float32."""
    dz = filtered(x, weight, bias, dy=channels_last(dy), other=other, then="silu slope")
    return gradients(dz, x, weight, None)


@depthwise_silu_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    taps, c = weight.shape
    dweight, dbias = x.new_empty(c, taps, dtype=torch.float32).t(), x.new_empty(1, c, dtype=torch.float32)
    return empty_map(x), dweight, dbias


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = depthwise_silu_backward(dy, x, weight, bias, other)
    return dx, dweight.to(weight.dtype), dbias[0].to(bias.dtype)


depthwise_silu.register_autograd(_differentiate, setup_context=_keep)
depthwise_silu_twice = doubling(depthwise_silu, _keep, _differentiate)
