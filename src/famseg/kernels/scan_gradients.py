"""The Triton program of the scan's gradients within chunks; see `famseg.kernels.scan` and `scan_programs`."""

import triton
import triton.language as tl

from famseg.kernels.dots import product
from famseg.kernels.scan_programs import VARIABLE, add_pairs, load_block, pixels, skips_of, store_block, weights


@triton.jit
def sigmoid_of(step):
    """The derivative of softplus where it is `step`: 1 - exp(-step), by its series where that would lose digits."""
    series = 1 / 6 - step * (1 / 24 - step * (1 / 120 - step * (1 / 720)))
    series = step * (1 - step * (1 / 2 - step * series))
    return tl.where(step < 0.25, series, 1 - tl.exp(-step))


@triton.jit
def laid_out(x, BLOCK: tl.constexpr, NARROW: tl.constexpr):
    """(Q, BLOCK): x itself in float32; of bf16 as a product, so that it lies where products lie without barriers."""
    if NARROW:
        i = tl.arange(0, BLOCK)
        x = product(x, tl.where(i[:, None] == i[None, :], 1.0, 0.0), NARROW)
    return x


@triton.jit
def down_and_along(block, B, C, NARROW: tl.constexpr):
    """block^T C and block B with 16 bits of the block's mantissa: sums over R that cancel are taken of them."""
    if NARROW:
        most = (block.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)  # what bf16 holds of it
        rest = block - most
        down = product(tl.trans(most), C, NARROW) + product(tl.trans(rest), C, NARROW)
        along = product(most, B, NARROW) + product(rest, B, NARROW)
    else:
        down, along = product(tl.trans(block), C, NARROW), product(block, B, NARROW)
    return down, along


@triton.jit
def state_block(states, place, N, P, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr):
    """(BLOCK_N, BLOCK_P): a state, with zeros around it."""
    n, p = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_P)[None, :]
    return tl.load(states + place * N * P + n * P + p, mask=(n < N) & (p < P), other=0.0)


@triton.jit
def through_states(
    step, upto, total, entering, gradient, x, dy, B, laid_B, laid_C, WAY: tl.constexpr, NARROW: tl.constexpr
):
    """One way's part of dx, dB, dC; left (of d dt), came and F."""
    enter, leave = tl.exp(upto if WAY == 0 else total - upto), tl.exp(total - upto if WAY == 0 else upto)
    dx = (leave * step)[:, None] * product(B, gradient, NARROW)
    dB = leave[:, None] * product(x, tl.trans(gradient), NARROW)  # of dt B
    dC = enter[:, None] * product(dy, tl.trans(entering), NARROW)
    left, came = tl.sum(laid_B * dB, 1), tl.sum(laid_C * dC, 1)
    return dx, dB * step[:, None], dC, left, came, tl.exp(total) * tl.sum(entering * gradient)


@triton.jit
def add_fives(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    """For five sums at once."""
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def step_gradient(step, A, down, itself, left, da):
    """dr, and the parts of d A_log; `down`: sums over R's columns without the diagonal, `itself`: dy_t x_t C_t B_t."""
    direct = down / tl.where(step > 0, step, 1.0) + itself + left  # no step: the sums are 0
    return (direct + A * da) * sigmoid_of(step), da * A * step


@triton.jit(do_not_specialize=VARIABLE)
def chunk_gradients(
    mixed, m_b, m_y, m_x, m_c,
    A_log, skip,
    dy_map, g_o, g_b, g_y, g_x, g_c,
    states, totals, sums, sources, steps, gradients, dmixed, ddt, partials,
    H, W, chunks, heads, P, N,
    WAYS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk and order, head after head; all (Q, Q) blocks first, their products take fewer registers.

    All is loaded long before it is used: no load waits for another's numbers. dmixed is (order, sample, row, column,
    channel). Partials (sample and chunk, 3, direction and head): this chunk's sums for bias, A_log and, from the rows'
    order, skip.
    """
    chunk, order, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    batch, directions = tl.num_programs(2), tl.num_programs(1) * WAYS * heads
    row, column, exists = pixels(chunk, order, H, W, Q)
    m_at = b * m_b + row * m_y + column * m_x
    g_at = order.to(tl.int64) * g_o + b * g_b + row * g_y + column * g_x
    pixel = b * H * W + row * W + column
    out_at = (order.to(tl.int64) * batch * H * W + pixel) * (heads * P + 2 * N)
    part = partials + (b * chunks + chunk) * 3 * directions
    t, s = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    other = batch.to(tl.int64) * chunks * heads
    dB, dC = tl.zeros((Q, BLOCK_N), tl.float32), tl.zeros((Q, BLOCK_N), tl.float32)
    for head in range(heads):
        B = load_block(mixed, m_at, m_c, heads * P, exists, N, BLOCK_N)  # again each time: they would take registers
        C = load_block(mixed, m_at, m_c, heads * P + N, exists, N, BLOCK_N)
        x = load_block(mixed, m_at, m_c, head * P, exists, P, BLOCK_P)
        dy = load_block(dy_map, g_at, g_c, head * P, exists, P, BLOCK_P)
        place = ((order * WAYS * batch + b) * chunks + chunk) * heads + head
        laid_B, laid_C = laid_out(B, BLOCK_N, NARROW), laid_out(C, BLOCK_N, NARROW)
        i = tl.arange(0, Q)
        channel = order * WAYS * heads + head
        every, rows = skips_of(head, heads, order, tl.num_programs(1) * WAYS)
        own_skip = tl.load(skip + every, mask=rows, other=0.0)
        A0, total0 = -tl.exp(tl.load(A_log + channel)), tl.load(totals + place)
        step0, upto0 = tl.load(steps + place * Q + i), tl.load(sums + place * Q + i)
        A1, total1, step1, upto1 = A0, total0, step0, upto0
        if WAYS == 2:
            A1, total1 = -tl.exp(tl.load(A_log + channel + heads)), tl.load(totals + place + other)
            at = (place + other) * Q + i
            step1, upto1 = tl.load(steps + at), tl.load(sums + at)
        W01 = weights(sums, sources, place, other, WAYS, Q)
        M = product(C, tl.trans(B), NARROW) * W01
        dx = product(tl.trans(M), dy, NARROW)
        G = product(dy, tl.trans(x), NARROW) * W01
        entering0 = state_block(states, place, N, P, BLOCK_N, BLOCK_P)
        gradient0 = state_block(gradients, place, N, P, BLOCK_N, BLOCK_P)
        entering1, gradient1 = entering0, gradient0
        if WAYS == 2:
            entering1 = state_block(states, place + other, N, P, BLOCK_N, BLOCK_P)
            gradient1 = state_block(gradients, place + other, N, P, BLOCK_N, BLOCK_P)
        below = tl.where(s < t, G, 0.0)
        more_B, more_C = down_and_along(below, B, C, NARROW)
        dB, dC = dB + more_B, dC + more_C
        down0 = tl.sum(more_B * laid_B, 1)
        inner0 = tl.sum(more_C * laid_C, 1) - down0
        down1, inner1 = down0, inner0
        if WAYS == 2:
            above = tl.where(s > t, G, 0.0)
            more_B, more_C = down_and_along(above, B, C, NARROW)
            dB, dC = dB + more_B, dC + more_C
            down1 = tl.sum(more_B * laid_B, 1)
            inner1 = down1 - tl.sum(more_C * laid_C, 1)

        more_x, more_B, more_C, left0, came0, state0 = through_states(
            step0, upto0, total0, entering0, gradient0, x, dy, B, laid_B, laid_C, 0, NARROW
        )
        dx, dB, dC = dx + more_x, dB + more_B, dC + more_C
        left1, came1, state1 = left0, came0, state0
        if WAYS == 2:
            more_x, more_B, more_C, left1, came1, state1 = through_states(
                step1, upto1, total1, entering1, gradient1, x, dy, B, laid_B, laid_C, 1, NARROW
            )
            dx, dB, dC = dx + more_x, dB + more_B, dC + more_C

        went0, went1 = left0 * step0, left1 * step1
        from0, after1 = inner0 + came0, inner1 + went1
        da0, da1 = tl.associative_scan((from0, after1), 0, add_pairs, reverse=True)
        before0, up_to1 = tl.associative_scan((went0, came1), 0, add_pairs)
        da0, da1 = da0 + (before0 - went0) + state0, (da1 - after1) + up_to1 + state1
        laid_dy = laid_out(dy, BLOCK_P, NARROW)
        itself, scalar = tl.sum(laid_B * laid_C, 1), tl.sum(laid_out(x, BLOCK_P, NARROW) * laid_dy, 1)
        draw0, dlog0 = step_gradient(step0, A0, down0, scalar * itself, left0, da0)
        tl.store(ddt + pixel * directions + channel, draw0.to(ddt.dtype.element_ty), mask=exists)
        straight, ditself = tl.zeros((Q,), tl.float32) + tl.sum(own_skip, 0), step0 * scalar
        draw1, dlog1 = draw0, dlog0
        if WAYS == 2:
            draw1, dlog1 = step_gradient(step1, A1, down1, scalar * itself, left1, da1)
            tl.store(ddt + pixel * directions + channel + heads, draw1.to(ddt.dtype.element_ty), mask=exists)
            straight += step1 * itself
            ditself += step1 * scalar
        dx += straight[:, None] * laid_dy
        dB += ditself[:, None] * laid_C
        dC += ditself[:, None] * laid_B
        sum0, log0, sum1, log1, sum_scalar = tl.reduce((draw0, dlog0, draw1, dlog1, scalar), 0, add_fives)
        tl.store(part + channel, sum0)
        tl.store(part + directions + channel, log0)
        if WAYS == 2:
            tl.store(part + channel + heads, sum1)
            tl.store(part + directions + channel + heads, log1)
        tl.store(part + 2 * directions + every, sum_scalar, mask=rows)
        store_block(dmixed, out_at, head * P, dx, exists, P, BLOCK_P)
    store_block(dmixed, out_at, heads * P, dB, exists, N, BLOCK_N)
    store_block(dmixed, out_at, heads * P + N, dC, exists, N, BLOCK_N)
