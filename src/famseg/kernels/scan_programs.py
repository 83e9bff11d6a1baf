"""Triton programs of the scan; `famseg.kernels.scan` holds the mathematics, in the same letters.

A program works on one chunk of Q positions of one order. `order` is 0 for rows, 1 for columns. Blocks of a head are
padded to powers of two: BLOCK_P >= P channels, BLOCK_N >= N states. A map is a pointer with strides of sample, row,
column and channel. Ways that have a block each have it beside the other's in one block: half the steps that wait.
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
def places_of(chunk, head, b, order, batch, chunks, heads, WAYS: tl.constexpr):
    """(WAYS,): this chunk and head among those of all directions and images."""
    return (((order * WAYS + tl.arange(0, WAYS)) * batch + b) * chunks + chunk) * heads + head


@triton.jit
def at_positions(places, Q: tl.constexpr):
    """(Q, WAYS): places of a chunk's numbers, one a position."""
    return places[None, :] * Q + tl.arange(0, Q)[:, None]


@triton.jit
def add_pairs(a0, a1, b0, b1):
    """For a scan of two vectors: their ways through shared memory are one."""
    return a0 + b0, a1 + b1


@triton.jit
def beside(first, second, WAYS: tl.constexpr):
    """(Q, WAYS) of the ways' vectors."""
    return tl.where(tl.arange(0, WAYS)[None, :] == 0, first[:, None], second[:, None])


@triton.jit
def time_steps(dt, at, stride, exists, channel, bias, A_log):
    """The dt and a = dt A of one direction and head; 0 beyond the end."""
    raw = tl.load(dt + at + channel * stride, mask=exists, other=0.0).to(tl.float32) + tl.load(bias + channel)
    step = tl.where(exists, softplus(raw), 0.0)
    return step, -tl.exp(tl.load(A_log + channel)) * step


@triton.jit
def border_exponents(sums, total, WAYS: tl.constexpr):
    """(Q, WAYS), <= 0: from the border where the way enters the chunk to a position, and on to the other border."""
    first = tl.arange(0, WAYS)[None, :] == 0
    rest = total[None, :] - sums
    return tl.where(first, sums, rest), tl.where(first, rest, sums)  # c, T - c;  T - e, e


@triton.jit
def skips_of(head, heads, order, directions):
    """Places of a head's skips, which the rows' order adds for all directions, and a mask of none in the other order.

    Each order's result is rounded before the two are added: skips that cancel must have done so before.
    """
    i = tl.arange(0, 4)
    return i * heads + head, (i < directions) & (order == 0)


@triton.jit
def weights(sums, sources, place, other, WAYS: tl.constexpr, Q: tl.constexpr):
    """(Q, Q): W from position s (columns) to t (rows), of way 0 for s <= t and of way 1 for s > t.

    `place`: of way 0, `other`: how far from it way 1 lies. The mask comes before exp: inf times 0 would be nan.
    """
    i = tl.arange(0, Q)
    t, s = i[:, None], i[None, :]
    at = place * Q
    exponent = tl.load(sums + at + i)[:, None] + tl.load(sources + at + i)[None, :]
    above = float("-inf")
    if WAYS == 2:
        at += other * Q
        above = tl.load(sources + at + i)[None, :] - tl.load(sums + at + i)[:, None]
    return tl.exp(tl.where(s <= t, exponent, above))


@triton.jit
def stacked_states(states, place, other, N, P, WAYS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr):
    """(WAYS * BLOCK_N, BLOCK_P): the ways' states under each other; places, and which of them exist."""
    i, p = tl.arange(0, WAYS * BLOCK_N)[:, None], tl.arange(0, BLOCK_P)[None, :]
    n = i % BLOCK_N
    return states + (place + i // BLOCK_N * other) * N * P + n * P + p, (n < N) & (p < P)


@triton.jit
def states_beside(states, place, other, N, P, WAYS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr):
    """(BLOCK_N, WAYS * BLOCK_P): the ways' states beside each other; places, and which of them exist."""
    n, i = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, WAYS * BLOCK_P)[None, :]
    p = i % BLOCK_P
    return states + (place + i // BLOCK_P * other) * N * P + n * P + p, (n < N) & (p < P)


@triton.jit
def by_ways(block, WAYS: tl.constexpr):
    """(Q, WAYS * M) -> (Q, WAYS, M)."""
    return tl.reshape(block, (block.shape[0], WAYS, block.shape[1] // WAYS))


@triton.jit(do_not_specialize=VARIABLE)
def chunk_states(
    values, v_o, v_b, v_y, v_x, v_c,
    vectors, m_b, m_y, m_x, m_c, first_vector,
    dt, d_b, d_y, d_x, d_c, bias, A_log,
    states, totals, decays, sums, sources, steps, H, W, chunks, heads, P, N,
    GRADIENT: tl.constexpr, WAYS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state of each way: S = sum_s leave_s dt_s B_s x_s^T.

    With it T and exp(T), and for each position c or e, the exponent with which it is a source (log dt - c, log dt + e)
    and dt: the other programs load them. Beyond the end dt = a = 0; its logarithm is that of 1e-37, where x is 0.

    GRADIENT: what it adds to the gradient of the entering state, sum_t enter_t C_t dy_t^T.
    """
    chunk, head, b = tl.program_id(0), tl.program_id(1) % heads, tl.program_id(2).to(tl.int64)
    order, batch = tl.program_id(1) // heads, tl.num_programs(2)
    row, column, exists = pixels(chunk, order, H, W, Q)
    at = b * v_b + row * v_y + column * v_x
    value = load_block(values + order.to(tl.int64) * v_o, at, v_c, head * P, exists, P, BLOCK_P)
    at = b * m_b + row * m_y + column * m_x
    vector = load_block(vectors, at, m_c, first_vector, exists, N, BLOCK_N).to(tl.float32)
    places = places_of(chunk, head, b, order, batch, chunks, heads, WAYS)
    here = at_positions(places, Q)
    if GRADIENT:
        weight = tl.exp(border_exponents(tl.load(sums + here), tl.load(totals + places), WAYS)[0])
    else:
        channel = order * WAYS * heads + head
        at = b * d_b + row * d_y + column * d_x
        step0, a0 = time_steps(dt, at, d_c, exists, channel, bias, A_log)
        step1, a1 = step0, a0
        if WAYS == 2:
            step1, a1 = time_steps(dt, at, d_c, exists, channel + heads, bias, A_log)
        c, e = tl.associative_scan((a0, a1), 0, add_pairs)
        step, upto, total = beside(step0, step1, WAYS), beside(c, e - a1, WAYS), tl.sum(beside(a0, a1, WAYS), 0)
        first = tl.arange(0, WAYS)[None, :] == 0
        tl.store(totals + places, total)
        tl.store(decays + places, tl.exp(total))
        tl.store(sums + here, upto)
        tl.store(sources + here, tl.log(tl.maximum(step, 1e-37)) + tl.where(first, -upto, upto))
        tl.store(steps + here, step)
        weight = tl.exp(border_exponents(upto, total, WAYS)[1]) * step
    weighted = tl.reshape(weight[:, :, None] * vector[:, None, :], (Q, WAYS * BLOCK_N))
    place = ((order * WAYS * batch + b) * chunks + chunk) * heads + head
    pointer, mask = stacked_states(states, place, batch.to(tl.int64) * chunks * heads, N, P, WAYS, BLOCK_N, BLOCK_P)
    tl.store(pointer, product(tl.trans(weighted), value, NARROW), mask=mask)


@triton.jit
def place_in_order(index, chunks, backwards, sequence, head, heads):
    """Of a sequence's chunk, counted from the end where it begins."""
    chunk = tl.where(backwards, chunks - 1 - index, index)
    return (sequence.to(tl.int64) * chunks + chunk) * heads + head


@triton.jit(do_not_specialize=["chunks", "batch"])
def pass_states(
    states, decays, chunks, heads, batch, elements,
    GRADIENT: tl.constexpr, WAYS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """In place: what each chunk adds -> what enters it. GRADIENT: from the other end.

    A thread has its elements' sequence for itself. TILE chunks are loaded before the first is stored: no load passes a
    store that may be to where it reads.
    """
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    backwards = (sequence // batch) % WAYS == 1
    if GRADIENT:
        backwards = not backwards
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = element < elements
    carry = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, chunks, TILE):
        own, decay = (), ()
        for i in tl.static_range(TILE):
            place = place_in_order(first + i, chunks, backwards, sequence, head, heads)
            exists = first + i < chunks
            number = tl.load(states + place * elements + element, mask=mask & exists, other=0.0)
            own += (number,)  # type: ignore[assignment]
            number = tl.load(decays + place, mask=exists, other=0.0)
            decay += (number,)  # type: ignore[assignment]
        for i in tl.static_range(TILE):
            place = place_in_order(first + i, chunks, backwards, sequence, head, heads)
            tl.store(states + place * elements + element, carry, mask=mask & (first + i < chunks))
            carry = decay[i] * carry + own[i]


@triton.jit(do_not_specialize=VARIABLE)
def chunk_outputs(
    mixed, m_b, m_y, m_x, m_c,
    skip, states, totals, sums, sources, steps, y, H, W, chunks, heads, P, N,
    WAYS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, Q: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """One head's y of one order, with the skip in the rows' order; y is (order, sample, row, column, channel)."""
    chunk, head, b = tl.program_id(0), tl.program_id(1) % heads, tl.program_id(2).to(tl.int64)
    order, batch = tl.program_id(1) // heads, tl.num_programs(2)
    row, column, exists = pixels(chunk, order, H, W, Q)
    at = b * m_b + row * m_y + column * m_x
    x = load_block(mixed, at, m_c, head * P, exists, P, BLOCK_P)
    B = load_block(mixed, at, m_c, heads * P, exists, N, BLOCK_N)
    C = load_block(mixed, at, m_c, heads * P + N, exists, N, BLOCK_N)
    places = places_of(chunk, head, b, order, batch, chunks, heads, WAYS)
    place, other = ((order * WAYS * batch + b) * chunks + chunk) * heads + head, batch.to(tl.int64) * chunks * heads
    pointer, mask = states_beside(states, place, other, N, P, WAYS, BLOCK_N, BLOCK_P)
    entering = tl.load(pointer, mask=mask, other=0.0)
    enter, _ = border_exponents(tl.load(sums + at_positions(places, Q)), tl.load(totals + places), WAYS)
    M = product(C, tl.trans(B), NARROW) * weights(sums, sources, place, other, WAYS, Q)
    result = product(M, x, NARROW)
    every, rows = skips_of(head, heads, order, tl.num_programs(1) // heads * WAYS)
    itself = tl.zeros((Q,), tl.float32) + tl.sum(tl.load(skip + every, mask=rows, other=0.0), 0)
    if WAYS == 2:
        dt = tl.load(steps + (place + other) * Q + tl.arange(0, Q))
        itself += dt * tl.sum(B.to(tl.float32) * C.to(tl.float32), 1)
    result += itself[:, None] * x.to(tl.float32)
    result += tl.sum(by_ways(product(C, entering, NARROW), WAYS) * tl.exp(enter)[:, :, None], 1)
    at = ((order * batch + b) * H * W + row * W + column) * (heads * P)
    store_block(y, at, head * P, result, exists, P, BLOCK_P)
