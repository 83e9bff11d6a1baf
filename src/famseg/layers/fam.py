"""FAM, the paper's feature-aware upsampling (section 3.3, Fig. 3): content-aware reassembly (arXiv 1905.02188)."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from famseg.errors import UserError
from famseg.kernels import BACKENDS, use_triton
from famseg.layers.basic import narrow_convolved, pointwise_conv, pointwise_conv_shared
from famseg.layers.options import require_choice
from famseg.layers.resize import resize
from famseg.streams import forked

SCALE = 2  # every FAM of the decoder doubles the map
PHASES = SCALE * SCALE  # output positions of one input position
MAX_CHANNELS = 256  # that the Triton kernels hold in registers; wider maps take the plain form
WHOLE_MAP = 2**24  # elements of all neighbourhoods up to which a map is not cut into bands: launches cost more


class FeatureAwareUpsample(nn.Module):
    """Doubles a map; each output position has its own K x K kernel, made from the features around it.

        l = conv3x3(conv1x1(x))                                  channel compressor C -> Cd, kernel reorganizer
        w = softmax over the K*K taps of l                       kernel normalisation
        y[2h + i, 2w + j] = b + sum_uv w[h, w, i, j, u, v] (R x)[h + u, w + v],    zero beyond the border

    The channels share the kernels: the text's K x K x C would be one kernel per channel. The 1x1 convolution R that
    changes the channels commutes with the reassembly and runs before it, where the map is smaller; its bias b comes
    after it, because zero padding takes softmax mass away at the border.

    Args:
        in_channels: C.
        out_channels: channels of the doubled map.
        compressed: Cd.
        kernel: K, odd, 3 or more.
        backend: "auto", "torch" or "triton", see `famseg.kernels`.

    Raises:
        UserError: an impossible K.
    """

    def __init__(
        self, in_channels: int, out_channels: int, compressed: int = 64, kernel: int = 5, backend: str = "auto"
    ) -> None:
        super().__init__()
        require_choice("kernels", backend, BACKENDS)
        if kernel < 3 or kernel % 2 == 0:
            raise UserError(f"model.fam_kernels: K={kernel} is impossible; it is odd, 3 or more.")
        self.kernel, self.backend = kernel, backend
        self.compress = nn.Conv2d(in_channels, compressed, 1)
        self.reorganize = nn.Conv2d(compressed, PHASES * kernel**2, 3, padding=1)
        nn.init.normal_(self.reorganize.weight, std=1e-3)
        self.reorganize.bias = nn.Parameter(_bilinear_logits(kernel))
        self.reduce = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W), in the input's dtype."""
        if self.reduce.out_channels <= MAX_CHANNELS and use_triton(self.backend, x):
            from famseg.kernels import fam  # Triton is imported where it runs

            tap_by_tap = forked(_tap_by_tap, self.reorganize.weight)
            compressed, x = pointwise_conv_shared(x, self.compress, self.backend)
            features, weight = pointwise_conv(x, self.reduce, self.backend), tap_by_tap()
            logits = narrow_convolved(compressed, self.reorganize, len(weight), weight)
            if logits is None:
                logits = F.conv2d(compressed, weight, padding=1)
            return fam.reassemble(features, logits, cast(Tensor, self.reorganize.bias), self.bias).to(x.dtype)
        features = pointwise_conv(x, self.reduce, self.backend)
        y = reassemble(features, self.kernels(x).to(features.dtype))
        return (y + self.bias.to(y.dtype)[:, None, None]).to(x.dtype)

    def kernels(self, x: Tensor) -> Tensor:
        """The reassembly kernels w of each position, (B, H, W, 4, K * K): output phase 2 i + j, tap K u + v."""
        logits = self.reorganize(self.compress(x)).permute(0, 2, 3, 1)
        return torch.unflatten(logits, -1, (PHASES, self.kernel**2)).softmax(-1)


def _tap_by_tap(weight: Tensor) -> Tensor:
    """The reorganizer's weight with a tap's four phases side by side, as the Triton kernels take them.

    Zeros of one more tap fill the channels up to a multiple of 8: the matrix units move 16 bytes at a time.
    """
    taps = torch.unflatten(weight.permute(0, 2, 3, 1), 0, (PHASES, -1))
    taps = F.pad(taps.transpose(0, 1), (0, 0, 0, 0, 0, 0, 0, 0, 0, 1))  # (K * K + 1, 4, 3, 3, Cd)
    return taps.flatten(0, 1).permute(0, 3, 1, 2)


def reassemble(features: Tensor, kernels: Tensor) -> Tensor:
    """Weighted sum of each position's K x K neighbourhood, once per output phase.

    Shapes: features (B, C, H, W), kernels (B, H, W, 4, K * K) -> (B, C, 2 H, 2 W), channels last.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # TorchScript cannot save a Python function
        return _reassemble(features, kernels)
    y: Tensor = _Reassemble.apply(features, kernels)
    return y


def _reassemble(features: Tensor, kernels: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    padded = _pad(features, kernels.shape[-1])
    out = features.new_empty(batch, height, SCALE, width, SCALE, channels)
    for rows in _bands(kernels, channels):
        weights, neighbours = kernels[:, rows], _neighbourhoods(padded, rows, kernels.shape[-1])
        band = weights.flatten(0, 2) @ neighbours.flatten(0, 2)  # (B h W, 4, C)
        out[:, rows] = band.view(*weights.shape[:3], SCALE, SCALE, channels).transpose(2, 3)
    return out.view(batch, SCALE * height, SCALE * width, channels).permute(0, 3, 1, 2)


def _bilinear_logits(kernel: int, floor: float = 0.01) -> Tensor:
    """Biases (4 K K,) with which FAM starts near bilinear interpolation, at the same pixel centres.

    From uniform kernels, as in CARAFE, thin structures need longer to appear. The floor keeps every tap within reach.
    """
    centre = kernel // 2
    taps = torch.zeros(SCALE, kernel)  # weights along one axis, of the first and the second output position
    taps[0, centre - 1 : centre + 1] = torch.tensor([0.25, 0.75])
    taps[1, centre : centre + 2] = torch.tensor([0.75, 0.25])
    weights = taps[:, None, :, None] * taps[None, :, None, :]  # (2, 2, K, K)
    return torch.log(weights + floor).flatten()


class _Reassemble(torch.autograd.Function):
    """One small matrix product per position, over neighbourhoods that exist only for a band of rows at a time.

    All neighbourhoods at once would be K*K/4 times the output; none is kept for backward, which gathers them anew.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(features, kernels)
        return _reassemble(features, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        features, kernels = ctx.saved_tensors
        batch, channels, height, width = features.shape
        taps = kernels.shape[-1]
        padded = _pad(features, taps)
        grad = grad.permute(0, 2, 3, 1).reshape(batch, height, SCALE, width, SCALE, channels).transpose(2, 3)
        grad_kernels, grad_padded = torch.empty_like(kernels), torch.zeros_like(padded)
        for rows in _bands(kernels, channels):
            weights, neighbours = kernels[:, rows], _neighbourhoods(padded, rows, taps)
            flat = grad[:, rows].reshape(-1, PHASES, channels)
            grad_kernels[:, rows] = (flat @ neighbours.flatten(0, 2).mT).view(weights.shape)
            _scatter_add(grad_padded, rows, (weights.flatten(0, 2).mT @ flat).view(neighbours.shape))
        half = math.isqrt(taps) // 2
        return grad_padded[:, half : half + height, half : half + width].permute(0, 3, 1, 2), grad_kernels


def _pad(features: Tensor, taps: int) -> Tensor:
    """(B, C, H, W) -> (B, H + K - 1, W + K - 1, C), zeros around."""
    return F.pad(features, (math.isqrt(taps) // 2,) * 4).permute(0, 2, 3, 1)


def _bands(kernels: Tensor, channels: int) -> list[slice]:
    """Rows to do at a time: all of a small map, else as many as keep the neighbourhoods no larger than the output.

    Captured graphs do all at once: their height is not known yet.
    """
    height, taps = kernels.shape[1], kernels.shape[-1]
    captured = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if captured or kernels.numel() // PHASES * channels <= WHOLE_MAP:
        return [slice(0, height)]
    step = -(-height // -(-taps // PHASES))
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def _neighbourhoods(padded: Tensor, rows: slice, taps: int) -> Tensor:
    """(B, H + K - 1, W + K - 1, C) -> (B, h, W, K * K, C) for h rows."""
    kernel = math.isqrt(taps)
    windows = padded[:, rows.start : rows.stop + kernel - 1].unfold(1, kernel, 1).unfold(2, kernel, 1)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3, 4)


def _scatter_add(padded: Tensor, rows: slice, neighbours: Tensor) -> None:
    """The transpose of `_neighbourhoods`, added to `padded`; one tap after the other, so that the order is fixed."""
    height, width, taps = neighbours.shape[1:4]
    kernel = math.isqrt(taps)
    for tap in range(taps):
        top, left = rows.start + tap // kernel, tap % kernel
        padded[:, top : top + height, left : left + width] += neighbours[..., tap, :]


class InterpolateUpsample(nn.Module):
    """Doubles a map by bilinear or nearest interpolation: what FAM is compared with."""

    def __init__(self, in_channels: int, out_channels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.reduce = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        y = self.reduce(x)
        size = (SCALE * x.shape[-2], SCALE * x.shape[-1])
        return resize(y, size) if self.mode == "bilinear" else F.interpolate(y, size, mode=self.mode)
