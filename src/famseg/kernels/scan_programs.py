"""Triton programs of the scan; `famseg.kernels.scan` holds the mathematics, in the same letters.

A program works on one chunk of Q positions of one order. `order` is 0 for rows, 1 for columns. Blocks of a head are
padded to powers of two: BLOCK_P >= P channels, BLOCK_N >= N states. A map is a pointer with strides of sample, row,
column and channel.
"""

import triton
import triton.language as tl

from famseg.kernels.dots import product

VARIABLE = ["H", "W", "chunks"]  # sizes that must not cause a compilation


@triton.jit
def pixels(chunk, order, H, W, Q: tl.constexpr):
    """Row and column of the chunk's positions, and which of them exist."""
    position = chunk * Q + tl.arange(0, Q)
    line = tl.where(order == 0, W, H)
    major, minor = position // line, position % line
    row, column = tl.where(order == 0, major, minor), tl.where(order == 0, minor, major)
    return row.to(tl.int64), column.to(tl.int64), position < H * W


@triton.jit
def load_block(pointer, at, stride, first, exists, count, BLOCK: tl.constexpr):
    """(Q, BLOCK) of `count` channels from `first` on; zeros elsewhere. `at`: the pixels' offsets."""
    i = tl.arange(0, BLOCK)
    return tl.load(
        pointer + at[:, None] + ((first + i) * stride)[None, :], mask=exists[:, None] & (i < count)[None, :], other=0.0
    )


@triton.jit
def store_block(pointer, at, first, value, exists, count, BLOCK: tl.constexpr):
    """The existing part of a (Q, BLOCK) of neighbouring channels, in the dtype of the memory."""
    i = tl.arange(0, BLOCK)
    mask = exists[:, None] & (i < count)[None, :]
    tl.store(pointer + at[:, None] + (first + i)[None, :], value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def state_offsets(N, P, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr):
    """Places in a state (N, P), and which of the block exist."""
    n, p = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_P)[None, :]
    return n * P + p, (n < N) & (p < P)


@triton.jit
def softplus(v):
    """log(1 + exp v) = max(v, 0) + log(1 + u), u = exp(-|v|), by the series of 2 artanh(u / (2 + u)).

    1 + u would lose the digits of a small u; the series errs by less than 2e-8 of its value.
    """
    u = tl.exp(-tl.abs(v))
    s = u / (2 + u)
    z = s * s
    series = 1 / 9 + z * (1 / 11 + z * (1 / 13))
    series = 1 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * series)))
    return tl.maximum(v, 0.0) + 2 * s * series


@triton.jit
def time_steps(dt, at, stride, exists, channel, bias, A_log):
    """Raw step before softplus, dt, and a = dt A of one direction and head; dt = a = 0 beyond the end."""
    raw = tl.load(dt + at + channel * stride, mask=exists, other=0.0).to(tl.float32) + tl.load(bias + channel)
    step = tl.where(exists, softplus(raw), 0.0)
    return raw, step, -tl.exp(tl.load(A_log + channel)) * step


@triton.jit
def enter_and_leave(a, total, WAY: tl.constexpr):
    """Exponents <= 0: from the border where the way enters the chunk to a position, and on to the other border."""
    upto = tl.cumsum(a, 0)
    if WAY == 0:
        return upto, total - upto  # c, T - c
    return total - upto + a, upto - a  # T - e, e


@triton.jit
def skips_of(head, heads, order, directions):
    """Places of a head's skips, which the rows' order adds for all directions, and a mask of none in the other order.

    Each order's result is rounded before the two are added: skips that cancel must have done so before.
    """
    i = tl.arange(0, 4)
    return i * heads + head, (i < directions) & (order == 0)


@triton.jit
def weights(dt0, a0, dt1, a1, WAYS: tl.constexpr, Q: tl.constexpr):
    """(Q, Q): W from position s (columns) to t (rows), of way 0 for s <= t and of way 1 for s > t.

    dt is part of the exponent, as its logarithm (beyond the end: of 1e-37, where x is 0). The mask comes before exp:
    inf times 0 would be nan.
    """
    t, s = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    c = tl.cumsum(a0, 0)
    exponent = c[:, None] - (c - tl.log(tl.maximum(dt0, 1e-37)))[None, :]
    other = float("-inf")
    if WAYS == 2:
        e = tl.cumsum(a1, 0) - a1
        other = (e + tl.log(tl.maximum(dt1, 1e-37)))[None, :] - e[:, None]
    return tl.exp(tl.where(s <= t, exponent, other))


@triton.jit(do_not_specialize=VARIABLE)
def chunk_states(
    values, v_o, v_b, v_y, v_x, v_c,
    vectors, m_b, m_y, m_x, m_c, first_vector,
    dt, d_b, d_y, d_x, d_c, bias, A_log,
    states, totals, H, W, chunks, heads, P, N,
    GRADIENT: tl.constexpr, WAYS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state of each way: S = sum_s leave_s dt_s B_s x_s^T, and its total log decay T.

    GRADIENT: what it adds to the gradient of the entering state, sum_t enter_t C_t dy_t^T.
    """
    chunk, head, b = tl.program_id(0), tl.program_id(1) % heads, tl.program_id(2).to(tl.int64)
    order = tl.program_id(1) // heads
    row, column, exists = pixels(chunk, order, H, W, Q)
    at = b * v_b + row * v_y + column * v_x
    value = load_block(values + order.to(tl.int64) * v_o, at, v_c, head * P, exists, P, BLOCK_P)
    at = b * m_b + row * m_y + column * m_x
    vector = load_block(vectors, at, m_c, first_vector, exists, N, BLOCK_N).to(tl.float32)
    offsets, mask = state_offsets(N, P, BLOCK_N, BLOCK_P)
    for way in tl.static_range(WAYS):
        at = b * d_b + row * d_y + column * d_x
        channel = (order * WAYS + way) * heads + head
        _, step, a = time_steps(dt, at, d_c, exists, channel, bias, A_log)
        total = tl.sum(a, 0)
        enter, leave = enter_and_leave(a, total, way)
        weight = tl.exp(enter) if GRADIENT else tl.exp(leave) * step
        own = product(tl.trans(vector * weight[:, None]), value, NARROW)
        place = (((order * WAYS + way) * tl.num_programs(2) + b) * chunks + chunk) * heads + head
        tl.store(states + place * N * P + offsets, own, mask=mask)
        if not GRADIENT:
            tl.store(totals + place, total)


@triton.jit(do_not_specialize=["chunks"])
def pass_states(
    states, totals, chunks, heads, batch, elements,
    GRADIENT: tl.constexpr, WAYS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """In place: what each chunk adds -> what enters it, TILE chunks at a time. GRADIENT: from the other end."""
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    backwards = (sequence // batch) % WAYS == 1
    if GRADIENT:
        backwards = not backwards
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    i, j = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    carry = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, chunks, TILE):
        index = first + tl.arange(0, TILE)
        exists = index < chunks
        chunk = tl.where(backwards, chunks - 1 - index, index)
        place = (sequence.to(tl.int64) * chunks + chunk) * heads + head
        mask = exists[:, None] & (element < elements)[None, :]
        pointer = states + place[:, None] * elements + element[None, :]
        own = tl.load(pointer, mask=mask, other=0.0)
        total = tl.load(totals + place, mask=exists, other=0.0)
        upto = tl.cumsum(total, 0)
        whole = tl.sum(total, 0)
        before = upto - total
        between = tl.exp(tl.where(j < i, before[:, None] - upto[None, :], float("-inf")))
        entering = tl.dot(between, own, input_precision="ieee") + tl.exp(before)[:, None] * carry[None, :]
        carry = tl.exp(whole) * carry + tl.sum(tl.exp(whole - upto)[:, None] * own, 0)
        tl.store(pointer, entering, mask=mask)


@triton.jit(do_not_specialize=VARIABLE)
def chunk_outputs(
    mixed, m_b, m_y, m_x, m_c,
    dt, d_b, d_y, d_x, d_c, bias, A_log, skip,
    states, totals, y, H, W, chunks, heads, P, N,
    WAYS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """One head's y of one order, with the skip in the rows' order; y is (order, sample, row, column, channel)."""
    chunk, head, b = tl.program_id(0), tl.program_id(1) % heads, tl.program_id(2).to(tl.int64)
    order = tl.program_id(1) // heads
    row, column, exists = pixels(chunk, order, H, W, Q)
    at = b * m_b + row * m_y + column * m_x
    x = load_block(mixed, at, m_c, head * P, exists, P, BLOCK_P)
    B = load_block(mixed, at, m_c, heads * P, exists, N, BLOCK_N)
    C = load_block(mixed, at, m_c, heads * P + N, exists, N, BLOCK_N)
    at = b * d_b + row * d_y + column * d_x
    channel = order * WAYS * heads + head
    _, dt0, a0 = time_steps(dt, at, d_c, exists, channel, bias, A_log)
    dt1, a1 = dt0, a0
    if WAYS == 2:
        _, dt1, a1 = time_steps(dt, at, d_c, exists, channel + heads, bias, A_log)
    CB = product(C, tl.trans(B), NARROW)
    result = product(CB * weights(dt0, a0, dt1, a1, WAYS, Q), x, NARROW)
    every, rows = skips_of(head, heads, order, tl.num_programs(1) // heads * WAYS)
    itself = tl.zeros((Q,), tl.float32) + tl.sum(tl.load(skip + every, mask=rows, other=0.0), 0)
    if WAYS == 2:
        itself += dt1 * tl.sum(B.to(tl.float32) * C.to(tl.float32), 1)
    result += itself[:, None] * x.to(tl.float32)
    offsets, mask = state_offsets(N, P, BLOCK_N, BLOCK_P)
    for way in tl.static_range(WAYS):
        place = (((order * WAYS + way) * tl.num_programs(2) + b) * chunks + chunk) * heads + head
        enter, _ = enter_and_leave(a0 if way == 0 else a1, tl.load(totals + place), way)
        entering = tl.load(states + place * N * P + offsets, mask=mask, other=0.0)
        result += tl.exp(enter)[:, None] * product(C, entering, NARROW)
    at = ((order * tl.num_programs(2) + b) * H * W + row * W + column) * (heads * P)
    store_block(y, at, head * P, result, exists, P, BLOCK_P)


@triton.jit
def way_gradients(
    raw, step, a, A_log, states, totals, gradients, place, offsets, mask, elements,
    x, dy, B, C, direct, inner,
    WAY: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """One way's part of dx, dB, dC through the states; its dr before the mask, and d A_log's part.

    `direct`: d dt through the chunk's own products; `inner`: gradient of c (way 0) or e (way 1) through them.
    """
    total = tl.load(totals + place)
    enter, leave = enter_and_leave(a, total, WAY)
    leave = tl.exp(leave)
    entering = tl.load(states + place * elements + offsets, mask=mask, other=0.0)
    gradient = tl.load(gradients + place * elements + offsets, mask=mask, other=0.0)
    dx = (leave * step)[:, None] * product(B, gradient, NARROW)
    dB = leave[:, None] * product(x, tl.trans(gradient), NARROW)  # of dt B
    dC = tl.exp(enter)[:, None] * product(dy, tl.trans(entering), NARROW)
    left, came = tl.sum(B.to(tl.float32) * dB, 1), tl.sum(C.to(tl.float32) * dC, 1)
    went = left * step
    state = tl.exp(total) * tl.sum(tl.sum(entering * gradient, 1), 0)
    if WAY == 0:
        da = tl.cumsum(inner + came, 0, reverse=True) + tl.cumsum(went, 0) - went + state
    else:
        after = inner + went
        da = tl.cumsum(after, 0, reverse=True) - after + tl.cumsum(came, 0) + state
    u = tl.exp(-tl.abs(raw))
    draw = (direct + left - tl.exp(A_log) * da) * tl.where(raw > 0, 1.0, u) / (1 + u)
    return dx, dB * step[:, None], dC, draw, tl.sum(da * a, 0)


@triton.jit
def quotient(total, step):
    """A sum over R divided by its dt; the sums of positions without a step are zeros."""
    return total / tl.where(step > 0, step, 1.0)


@triton.jit(do_not_specialize=VARIABLE)
def chunk_gradients(
    mixed, m_b, m_y, m_x, m_c,
    dt, d_b, d_y, d_x, d_c, bias, A_log, skip,
    dy_map, g_o, g_b, g_y, g_x, g_c,
    states, totals, gradients, dmixed, ddt, partials,
    H, W, chunks, heads, P, N,
    WAYS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk and order, head after head. No (Q, Q) block lives on when the states' part begins.

    dmixed is (order, sample, row, column, channel). Partials (sample and chunk, 3, direction and head): this chunk's
    sums for bias, A_log and, from the rows' order, skip.
    """
    chunk, order, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    batch, directions = tl.num_programs(2), tl.num_programs(1) * WAYS * heads
    row, column, exists = pixels(chunk, order, H, W, Q)
    m_at = b * m_b + row * m_y + column * m_x
    d_at = b * d_b + row * d_y + column * d_x
    g_at = order.to(tl.int64) * g_o + b * g_b + row * g_y + column * g_x
    pixel = b * H * W + row * W + column
    out_at = (order.to(tl.int64) * batch * H * W + pixel) * (heads * P + 2 * N)
    part = partials + (b * chunks + chunk) * 3 * directions
    B = load_block(mixed, m_at, m_c, heads * P, exists, N, BLOCK_N)
    C = load_block(mixed, m_at, m_c, heads * P + N, exists, N, BLOCK_N)
    itself = tl.sum(B.to(tl.float32) * C.to(tl.float32), 1)
    offsets, mask = state_offsets(N, P, BLOCK_N, BLOCK_P)
    t, s = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    dB, dC = tl.zeros((Q, BLOCK_N), tl.float32), tl.zeros((Q, BLOCK_N), tl.float32)
    ditself = tl.zeros((Q,), tl.float32)
    for head in range(heads):
        x = load_block(mixed, m_at, m_c, head * P, exists, P, BLOCK_P)
        dy = load_block(dy_map, g_at, g_c, head * P, exists, P, BLOCK_P)
        channel = order * WAYS * heads + head
        place = ((order * WAYS * batch + b) * chunks + chunk) * heads + head
        raw0, dt0, a0 = time_steps(dt, d_at, d_c, exists, channel, bias, A_log)
        raw1, dt1, a1 = raw0, dt0, a0
        if WAYS == 2:
            raw1, dt1, a1 = time_steps(dt, d_at, d_c, exists, channel + heads, bias, A_log)
        W01 = weights(dt0, a0, dt1, a1, WAYS, Q)
        M = product(C, tl.trans(B), NARROW) * W01
        dx = product(tl.trans(M), dy, NARROW)
        G = product(dy, tl.trans(x), NARROW)
        R = G * M  # below the diagonal of way 0, above it of way 1
        dCB = G * W01
        dB += product(tl.trans(dCB), C, NARROW)
        dC += product(dCB, B, NARROW)
        scalar = tl.sum(x.to(tl.float32) * dy.to(tl.float32), 1)
        below = tl.where(s < t, R, 0.0)
        sums = tl.sum(below, 0)
        inner = tl.sum(below, 1) - sums
        above = tl.where(s > t, R, 0.0)
        sums_above = tl.sum(above, 0)
        inner_above = sums_above - tl.sum(above, 1)
        more_x, more_B, more_C, draw, dlog = way_gradients(
            raw0, dt0, a0, tl.load(A_log + channel), states, totals, gradients, place, offsets, mask, N * P,
            x, dy, B, C, quotient(sums, dt0) + scalar * itself, inner, 0, NARROW,
        )  # fmt: skip
        draw = tl.where(exists, draw, 0.0)
        tl.store(ddt + pixel * directions + channel, draw.to(ddt.dtype.element_ty), mask=exists)
        tl.store(part + channel, tl.sum(draw, 0))
        tl.store(part + directions + channel, dlog)
        dx, dB, dC = dx + more_x, dB + more_B, dC + more_C
        every, rows = skips_of(head, heads, order, tl.num_programs(1) * WAYS)
        straight = tl.zeros((Q,), tl.float32) + tl.sum(tl.load(skip + every, mask=rows, other=0.0), 0)
        if WAYS == 2:
            place += batch.to(tl.int64) * chunks * heads
            channel += heads
            more_x, more_B, more_C, draw, dlog = way_gradients(
                raw1, dt1, a1, tl.load(A_log + channel), states, totals, gradients, place, offsets, mask, N * P,
                x, dy, B, C, quotient(sums_above, dt1) + scalar * itself, inner_above, 1, NARROW,
            )  # fmt: skip
            draw = tl.where(exists, draw, 0.0)
            tl.store(ddt + pixel * directions + channel, draw.to(ddt.dtype.element_ty), mask=exists)
            tl.store(part + channel, tl.sum(draw, 0))
            tl.store(part + directions + channel, dlog)
            dx, dB, dC = dx + more_x, dB + more_B, dC + more_C
            straight += dt1 * itself
            ditself += dt1 * scalar
        dx += straight[:, None] * dy.to(tl.float32)
        tl.store(part + 2 * directions + every, tl.sum(scalar, 0), mask=rows)
        store_block(dmixed, out_at, head * P, dx, exists, P, BLOCK_P)
    dB += ditself[:, None] * C.to(tl.float32)
    dC += ditself[:, None] * B.to(tl.float32)
    store_block(dmixed, out_at, heads * P, dB, exists, N, BLOCK_N)
    store_block(dmixed, out_at, heads * P + N, dC, exists, N, BLOCK_N)
