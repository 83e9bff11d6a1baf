"""Multi-branch deep strip convolution (paper section 3.2.1) in the block of MSCAN (SegNeXt, arXiv 2209.08575)."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.kernels import BACKENDS, use_triton
from famseg.layers.basic import (
    ScaledResidual,
    as_autocast,
    normalised_shared,
    pointwise_conv,
    pointwise_conv_shared,
    taps_and_bias,
)
from famseg.layers.options import require_choice

STRIP_SCANS = ("independent", "sequential")


class StripAttention(nn.Module):
    """A gate made of a 5x5 and of long depthwise scans, one pixel wide, of the rows and of the columns.

        a = dw5x5(x)
        independent:  s = a + sum_k (dw1xk(a) + dwkx1(a))      the paper's two independent views
        sequential:   s = a + sum_k dwkx1(dw1xk(a))            SegNeXt's
        y = conv1x1(s) * x

    Summed independent scans of one map are linear: together they are exactly one 1 x max(k) and one max(k) x 1 scan
    with zero-padded, summed weights, and the summand `a` is one more weight in the centre. This merged form is what
    runs; the parameters stay those of the single scans.

    Args:
        channels: width of the map.
        kernels: odd lengths of the scans, ascending.
        scan: "independent" or "sequential".
        backend: "auto", "torch" or "triton", see `famseg.kernels`.

    Raises:
        UserError: unknown `scan`, or kernels that are not odd and ascending.
    """

    def __init__(
        self,
        channels: int,
        kernels: Sequence[int] = (7, 11, 21),
        scan: str = "independent",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        require_choice("strip_scan", scan, STRIP_SCANS)
        require_choice("kernels", backend, BACKENDS)
        if not kernels or any(k % 2 == 0 for k in kernels) or list(kernels) != sorted(set(kernels)):
            raise UserError(
                f"model.strip_kernels={list(kernels)}: the lengths are odd and ascending, such as [7, 11, 21]."
            )
        self.scan, self.backend = scan, backend
        self.local = _depthwise(channels, 5, 5)
        self.rows = nn.ModuleList(_depthwise(channels, 1, k) for k in kernels)
        self.columns = nn.ModuleList(_depthwise(channels, k, 1) for k in kernels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, again: Tensor | None = None) -> Tensor:
        """(B, channels, H, W) -> the same. `again` is x for the gate, where x's maker adds the gradients of both."""
        gated = x if again is None else again
        if use_triton(self.backend, x):
            return self._by_kernels(x, gated)
        gate: Tensor = self.mix(self._scans(x))
        return gate * gated

    def merged(self) -> tuple[Tensor, Tensor, Tensor]:
        """All independent scans as one of rows (C, 1, 1, k), one of columns (C, 1, k, 1) and one bias (C,)."""
        taps, bias = self._merged_taps()
        row, column = taps[:, None].unbind(2)
        return row[:, :, None], column[..., None], bias

    def _merged_taps(self) -> tuple[Tensor, Tensor]:
        """Taps (C, 2, k), rows before columns, and bias (C,): one concatenation, since a GPU feels every small step."""
        rows, columns = (cast(Iterable[nn.Conv2d], convs) for convs in (self.rows, self.columns))
        bias = torch.stack([cast(Tensor, conv.bias) for conv in (*rows, *columns)]).sum(0)
        longest = max(max(conv.kernel_size) for conv in (*rows, *columns))
        zeros, ones = bias.new_zeros(len(bias), longest), bias.new_ones(len(bias), 1)
        centre = zeros[:, : longest // 2]
        layers = [centre, ones, centre, zeros]  # `a` itself, by rows and by columns
        for conv in (conv for pair in zip(rows, columns, strict=True) for conv in pair):
            taps = conv.weight.flatten(1)
            margin = zeros[:, : (longest - taps.shape[1]) // 2]
            layers += [margin, taps, margin]
        return torch.cat(layers, 1).view(len(bias), -1, 2, longest).sum(1), bias

    def _scans(self, x: Tensor) -> Tensor:
        a: Tensor = self.local(x)
        if a.device.type == "cpu" and a.dtype == torch.bfloat16:
            a = a.contiguous()  # oneDNN 3 never returns from 21 taps of 16 channels, channels last (AVX-512 BF16)
        if self.scan == "independent":
            row, column, bias = self.merged()
            half = row.shape[-1] // 2
            rows = F.conv2d(a, row, bias, padding=(0, half), groups=a.shape[1])
            return rows + F.conv2d(a, column, padding=(half, 0), groups=a.shape[1])
        s = a
        for scan_rows, scan_columns in zip(self.rows, self.columns, strict=True):
            s = s + scan_columns(scan_rows(a))
        return s

    def _by_kernels(self, x: Tensor, gated: Tensor) -> Tensor:
        from famseg.kernels.bias_product import bias_product  # not without Triton
        from famseg.kernels.gate import gate, suits

        s = self._scans_by_kernels(as_autocast(x))
        if s.dtype == x.dtype and suits(x):
            return cast(Tensor, gate(s, gated, self.mix.weight.flatten(1), self.mix.bias))
        mixed = pointwise_conv(s, self.mix, self.backend, bias=False)
        return cast(Tensor, bias_product(mixed, self.mix.bias, gated))

    def _scans_by_kernels(self, x: Tensor) -> Tensor:
        from famseg.kernels.depthwise import depthwise
        from famseg.kernels.merge import merge_scans
        from famseg.kernels.strip import BOTH, COLUMNS, ROWS, strip_scans

        a: Tensor = depthwise(x, *taps_and_bias(self.local), gelu=False)
        if self.scan == "independent":
            scans = [cast(nn.Conv2d, conv) for conv in (*self.rows, *self.columns)]
            weights, biases = [conv.weight for conv in scans], [cast(Tensor, conv.bias) for conv in scans]
            return cast(Tensor, strip_scans(a, *merge_scans(weights, biases), BOTH))
        s = a
        for rows, columns in zip(self.rows, self.columns, strict=True):
            s = s + strip_scans(strip_scans(a, *taps_and_bias(rows), ROWS), *taps_and_bias(columns), COLUMNS)
        return s


def _depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class StripBlock(nn.Module):
    """MSCAN's block around the strip attention: token mixing, then an MLP with a depthwise 3x3.

        n = norm(x);  x = x + s1 * (conv1x1(attention(gelu(conv1x1(n)))) + n)
        x = x + s2 * conv1x1(gelu(dw3x3(conv1x1(norm(x)))))

    Args:
        channels: width of the map.
        mlp_ratio: expansion in the MLP.
        kernels: see `StripAttention`.
        scan: see `StripAttention`.
        drop_path: rate of stochastic depth.
        backend: see `StripAttention`.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        kernels: Sequence[int] = (7, 11, 21),
        scan: str = "independent",
        drop_path: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend = backend
        hidden = channels * mlp_ratio
        self.norm1 = nn.BatchNorm2d(channels)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.attention = StripAttention(channels, kernels, scan, backend)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.residual1 = ScaledResidual(channels, drop_path)
        self.norm2 = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = _depthwise(hidden, 3, 3)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.residual2 = ScaledResidual(channels, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        n, x = normalised_shared(x, self.norm1, self.backend)
        attended, n = self._attended(n)
        x = self._add(x, self.residual1, self._without_bias(attended, self.proj_out), self.proj_out, n)
        n, x = normalised_shared(x, self.norm2, self.backend)
        return self._add(x, self.residual2, self._mlp(n), self.project)

    def _attended(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """attention(gelu(conv1x1(n))), and n for its other reader."""
        if not use_triton(self.backend, n):
            return self.attention(F.gelu(self.proj_in(n))), n
        from famseg.kernels.bias_gelu import bias_gelu_twice  # not without Triton

        z, n = pointwise_conv_shared(n, self.proj_in, self.backend, bias=False)
        return self.attention(*bias_gelu_twice(z, self.proj_in.bias)), n

    def _mlp(self, n: Tensor) -> Tensor:
        """conv1x1(gelu(dw3x3(conv1x1(n)))), the last one's bias as in `_without_bias`.

        The kernel of the 3x3 adds the first one's bias, which would take a pass over the widest map. In training the
        GELU goes to the last one, where its kernel can: what is kept is then the 3x3's result, which backward needs.
        """
        if not use_triton(self.backend, n):
            return cast(Tensor, self.project(F.gelu(self.depthwise(self.expand(n)))))
        from famseg.kernels.depthwise import depthwise  # not without Triton
        from famseg.kernels.gelu_pointwise import gelu_pointwise, suits

        hidden, weight = as_autocast(self._without_bias(n, self.expand)), self.project.weight
        last = torch.is_grad_enabled() and suits(hidden, weight)
        z = depthwise(hidden, *taps_and_bias(self.depthwise), gelu=not last, input_bias=self.expand.bias)
        return cast(Tensor, gelu_pointwise(z, as_autocast(weight))) if last else self._without_bias(z, self.project)

    def _without_bias(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """A 1x1 convolution; by kernels without its bias, which the next one adds."""
        return pointwise_conv(x, conv, self.backend, bias=False) if use_triton(self.backend, x) else conv(x)

    def _add(
        self, x: Tensor, scaled: ScaledResidual, branch: Tensor, conv: nn.Conv2d, other: Tensor | None = None
    ) -> Tensor:
        """X + scaled (branch + other), for a branch that is the convolution's result `_without_bias`."""
        if not use_triton(self.backend, x):
            return cast(Tensor, scaled(x, branch if other is None else branch + other))
        from famseg.kernels.residual import residual  # not without Triton

        bias = cast(Tensor, conv.bias)
        return residual(x, branch, bias, scaled.scale, other, scaled.draws(x), scaled.drop_rate)
