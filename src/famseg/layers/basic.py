"""Small pieces that several blocks share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from famseg.errors import UserError


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch of a whole sample (arXiv 1603.09382).

    Shapes: (B, C, H, W) -> (B, C, H, W). The kept branches are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    """K x k convolution, batch norm and, unless switched off, GELU.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),  # the norm has the bias
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.GELU()) if activation else nn.Sequential(*layers)


def require_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raise UserError unless `value` is one of `choices`; `key` names the option in the message."""
    if value not in choices:
        raise UserError(f"model.{key}={value!r} is unknown; choose one of {', '.join(map(str, choices))}.")
