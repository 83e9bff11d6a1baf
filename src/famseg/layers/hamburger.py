"""Hamburger: global context by matrix decomposition (arXiv 2109.04553), the decoder head of SegNeXt."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from famseg.errors import UserError
from famseg.kernels import BACKENDS, use_triton
from famseg.kernels.nmf import WIDEST, factorise, fits
from famseg.layers.basic import pointwise_conv
from famseg.layers.options import require_choice
from famseg.streams import forked

EPS = 1e-6
GROUPS = 32


class NMF(nn.Module):
    """Non-negative matrix factorisation X ~ C D^T by multiplicative updates, with the one-step gradient.

        C <- C * (X D) / (C (D^T D)),    D <- D * (X^T C) / (D (C^T C))

    The steps run without gradient; one last update of C carries it (arXiv 2109.04553, section 3.2).
    Factors are float32 (float64 for float64 input): the quotients do not bear less. The plain form wants x in that
    dtype, the kernel reads any.

    In evaluation the first D is a fixed buffer, so that a prediction never changes from run to run. In training each
    step draws one D from the default generator of the device, shared by the batch.

    x is what a ReLU gave; the kernel's gradient is zero where x is, so that the ReLU before it need not see to that.
    """

    basis: Tensor

    def __init__(
        self, channels: int, rank: int, train_steps: int = 6, eval_steps: int = 7, backend: str = "auto"
    ) -> None:
        super().__init__()
        require_choice("kernels", backend, BACKENDS)
        if backend == "triton" and not fits(rank):
            raise UserError(f"model.kernels=triton factorises up to rank {WIDEST}, not model.rank={rank}.")
        self.backend = backend
        self.train_steps, self.eval_steps = train_steps, eval_steps
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("basis", torch.rand(channels, rank, generator=generator))

    def forward(self, x: Tensor, basis: Tensor | None = None) -> Tensor:
        """Non-negative (B, N, channels) of N positions -> the same, of rank `rank`. The basis is `first_basis(x)`."""
        basis = self.first_basis(x) if basis is None else basis
        steps = self.train_steps if self.training else self.eval_steps
        if self.runs_kernel(x):
            return factorise(x, basis, steps)
        return self._factorise(x, basis.expand(x.shape[0], -1, -1), steps)

    def first_basis(self, x: Tensor) -> Tensor:
        """The first D (channels, rank) for a map of x's dtype."""
        basis = torch.rand_like(self.basis) if self.training else self.basis
        return F.normalize(basis.to(torch.promote_types(x.dtype, torch.float32)), dim=0)

    def runs_kernel(self, x: Tensor) -> bool:
        """Whether x is factorised by the Triton kernel, which reads bf16."""
        return use_triton(self.backend, x) and fits(self.basis.shape[1])

    def _factorise(self, x: Tensor, basis: Tensor, steps: int) -> Tensor:
        fixed = x.detach()
        code = torch.softmax(fixed @ basis, dim=-1)  # (B, N, rank); basis (B, channels, rank)
        for _ in range(steps):
            code = self._update_code(fixed, basis, code)
            basis = basis * (fixed.mT @ code) / (basis @ (code.mT @ code) + EPS)
        return self._update_code(x, basis, code) @ basis.mT

    @staticmethod
    def _update_code(x: Tensor, basis: Tensor, code: Tensor) -> Tensor:
        return code * (x @ basis) / (code @ (basis.mT @ basis) + EPS)


class Hamburger(nn.Module):
    """Ham (NMF) between two linear slices of bread, with a residual.

        y = relu(x + groupnorm(conv1x1(NMF(relu(conv1x1(x))))))

    Raises:
        UserError: `channels` is no multiple of 32, the groups of the norm.
    """

    def __init__(
        self, channels: int, rank: int, train_steps: int = 6, eval_steps: int = 7, backend: str = "auto"
    ) -> None:
        super().__init__()
        if channels % GROUPS:
            raise UserError(f"model.context_width={channels} is no multiple of {GROUPS}, the groups of its norm.")
        self.backend = backend
        self.bread_in = nn.Conv2d(channels, channels, 1)
        self.ham = NMF(channels, rank, train_steps, eval_steps, backend)
        self.bread_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        basis = forked(self.ham.first_basis, x)
        ham = self._rectified(x)
        with torch.autocast(x.device.type, enabled=False):
            positions = ham.permute(0, 2, 3, 1)  # (B, H, W, C)
            if not self.ham.runs_kernel(positions):
                positions = positions.to(torch.promote_types(ham.dtype, torch.float32))
            low_rank = self.ham(positions.flatten(1, 2), basis()).view_as(positions).permute(0, 3, 1, 2)
        return self._add_norm_relu(x, self.bread_out(low_rank.to(ham.dtype)))

    def _rectified(self, x: Tensor) -> Tensor:
        """Of the first slice of bread."""
        if not (torch.is_grad_enabled() and self.ham.runs_kernel(x)):
            return F.relu(pointwise_conv(x, self.bread_in, self.backend))
        from famseg.kernels.bias_gelu import bias_relu  # Triton is imported where it runs

        return cast(Tensor, bias_relu(pointwise_conv(x, self.bread_in, self.backend, bias=False), self.bread_in.bias))

    def _add_norm_relu(self, x: Tensor, h: Tensor) -> Tensor:
        if use_triton(self.backend, h):
            from famseg.kernels.group_norm import add_norm_relu  # Triton is imported where it runs

            return add_norm_relu(x.to(h.dtype), h, self.norm.weight, self.norm.bias, GROUPS, self.norm.eps)
        return F.relu(x + self.norm(h))
