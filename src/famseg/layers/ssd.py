"""The scan of Mamba-2, state space duality (Dao & Gu, arXiv 2405.21060), over several directions of one map.

A direction is a pair (order, way): the orders are sequences of the map's pixels (row by row, column by column), the
ways of an order run first to last and last to first. Along one way, for each head,

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T,    y_t = C_t h_t,    h (N, P)

and the ways of an order are summed. B and C are shared by heads and ways, as are the products C_t B_s; A and dt are
not. The skip term D x is left to the caller: it needs no scan.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from famseg.errors import UserError
from famseg.kernels import use_triton
from famseg.kernels.scan import WIDEST, fits
from famseg.layers import mamba_kernel
from famseg.layers.options import require_choice

BACKENDS = ("auto", "reference", "chunked", "mamba_ssm", "triton")
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, backend: str = "auto") -> Tensor:
    """Scan O orders of a map in R ways each and sum the ways.

    Shapes: x (O, batch, L, H, P) with L positions, H heads of width P; dt (O, batch, L, R, H), positive; A (O, R, H),
    negative; B, C (O, batch, L, N) with N states -> (O, batch, L, H, P) in the dtype of x. R is 1 or 2.

    Decays, sums and states are float32 (float64 for float64 input), inside autocast too.

    Raises:
        UserError: unknown backend, or `mamba_ssm` where it cannot run.
    """
    scan = choose_backend(backend, x.device)
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return scan(*(t.to(dtype) for t in (x, dt, A, B, C))).to(x.dtype)


def runs_on_maps(backend: str, x: Tensor, head_width: int, state_size: int) -> bool:
    """Whether a map is scanned by the Triton kernel (`famseg.kernels.scan`), rather than as sequences by `ssd`.

    `auto` does on CUDA wherever the kernel runs.

    Raises:
        UserError: `triton` is asked for and cannot run.
    """
    if backend not in ("auto", "triton") or (backend == "auto" and x.device.type != "cuda"):
        return False
    if not use_triton(backend, x):
        return False
    if backend == "triton" and not fits(head_width, state_size):
        raise UserError(
            f"model.kernels=triton scans heads of up to {WIDEST} channels and states: model.head_width={head_width}, "
            f"model.state_size={state_size}. Use model.kernels=auto or torch."
        )
    return fits(head_width, state_size)


def choose_backend(backend: str, device: torch.device) -> Scan:
    """The one place where a scan of sequences is chosen.

    `auto` is mamba-ssm's Triton kernel on CUDA where it is installed, and the chunked form elsewhere and while a graph
    is captured (torch.compile, torch.export). `triton` takes maps (`runs_on_maps`), and sequences by the chunked form.
    """
    require_choice("kernels", backend, BACKENDS)
    if backend == "mamba_ssm" or (backend == "auto" and device.type == "cuda" and not torch.compiler.is_compiling()):
        kernel = mamba_kernel.load(required=backend == "mamba_ssm")
        if kernel is not None:
            return mamba_kernel.scan_with(kernel, device)
    return ssd_reference if backend == "reference" else ssd_chunked


def ssd_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence as it is written, one position after the other: slow, for comparison. Shapes as in `ssd`."""
    y = torch.zeros_like(x)
    for way in range(dt.shape[3]):
        decay = torch.exp(dt[:, :, :, way] * A[:, None, None, way])  # (O, batch, L, H)
        state = x.new_zeros(*x.shape[:2], x.shape[3], B.shape[-1], x.shape[4])  # (O, batch, H, N, P)
        steps = range(x.shape[2])
        outputs: dict[int, Tensor] = {}
        for t in reversed(steps) if way else steps:
            inflow = torch.einsum("obh,obn,obhp->obhnp", dt[:, :, t, way], B[:, :, t], x[:, :, t])
            state = decay[:, :, t, :, None, None] * state + inflow
            outputs[t] = torch.einsum("obn,obhnp->obhp", C[:, :, t], state)
        y = y + torch.stack([outputs[t] for t in steps], dim=2)
    return y


def ssd_chunked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 32) -> Tensor:
    """The dual form: matrix products inside chunks, a recurrence only between them. Shapes as in `ssd`.

    With inclusive sums c_t and exclusive sums e_t of dt A in a chunk, position s reaches position t of its chunk with

        C_t B_s dt_s exp(c_t - c_s)  for s <= t (way 0),    C_t B_s dt_s exp(e_s - e_t)  for s >= t (way 1),

    so that both ways share one masked product; only s = t counts twice. The tail has dt = 0: it changes no state.
    """
    length = x.shape[2]
    x, dt, B, C = (_split(t, chunk) for t in (x, dt, B, C))  # (O, batch, c, Q, ...)
    x = x.transpose(3, 4)  # (O, batch, c, H, Q, P)
    dt = dt.permute(4, 0, 1, 2, 5, 3)  # (R, O, batch, c, H, Q)
    step = dt * A.transpose(0, 1)[:, :, None, None, :, None]  # dt A
    upto = step.cumsum(-1)
    sums = torch.stack([upto[0], *(upto[1:] - step[1:]).unbind(0)])  # c of way 0, e of way 1
    total = upto[..., -1]  # (R, O, batch, c, H)

    y = _within_chunks(x, dt, sums, B, C) + _between_chunks(x, dt, sums, total, B, C)
    return y.transpose(3, 4).flatten(2, 3)[:, :, :length]


def _split(t: Tensor, chunk: int) -> Tensor:
    """(O, batch, L, ...) -> (O, batch, c, chunk, ...), zeros in the tail."""
    chunks = (t.shape[2] + chunk - 1) // chunk
    tail = t.new_zeros(*t.shape[:2], chunks * chunk - t.shape[2], *t.shape[3:])
    return torch.cat([t, tail], dim=2).view(*t.shape[:2], chunks, chunk, *t.shape[3:])


def _within_chunks(x: Tensor, dt: Tensor, sums: Tensor, B: Tensor, C: Tensor) -> Tensor:
    products = (C @ B.mT).unsqueeze(3)  # C_t B_s: (O, batch, c, 1, Q, Q)
    past = torch.ones(x.shape[4], x.shape[4], dtype=torch.bool, device=x.device).tril()  # s <= t
    exponent = sums[0].unsqueeze(-1) - sums[0].unsqueeze(-2)  # c_t - c_s
    if len(dt) == 1:  # mask before exp: inf * 0 would be nan, in the gradient too
        weight = exponent.masked_fill(~past, -torch.inf).exp() * dt[0].unsqueeze(-2)
        return (products * weight) @ x
    exponent = torch.where(past, exponent, sums[1].unsqueeze(-2) - sums[1].unsqueeze(-1))
    weight = exponent.exp() * torch.where(past, dt[0].unsqueeze(-2), dt[1].unsqueeze(-2))
    itself = (C * B).sum(-1).unsqueeze(3) * dt[1]  # s = t of way 1: (O, batch, c, H, Q)
    return (products * weight) @ x + itself.unsqueeze(-1) * x


def _between_chunks(x: Tensor, dt: Tensor, sums: Tensor, total: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What reaches a chunk from the chunks before it (way 0) and after it (way 1)."""
    rest = total.unsqueeze(-1) - sums
    leave = torch.stack([rest[0], *sums[1:].unbind(0)]).exp() * dt  # from a position to the chunk's end, start
    enter = torch.stack([sums[0], *rest[1:].unbind(0)]).exp()  # from the chunk's start, end to a position
    own = (B.mT.unsqueeze(3) * leave.unsqueeze(-2)) @ x  # states (R, O, batch, c, H, N, P)
    entering = torch.einsum("robhij,robjhnp->robihnp", _chunk_decay(total), own)
    return ((C.unsqueeze(3) @ entering) * enter.unsqueeze(-1)).sum(0)


def _chunk_decay(total: Tensor) -> Tensor:
    """Decay from chunk j, left behind, to chunk i, entered: (R, O, batch, c, H) -> (R, O, batch, H, c, c)."""
    total = total.transpose(-1, -2)
    upto = total.cumsum(-1)
    before = upto - total
    forward = before[:1].unsqueeze(-1) - upto[:1].unsqueeze(-2)  # chunks j < k < i
    backward = before[1:].unsqueeze(-2) - upto[1:].unsqueeze(-1)  # chunks i < k < j
    earlier = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=total.device).tril(-1)
    masked = [forward.masked_fill(~earlier, -torch.inf), backward.masked_fill(~earlier.mT, -torch.inf)]
    return torch.cat(masked).exp()
