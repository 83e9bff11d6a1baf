"""Mamba-2 on a map: the shortcut of the BottleBlock (paper section 3.2.2; Mamba-2: arXiv 2405.21060)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.kernels.scan import scan_map
from famseg.layers.basic import padded_pointwise, pointwise_conv, taps_and_bias
from famseg.layers.options import require_choice
from famseg.layers.ssd import runs_on_maps, ssd

DIRECTIONS = (1, 2, 4)
EPSILON = 1e-5  # of the norm


class Mamba2D(nn.Module):
    """Scans a map along its rows and columns, forwards and backwards, and gates the sum.

        z, x, B, C, dt = in_proj(u);    x, B, C = silu(dw3x3(x, B, C))
        y = sum_d [scan_d(x, softplus(dt_d + bias_d), -exp(A_log_d), B, C) + D_d x]
        out = out_proj(rmsnorm(y * silu(z)))

    The depthwise 3x3 stands where Mamba-2 has a causal convolution. The directions share B and C; each has its own A,
    D and dt: `A_log`, `D`, `dt_bias` are (directions * heads,), the rows' two ways first. 1 direction: rows; 2: rows
    both ways; 4: columns too.

    Args:
        channels: width of the map.
        directions: 1, 2 or 4.
        expand: inner width over `channels`.
        head_width: channels of one head; divides the inner width.
        state_size: N, states of one channel.
        backend: see `famseg.layers.ssd`.

    Raises:
        UserError: unknown directions, or a head width that does not divide the inner width.
    """

    def __init__(
        self,
        channels: int,
        directions: int = 4,
        expand: int = 1,
        head_width: int = 32,
        state_size: int = 16,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        require_choice("directions", directions, DIRECTIONS)
        inner = channels * expand
        if inner % head_width:
            raise UserError(
                f"model.head_width={head_width} does not divide the inner width {inner} of a Mamba shortcut."
            )
        self.heads, self.backend = inner // head_width, backend
        self.orders, self.ways = (directions + 1) // 2, min(directions, 2)
        self.head_width, self.states = head_width, state_size
        self.split = [inner, inner + 2 * state_size, directions * self.heads]
        self.in_proj = nn.Conv2d(channels, sum(self.split), 1, bias=False)
        mixed = self.split[1]
        self.conv = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed)
        self.A_log = nn.Parameter(torch.empty(self.split[2]).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.split[2]))
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.split[2]))
        self.norm = nn.RMSNorm(inner, eps=EPSILON)
        self.out_proj = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        if runs_on_maps(self.backend, u, self.head_width, self.states):
            return pointwise_conv(self._by_kernels(u).permute(0, 3, 1, 2), self.out_proj, self.backend, bias=False)
        out: Tensor = self.out_proj(self._plain(u).permute(0, 3, 1, 2))
        return out

    def _by_kernels(self, u: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, H, W, inner)."""
        from famseg.kernels.depthwise_silu import depthwise_silu_twice  # Triton is imported where it runs
        from famseg.kernels.gated_norm import gated_norm
        from famseg.kernels.split import split

        z, mixed, dt = split(padded_pointwise(u, self.in_proj), self.split)
        twice = depthwise_silu_twice(mixed.permute(0, 3, 1, 2), *taps_and_bias(self.conv))
        orders = [t.permute(0, 2, 3, 1) for t in twice[: self.orders]]
        y = scan_map(orders, dt, self.dt_bias, self.A_log, self.D, self.ways, self.states)
        return gated_norm(y, z, self.norm.weight, EPSILON)

    def _plain(self, u: Tensor) -> Tensor:
        """The same in PyTorch's functions."""
        z, mixed, dt = torch.split(self.in_proj(u), self.split, dim=1)
        y = self._scan_and_skip(F.silu(self.conv(mixed)), dt)
        normed: Tensor = self.norm((y * F.silu(z.permute(0, 2, 3, 1))).to(self.norm.weight.dtype))
        return normed

    def _scan_and_skip(self, mixed: Tensor, dt: Tensor) -> Tensor:
        skip = self.D.view(-1, self.heads).sum(0)  # the sum of the directions' D x is one product
        x = torch.unflatten(mixed[:, : self.split[0]].permute(0, 2, 3, 1), -1, (self.heads, -1))
        return (x * skip[:, None].to(x.dtype)).flatten(-2) + self._scan(mixed, dt)

    def _scan(self, mixed: Tensor, dt: Tensor) -> Tensor:
        height, width = mixed.shape[-2:]
        x, B, C = torch.split(self._in_orders(mixed), [self.split[0], self.states, self.states], dim=-1)
        dt = torch.unflatten(self._in_orders(dt), -1, (self.orders, self.ways, self.heads))
        dt = torch.stack([dt[i, :, :, i] for i in range(self.orders)])  # each order its own: (O, B, H W, R, heads)
        bias, A_log = (p.view(self.orders, self.ways, self.heads) for p in (self.dt_bias, self.A_log))
        dt = F.softplus(dt + bias[:, None, None])
        y = ssd(torch.unflatten(x, -1, (self.heads, -1)), dt, -A_log.exp(), B, C, self.backend).flatten(-2)
        rows = torch.unflatten(y[0], 1, (height, width))
        return rows if self.orders == 1 else rows + torch.unflatten(y[1], 1, (width, height)).transpose(1, 2)

    def _in_orders(self, t: Tensor) -> Tensor:
        """(B, C, H, W) -> (O, B, H W, C): the pixels row by row and, with two orders, column by column."""
        sequences = [t.permute(0, 2, 3, 1).flatten(1, 2), t.permute(0, 3, 2, 1).flatten(1, 2)]
        return torch.stack(sequences[: self.orders])


def _initial_dt_bias(number: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """Biases whose softplus is log-uniform in [low, high], as in Mamba-2."""
    dt = torch.empty(number).uniform_(math.log(low), math.log(high)).exp()
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
