"""The scan of Mamba2D on a map, in all its directions: three launches forward, three backward.

Orders (rows, columns), ways (first to last, last to first) and the recurrence are those of `famseg.layers.ssd`, the
plain twin. A row's pixels lie beside each other, a column's a row apart: the programs compute the places, no map is
permuted. With r the raw time step of a direction and head, and per order

    dt = softplus(r + bias),    a = -exp(A_log) dt,    chunks of Q positions,    T = sum of a in a chunk,
    c_t = sum_{k <= t} a_k,    e_t = sum_{k < t} a_k  (from the chunk's first position on)

    way 0:  W_ts = [s <= t] dt_s exp(c_t - c_s),   enter_t = exp(c_t),       leave_s = exp(T - c_s)
    way 1:  W_ts = [s >= t] dt_s exp(e_s - e_t),   enter_t = exp(T - e_t),   leave_s = exp(e_s)

Forward.
  1. States added by each chunk:  S = sum_s leave_s dt_s B_s x_s^T                    (N, P)
     With them, for the later programs:  T, exp(T);  c or e, dt;  log dt - c or log dt + e, of W's exponent what s gives
  2. Passed on, in a way's running order:  E_first = 0,  E_next = exp(T) E + S        E enters a chunk
  3. y_t = sum_s (C_t B_s) (W0 + W1)_ts x_s + sum_ways enter_t C_t E;  rows add skip * x. Both ways share one product:
     on and below the diagonal it is way 0, above it way 1; way 1's diagonal, dt_t C_t B_t, goes beside skip.

Backward, from dy.
  1. What each chunk adds to the gradient of E:  sum_t enter_t C_t dy_t^T
  2. Passed on against the running order, with the same T:  D, the gradient of S (of what leaves a chunk)
  3. With G = dy x^T,  M = (C B^T) (W0 + W1)  and  R_ts = G_ts (C_t B_s) W_ts  of one way:
       dx = M^T dy + sum_ways leave dt (B D)          dB = sum_heads (G (W0 + W1))^T C + sum leave dt (x D^T)
       dC = sum_heads (G (W0 + W1)) B + sum enter (dy E^T)            dskip = sum_t x_t dy_t
       d dt_s = sum_t R_ts / dt_s + leave_s B_s D x_s + A da_s,      dA_log = sum da a,      dr = d dt sigmoid(r + bias)
     Log decays. The chunk's own products give row sums minus column sums of R to c (way 0), the opposite to e (way 1);
     the diagonal cancels and is left out. With came_t = enter_t C_t E dy_t,  went_s = leave_s dt_s B_s D x_s  and
     F = exp(T) <E, D>:
       way 0:  da_k = sum_{t >= k} (dc_t + came_t) + sum_{s < k} went_s + F
       way 1:  da_k = sum_{t > k} (de_t + went_t) + sum_{t <= k} came_t + F
     All sums but the first are of parts that really span k; the first needs the same R for rows and columns. They are
       sum_s R_ts = C_t ((G W) B)_t,    sum_t R_ts = B_s ((G W)^T C)_s
     below and above the diagonal: what dC and dB are made of, and rows of products lie in one warp each.

Precision: decays, sums, states and their gradients are float32; operands of products are bf16 for bf16 maps, else
float32 without tf32; G W has 16 bits of mantissa. Each order writes its own result and its own gradient of the map, the
kernels that read them add the two; parameters' gradients are sums of the chunks' parts. Nothing is atomic: results are
reproducible, and independent of the batch's other images.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from famseg.streams import for_weight

CHUNK = 64  # positions; halving it doubles the states, doubling it the products within chunks
LAUNCH: dict[str, dict[str, int]] = {  # options of each program; benchmarks/scan_sweep.py tries others
    "states": {"num_warps": 4},
    "pass": {"num_warps": 1},
    "outputs": {"num_warps": 4},
    "gradients": {"num_warps": 4, "num_stages": 1},
}
ONE_HEAD = {"maxnreg": 168}  # of its gradients: three programs share a processor; of more heads it would spill too much
PASS_TILE, PASS_BLOCK = 16, 64  # chunks, elements of a state
WIDEST = 64  # of states and of head width: what the blocks of a program hold


def fits(head_width: int, state_size: int) -> bool:
    """Whether the programs hold heads of this width with so many states."""
    return max(head_width, state_size) <= WIDEST


def scan_map(
    mixed: list[Tensor], dt: Tensor, bias: Tensor, A_log: Tensor, skip: Tensor, ways: int, state_size: int
) -> Tensor:
    """Scan a map in all directions, sum those of an order, add skip * x for each direction to the rows' order.

    Shapes: mixed (B, H, W, heads P + 2 N), the channels of x, B, C; dt (B, H, W, directions * heads), raw; bias, A_log,
    skip (directions * heads,) -> (orders, B, H, W, heads P) in the dtype of mixed. The ways of an order follow each
    other, as do the heads of a direction. Any strides.

    The orders' results are for the reader to add, and their gradients of the map for whoever made it: `mixed` has it
    once for each order.
    """
    y: Tensor = scan(mixed, dt, bias.float(), A_log.float(), skip.float(), ways, state_size)[0]
    return y


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a call say."""

    batch: int
    height: int
    width: int
    orders: int
    ways: int
    heads: int
    head_width: int
    states: int

    @property
    def chunks(self) -> int:
        """Of one order and image."""
        return (self.height * self.width + CHUNK - 1) // CHUNK

    @property
    def shape_of_states(self) -> tuple[int, ...]:
        """One state of every direction, image, chunk and head."""
        sequences = (self.orders * self.ways, self.batch, self.chunks, self.heads)
        return *sequences, self.states, self.head_width

    def runtime(self) -> tuple[int, ...]:
        """The sizes that every program on chunks takes, in its order."""
        return self.height, self.width, self.chunks, self.heads, self.head_width, self.states

    def constants(self, dtype: torch.dtype) -> dict[str, Any]:
        """What the programs on chunks are compiled for."""
        return {
            "WAYS": self.ways,
            "BLOCK_P": _block(self.head_width),
            "BLOCK_N": _block(self.states),
            "Q": CHUNK,
            "NARROW": dtype == torch.bfloat16,
        }


def _block(count: int) -> int:
    """The power of two that holds `count`, and that a matrix product takes."""
    return max(16, 1 << (count - 1).bit_length())


def _sizes(mixed: Tensor, dt: Tensor, orders: int, ways: int, state_size: int) -> Sizes:
    batch, height, width, channels = mixed.shape
    heads = dt.shape[-1] // (orders * ways)
    return Sizes(batch, height, width, orders, ways, heads, (channels - 2 * state_size) // heads, state_size)


@torch.library.custom_op("famseg::scan_map", mutates_args=())
def scan(
    mixed: list[Tensor], dt: Tensor, bias: Tensor, A_log: Tensor, skip: Tensor, ways: int, state_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> y of each order (orders, B, H, W, heads P); and what backward needs.

    These are the states that enter the chunks (directions, B, chunks, heads, N, P), the chunks' T and exp(T)
    (2, directions, B, chunks, heads), and what `chunk_states` says of each position (3, directions, B, chunks, heads,
    Q).
    """
    from famseg.kernels import scan_programs as programs
    from famseg.kernels.launch import start

    sizes, x = _sizes(mixed[0], dt, len(mixed), ways, state_size), mixed[0]
    y, states, totals, vectors = _empty_results(x, sizes)
    source, steps = (x, *x.stride()), (dt, *dt.stride(), bias, A_log)
    first_B = sizes.heads * sizes.head_width
    grid = (sizes.chunks, sizes.orders * sizes.heads, sizes.batch)
    constants = sizes.constants(x.dtype)
    start(
        programs.chunk_states, grid,
        x, 0, *x.stride(), *source, first_B, *steps, states, *totals, *vectors, *sizes.runtime(),
        GRADIENT=False, **LAUNCH["states"], **constants,
    )  # fmt: skip
    _pass(states, totals[1], sizes, gradient=False)
    start(
        programs.chunk_outputs, grid,
        *source, skip, states, totals[0], *vectors, y, *sizes.runtime(), **LAUNCH["outputs"], **constants,
    )  # fmt: skip
    return y, states, totals, vectors


@scan.register_fake
def _(
    mixed: list[Tensor], dt: Tensor, bias: Tensor, A_log: Tensor, skip: Tensor, ways: int, state_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_results(mixed[0], _sizes(mixed[0], dt, len(mixed), ways, state_size))


def _empty_results(mixed: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = sizes.shape_of_states
    y = mixed.new_empty(sizes.orders, sizes.batch, sizes.height, sizes.width, sizes.heads * sizes.head_width)
    of_chunks = shape, (2, *shape[:4]), (3, *shape[:4], CHUNK)
    states, totals, vectors = (mixed.new_empty(s, dtype=torch.float32) for s in of_chunks)
    return y, states, totals, vectors


def _pass(states: Tensor, decays: Tensor, sizes: Sizes, gradient: bool) -> None:
    from famseg.kernels import scan_programs as programs
    from famseg.kernels.launch import start

    elements = sizes.states * sizes.head_width
    sequences = sizes.orders * sizes.ways * sizes.batch * sizes.heads
    start(
        programs.pass_states, (sequences, (elements + PASS_BLOCK - 1) // PASS_BLOCK),
        states, decays, sizes.chunks, sizes.heads, sizes.batch, elements,
        GRADIENT=gradient, WAYS=sizes.ways, TILE=PASS_TILE, BLOCK=PASS_BLOCK, **LAUNCH["pass"],
    )  # fmt: skip


@torch.library.custom_op("famseg::scan_map_backward", mutates_args=())
def scan_backward(
    dy: Tensor, mixed: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor, skip: Tensor, states: Tensor, totals: Tensor,
    vectors: Tensor, orders: int, ways: int, state_size: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """-> dmixed of each order (orders, B, H, W, channels), d dt; dbias, dA_log and dskip (3, directions * heads)."""
    from famseg.kernels import scan_programs as programs
    from famseg.kernels.launch import start
    from famseg.kernels.partials import merged
    from famseg.kernels.scan_gradients import chunk_gradients

    sizes = _sizes(mixed, dt, orders, ways, state_size)
    dmixed, ddt = _empty_gradients(mixed, dt, orders)
    partials = dt.new_empty(sizes.batch * sizes.chunks, 3, dt.shape[-1], dtype=torch.float32)
    gradients = torch.empty_like(states)
    source, steps = (mixed, *mixed.stride()), (dt, *dt.stride(), bias, A_log)
    first_C = sizes.heads * sizes.head_width + sizes.states
    constants = sizes.constants(mixed.dtype)
    options = (ONE_HEAD if sizes.heads == 1 else {}) | LAUNCH["gradients"]
    start(
        programs.chunk_states, (sizes.chunks, sizes.orders * sizes.heads, sizes.batch),
        dy, *dy.stride(), *source, first_C, *steps, gradients, *totals, *vectors, *sizes.runtime(),
        GRADIENT=True, **LAUNCH["states"], **constants,
    )  # fmt: skip
    _pass(gradients, totals[1], sizes, gradient=True)
    start(
        chunk_gradients, (sizes.chunks, sizes.orders, sizes.batch),
        *source, A_log, skip, dy, *dy.stride(), states, totals[0], *vectors, gradients, dmixed, ddt, partials,
        *sizes.runtime(), **options, **constants,
    )  # fmt: skip
    return dmixed, ddt, for_weight(merged, partials)


@scan_backward.register_fake
def _(
    dy: Tensor, mixed: Tensor, dt: Tensor, bias: Tensor, A_log: Tensor, skip: Tensor, states: Tensor, totals: Tensor,
    vectors: Tensor, orders: int, ways: int, state_size: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return *_empty_gradients(mixed, dt, orders), dt.new_empty(3, dt.shape[-1], dtype=torch.float32)


def _empty_gradients(mixed: Tensor, dt: Tensor, orders: int) -> tuple[Tensor, Tensor]:
    return mixed.new_empty(orders, *mixed.shape), dt.new_empty(dt.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    mixed, *tensors, ctx.ways, ctx.state_size = inputs
    ctx.orders = len(mixed)
    ctx.save_for_backward(mixed[0], *tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor, *_: None) -> tuple[Any, ...]:
    dmixed, ddt, parameters = scan_backward(dy, *ctx.saved_tensors, ctx.orders, ctx.ways, ctx.state_size)
    return list(dmixed), ddt, *parameters, None, None


scan.register_autograd(_backward, setup_context=_setup_context)
