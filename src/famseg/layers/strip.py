"""Multi-branch deep strip convolution (paper section 3.2.1) in the block of MSCAN (SegNeXt, arXiv 2209.08575)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.layers.basic import DropPath, require_choice

STRIP_SCANS = ("independent", "sequential")


class StripAttention(nn.Module):
    """A gate made of a 5x5 and of long, one pixel wide depthwise scans: rows and columns.

        a = dw5x5(x)
        independent:  s = a + sum_k (dw1xk(a) + dwkx1(a))      the paper's two independent views
        sequential:   s = a + sum_k dwkx1(dw1xk(a))            SegNeXt's
        y = conv1x1(s) * x

    Summed independent scans of one map are linear: together they are exactly one 1 x max(k) and one max(k) x 1 scan
    with zero-padded, summed weights, and the summand `a` is one more tap in the centre. This merged form is what runs;
    the parameters stay those of the single kernels.

    Shapes: (B, channels, H, W) -> the same.

    Args:
        channels: width of the map.
        kernels: odd lengths of the scans.
        scan: "independent" or "sequential".

    Raises:
        UserError: unknown `scan`.
    """

    merge_identity: Tensor

    def __init__(self, channels: int, kernels: Sequence[int] = (7, 11, 21), scan: str = "independent") -> None:
        super().__init__()
        require_choice("strip_scan", scan, STRIP_SCANS)
        self.scan = scan
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.rows = nn.ModuleList(
            nn.Conv2d(channels, channels, (1, k), padding=(0, k // 2), groups=channels) for k in kernels
        )
        self.columns = nn.ModuleList(
            nn.Conv2d(channels, channels, (k, 1), padding=(k // 2, 0), groups=channels) for k in kernels
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        longest = max(kernels)
        identity = F.pad(torch.ones(1, 1, 1, 1), (longest // 2, longest // 2))
        self.register_buffer("merge_identity", identity, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.local(x)
        if self.scan == "independent":
            s = self._independent(a)
        else:
            s = a
            for row, column in zip(self.rows, self.columns, strict=True):
                s = s + column(row(a))
        return self.mix(s) * x

    def merged(self) -> tuple[Tensor, Tensor, Tensor]:
        """One scan per view that equals the sum of all: row weight (C, 1, 1, k), column weight (C, 1, k, 1), bias (C,)."""
        length = self.merge_identity.shape[-1]
        row, column = self.merge_identity, torch.zeros_like(self.merge_identity.mT)
        for r, c in zip(self.rows, self.columns, strict=True):
            pad = (length - r.weight.shape[-1]) // 2
            row = row + F.pad(r.weight, (pad, pad))
            column = column + F.pad(c.weight, (0, 0, pad, pad))
        bias = sum(conv.bias for conv in (*self.rows, *self.columns))
        return row, column, bias

    def _independent(self, a: Tensor) -> Tensor:
        row, column, bias = self.merged()
        half = row.shape[-1] // 2
        rows = F.conv2d(a, row, bias, padding=(0, half), groups=a.shape[1])
        return rows + F.conv2d(a, column, padding=(half, 0), groups=a.shape[1])


class StripBlock(nn.Module):
    """MSCAN's block around the strip attention: token mixing, then an MLP with a depthwise 3x3.

        n = norm(x);  x = x + g1 * (conv1x1(attention(gelu(conv1x1(n)))) + n)
        x = x + g2 * conv1x1(gelu(dw3x3(conv1x1(norm(x)))))

    Shapes: (B, channels, H, W) -> the same. `g1`, `g2` are layer scales (C,), 0.01 at the start.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        kernels: Sequence[int] = (7, 11, 21),
        scan: str = "independent",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = channels * mlp_ratio
        self.norm1 = nn.BatchNorm2d(channels)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.attention = StripAttention(channels, kernels, scan)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.norm2 = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.scale2 = nn.Parameter(torch.full((channels,), 1e-2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm1(x)
        mixed = self.proj_out(self.attention(F.gelu(self.proj_in(n)))) + n
        x = x + self.drop_path(self.scale1[:, None, None] * mixed)
        hidden = F.gelu(self.depthwise(self.expand(self.norm2(x))))
        return x + self.drop_path(self.scale2[:, None, None] * self.project(hidden))
