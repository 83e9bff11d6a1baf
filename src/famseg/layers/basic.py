"""Small pieces that several blocks share."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.kernels import use_triton

ALIGNED = 8  # half-precision channels in the 16 bytes that a GPU loads at once
DIVISIBLE = 16  # a stride that it divides is one that Triton loads 16 bytes at once by


class ScaledResidual(nn.Module):
    """x + s * branch: layer scale s (arXiv 2103.17239) and, in training, stochastic depth (arXiv 1603.09382).

    Both are factors of the branch, so that together they cost one pass over the map.

    Args:
        channels: of the map; s is (channels,), 0.01 at the start.
        drop_rate: how often a sample loses its branch; the kept ones are scaled by 1 / (1 - drop_rate).
    """

    def __init__(self, channels: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-2))
        self.drop_rate = drop_rate

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """X and branch (B, channels, H, W) -> the same."""
        factor, draws = self.scale[:, None, None], self.draws(x)
        if draws is not None:
            kept = (draws >= self.drop_rate) / (1.0 - self.drop_rate)
            factor = factor * kept[:, None, None, None]
        return torch.addcmul(x, factor.to(x.dtype), branch.to(x.dtype))

    def draws(self, x: Tensor) -> Tensor | None:
        """A number in [0, 1) for each sample (B,), below drop_rate where it loses its branch; None where none does."""
        if not self.training or self.drop_rate == 0.0:
            return None
        return torch.rand(len(x), device=x.device)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and perhaps GELU, of which the last two are one kernel on a GPU in training.

    Args:
        modules: the convolution, the norm, and a GELU or none.
        backend: "auto", "torch" or "triton", see `famseg.kernels`.
    """

    def __init__(self, *modules: nn.Module, backend: str) -> None:
        super().__init__(*modules)
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> what the convolution makes of it."""
        return self.after_conv(convolved(x, cast(nn.Conv2d, self[0]), self.backend))

    def after_conv(self, x: Tensor) -> Tensor:
        """The norm, and the GELU if there is one."""
        return normalised(x, self[1], self.backend, gelu=len(self) > 2)


def normalised(x: Tensor, norm: nn.Module, backend: str, gelu: bool = False) -> Tensor:
    """A batch norm and, if asked for, GELU: (B, C, H, W) -> the same."""
    if use_triton(backend, x):
        from famseg.kernels.norm import batch_norm, suits  # Triton is imported where it runs

        if suits(norm, x):
            return batch_norm(x, cast(nn.BatchNorm2d, norm), gelu)
        if gelu and isinstance(norm, Shift):
            from famseg.kernels.bias_gelu import bias_gelu

            return cast(Tensor, bias_gelu(x, norm.bias))
    y: Tensor = norm(x)
    return F.gelu(y) if gelu else y


def normalised_shared(x: Tensor, norm: nn.Module, backend: str) -> tuple[Tensor, Tensor]:
    """`normalised(x, ...)`, and x for its other reader: on a GPU the norm's kernel adds both readers' gradients."""
    if use_triton(backend, x):
        from famseg.kernels.norm import batch_norm_shared, suits  # Triton is imported where it runs

        if suits(norm, x):
            return batch_norm_shared(x, cast(nn.BatchNorm2d, norm))
    return normalised(x, norm, backend), x


class Shift(nn.Module):
    """What is left of a batch norm whose scale has gone into the convolution before it (`famseg.folding`).

    Args:
        bias: (C,).
    """

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return x + self.bias[:, None, None].to(x.dtype)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    activation: bool = True,
    backend: str = "torch",
) -> ConvNorm:
    """Convolution, batch norm and, unless switched off, GELU.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)  # the norm has the bias
    layers = [conv, nn.BatchNorm2d(out_channels)]
    return ConvNorm(*layers, nn.GELU(), backend=backend) if activation else ConvNorm(*layers, backend=backend)


def convolved(x: Tensor, conv: nn.Conv2d, backend: str) -> Tensor:
    """What the convolution makes of a map."""
    if conv.bias is None and use_triton(backend, x):
        y = narrow_convolved(x, conv, conv.out_channels)
        if y is not None:
            return y
    return cast(Tensor, conv(x))


def narrow_convolved(x: Tensor, conv: nn.Conv2d, channels: int, weight: Tensor | None = None) -> Tensor | None:
    """What a 3x3 convolution of few channels makes of a large map, without its bias, by its kernel; None for others.

    Shapes: (B, C, H, W) -> (B, channels, H', W'), those beyond the weight's are zero. The weight is the convolution's,
    or one of another order and width.
    """
    from famseg.kernels.narrow import narrow_conv, suits

    if not suits(conv, channels, x, autocast_dtype(x)):
        return None
    return cast(
        Tensor, narrow_conv(as_autocast(x), conv.weight if weight is None else weight, channels, conv.stride[0])
    )


def padded_conv(x: Tensor, conv: nn.Conv2d, bias: Tensor | None = None) -> Tensor:
    """A convolution with this bias, its channels filled up with zeros to multiples of 8 where they are none.

    The matrix units read and write 16 bytes at a time: cuDNN copies narrower maps, or takes a kernel several times
    slower. Shapes: (B, C, H, W) -> (B, output channels and zeros, H', W').
    """
    out, inner = (-n % ALIGNED for n in conv.weight.shape[:2])
    y = narrow_convolved(x, conv, conv.out_channels + out) if bias is None else None
    if y is not None:
        return y
    weight = as_autocast(conv.weight)  # before it is wider
    if out or inner:
        weight = F.pad(weight, (0, 0, 0, 0, 0, inner, 0, out))
    if inner:
        narrow = as_autocast(x)
        x = F.pad(narrow.permute(0, 2, 3, 1), (0, inner)).permute(0, 3, 1, 2)  # channels last
    bias = F.pad(bias, (0, out)) if bias is not None else None
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def padded_pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution without bias whose result is filled up with zeros to a multiple of 16 channels.

    For kernels that read channels of the result where they are; see `padded_conv`. Shapes: (B, C, H, W) -> (B, output
    channels and zeros, H, W).
    """
    from famseg.kernels.pointwise import pointwise, suits  # Triton is imported where it runs

    x, weight, fill = as_autocast(x), as_autocast(conv.weight), -conv.out_channels % DIVISIBLE
    if fill:
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, fill))
    return pointwise(x, weight) if torch.is_grad_enabled() and suits(x, weight) else F.conv2d(x, weight)


def pointwise_conv(x: Tensor, conv: nn.Conv2d, backend: str, bias: bool = True) -> Tensor:
    """A 1x1 convolution, with its bias if asked for.

    In training a kernel makes all gradients from one pass where that saves bytes, elsewhere the bias's alone: PyTorch's
    sum over the pixels takes several times as long as its bytes. Shapes: (B, C, H, W) -> (B, output channels, H, W).
    """
    return pointwise_conv_shared(x, conv, backend, bias)[0]


def pointwise_conv_shared(x: Tensor, conv: nn.Conv2d, backend: str, bias: bool = True) -> tuple[Tensor, Tensor]:
    """`pointwise_conv(x, ...)`, and x for its other reader: where backward is one kernel, it adds both gradients."""
    if not (torch.is_grad_enabled() and use_triton(backend, x)):
        return cast(Tensor, conv(x)) if bias else F.conv2d(x, conv.weight), x
    from famseg.kernels import pointwise  # Triton is imported where it runs
    from famseg.kernels.bias_gelu import add_bias

    rounded, weight, offset = as_autocast(x), as_autocast(conv.weight), conv.bias if bias else None
    if pointwise.suits(rounded, weight):
        y, shared = pointwise.pointwise_shared(rounded, weight, None if offset is None else as_autocast(offset))
        return y, shared if rounded is x else x  # the other reader gets x as it was
    y = F.conv2d(rounded, weight)
    return y if offset is None else cast(Tensor, add_bias(y, offset)), x


def taps_and_bias(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weights (taps, C) and bias (C,), if it has one, of a depthwise convolution, as the kernels take them."""
    weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
    return weight.flatten(1).t().contiguous(), bias


def as_autocast(x: Tensor) -> Tensor:
    """A map or weight in the dtype in which autocast would hand it to a convolution; it does not see our kernels."""
    return x.to(autocast_dtype(x))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast would hand a map to a convolution."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
