"""Triton kernels of attention with a shared table of relative positions: the bias is read from the table, score by score.

A program has one head of one window of one image. Tokens of a window are numbered row by row; where a window reaches over
the grid's edge, its tokens outside stand for nothing. All kernels compute exponentials to the base of two: `scale` and the
table are multiplied by log2(e) before, so is what `lse` holds.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(pid, blocks, heads, rows, columns, high, wide):  # type: ignore[no-untyped-def]
    """The block, head and image of a program, and the top left corner of its window in the grid."""
    block, head, item = pid % blocks, pid // blocks % heads, pid // blocks // heads
    across = (columns + wide - 1) // wide
    windows = (rows + high - 1) // high * across
    window = item % windows
    return block, head, (item // windows).to(tl.int64), window // across * high, window % across * wide


@triton.jit
def _tokens(token, top, left, rows, columns, high, wide):  # type: ignore[no-untyped-def]
    """Where tokens of a window stand in the grid, whether they do, and their share of an index into the table."""
    inside = token < high * wide
    token = tl.minimum(token, high * wide - 1)
    row = token // wide
    column = token - row * wide
    inside = inside & (top + row < rows) & (left + column < columns)
    return (top + row) * columns + left + column, inside, row * (2 * wide - 1) + column


@triton.jit
def _load(base, position, inside, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):  # type: ignore[no-untyped-def]
    """[tokens, BLOCK_D] of a head, zero outside."""
    channel = tl.arange(0, BLOCK_D)
    at = base + position[:, None] * stride + channel[None, :]
    if BLOCK_D == D:
        return tl.load(at, mask=inside[:, None], other=0.0)
    return tl.load(at, mask=inside[:, None] & (channel < D)[None, :], other=0.0)


@triton.jit
def _store(base, position, inside, stride, x, D: tl.constexpr, BLOCK_D: tl.constexpr):  # type: ignore[no-untyped-def]
    channel = tl.arange(0, BLOCK_D)
    at = base + position[:, None] * stride + channel[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=inside[:, None] & (channel < D)[None, :])


@triton.jit
def _scores(q, k, table, of_query, of_key, inside, scale, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """[queries, keys], minus infinity for keys outside; `table` points at the bias of a query upon its key."""
    bias = tl.load(table + of_query[:, None] - of_key[None, :], mask=inside[None, :], other=-float("inf"))
    return tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias


# Not compiled anew for each grid, as integers of 1 or multiples of 16 would have it.
_SIZES = ["heads", "rows", "columns", "high", "wide", "items", "band", "splits"]


@triton.jit(do_not_specialize=_SIZES[:5])
def attend(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    table,
    output,
    lse,
    q_image,
    q_head,
    q_token,
    k_image,
    k_head,
    k_token,
    v_image,
    v_head,
    v_token,
    o_image,
    o_head,
    o_token,
    heads,
    rows,
    columns,
    high,
    wide,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The output of a block of queries, and the logarithm of the sum of each one's exponentials."""
    blocks = tl.cdiv(high * wide, BLOCK_M)
    block, head, image, top, left = _place(tl.program_id(0), blocks, heads, rows, columns, high, wide)
    table += head * (2 * high - 1) * (2 * wide - 1) + (high - 1) * (2 * wide - 1) + wide - 1
    key += image * k_image + head * k_head
    value += image * v_image + head * v_head
    token = block * BLOCK_M + tl.arange(0, BLOCK_M)
    position, inside, of_query = _tokens(token, top, left, rows, columns, high, wide)
    q = _load(query + image * q_image + head * q_head, position, inside, q_token, D, BLOCK_D)
    largest = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    attended = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, high * wide, BLOCK_N):
        other = start + tl.arange(0, BLOCK_N)
        at, there, of_key = _tokens(other, top, left, rows, columns, high, wide)
        k = _load(key, at, there, k_token, D, BLOCK_D)
        scores = _scores(q, k, table, of_query, of_key, there, scale, PRECISION)
        new = tl.maximum(largest, tl.max(scores, 1))  # a window's first token is inside, so it is finite
        weights = tl.exp2(scores - new[:, None])
        shrink = tl.exp2(largest - new)
        total = total * shrink + tl.sum(weights, 1)
        v = _load(value, at, there, v_token, D, BLOCK_D)
        attended = attended * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = new
    _store(output + image * o_image + head * o_head, position, inside, o_token, attended / total[:, None], D, BLOCK_D)
    tl.store(lse + (image * heads + head) * rows * columns + position, largest + tl.log2(total), mask=inside)


@triton.jit(do_not_specialize=_SIZES[:5])
def query_gradients(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    table,
    output,
    lse,
    grad,
    means,
    grad_query,
    q_image,
    q_head,
    q_token,
    k_image,
    k_head,
    k_token,
    v_image,
    v_head,
    v_token,
    o_image,
    o_head,
    o_token,
    g_image,
    g_head,
    g_token,
    heads,
    rows,
    columns,
    high,
    wide,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of a block of queries (strides as the output's), and `means`, each one's gradient times its output."""
    blocks = tl.cdiv(high * wide, BLOCK_M)
    block, head, image, top, left = _place(tl.program_id(0), blocks, heads, rows, columns, high, wide)
    table += head * (2 * high - 1) * (2 * wide - 1) + (high - 1) * (2 * wide - 1) + wide - 1
    key += image * k_image + head * k_head
    value += image * v_image + head * v_head
    token = block * BLOCK_M + tl.arange(0, BLOCK_M)
    position, inside, of_query = _tokens(token, top, left, rows, columns, high, wide)
    q = _load(query + image * q_image + head * q_head, position, inside, q_token, D, BLOCK_D)
    g = _load(grad + image * g_image + head * g_head, position, inside, g_token, D, BLOCK_D)
    o = _load(output + image * o_image + head * o_head, position, inside, o_token, D, BLOCK_D)
    mean = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    number = (image * heads + head) * rows * columns + position
    tl.store(means + number, mean, mask=inside)
    log = tl.load(lse + number, mask=inside, other=float("inf"))
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, high * wide, BLOCK_N):
        other = start + tl.arange(0, BLOCK_N)
        at, there, of_key = _tokens(other, top, left, rows, columns, high, wide)
        k = _load(key, at, there, k_token, D, BLOCK_D)
        v = _load(value, at, there, v_token, D, BLOCK_D)
        weights = tl.exp2(_scores(q, k, table, of_query, of_key, there, scale, PRECISION) - log[:, None])
        grad_scores = weights * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - mean[:, None])
        total += tl.dot(grad_scores.to(k.dtype), k, input_precision=PRECISION)
    # `scale` has log2(e) in it, which the gradient has not.
    at = grad_query + image * o_image + head * o_head
    _store(at, position, inside, o_token, total * (scale * 0.6931471805599453), D, BLOCK_D)


@triton.jit(do_not_specialize=_SIZES[:5])
def key_gradients(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    table,
    lse,
    grad,
    means,
    grad_key,
    grad_value,
    q_image,
    q_head,
    q_token,
    k_image,
    k_head,
    k_token,
    v_image,
    v_head,
    v_token,
    o_image,
    o_head,
    o_token,
    g_image,
    g_head,
    g_token,
    heads,
    rows,
    columns,
    high,
    wide,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of a block of keys and of their values (strides as the output's)."""
    blocks = tl.cdiv(high * wide, BLOCK_N)
    block, head, image, top, left = _place(tl.program_id(0), blocks, heads, rows, columns, high, wide)
    table += head * (2 * high - 1) * (2 * wide - 1) + (high - 1) * (2 * wide - 1) + wide - 1
    query += image * q_image + head * q_head
    grad += image * g_image + head * g_head
    first = (image * heads + head) * rows * columns
    token = block * BLOCK_N + tl.arange(0, BLOCK_N)
    position, inside, of_key = _tokens(token, top, left, rows, columns, high, wide)
    k = _load(key + image * k_image + head * k_head, position, inside, k_token, D, BLOCK_D)
    v = _load(value + image * v_image + head * v_head, position, inside, v_token, D, BLOCK_D)
    of_keys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    of_values = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, high * wide, BLOCK_M):
        other = start + tl.arange(0, BLOCK_M)
        at, there, of_query = _tokens(other, top, left, rows, columns, high, wide)
        q = _load(query, at, there, q_token, D, BLOCK_D)
        g = _load(grad, at, there, g_token, D, BLOCK_D)
        log = tl.load(lse + first + at, mask=there, other=float("inf"))  # no weight to queries outside
        mean = tl.load(means + first + at, mask=there, other=0.0)
        weights = tl.exp2(_scores(q, k, table, of_query, of_key, inside, scale, PRECISION) - log[:, None])
        of_values += tl.dot(tl.trans(weights.to(g.dtype)), g, input_precision=PRECISION)
        grad_scores = weights * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - mean[:, None])
        of_keys += tl.dot(tl.trans(grad_scores.to(q.dtype)), q, input_precision=PRECISION)
    place = image * o_image + head * o_head
    _store(grad_key + place, position, inside, o_token, of_keys * (scale * 0.6931471805599453), D, BLOCK_D)
    _store(grad_value + place, position, inside, o_token, of_values, D, BLOCK_D)


@triton.jit(do_not_specialize=_SIZES)
def table_gradients(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    table,
    lse,
    grad,
    means,
    sums,
    q_image,
    q_head,
    q_token,
    k_image,
    k_head,
    k_token,
    v_image,
    v_head,
    v_token,
    g_image,
    g_head,
    g_token,
    items,
    heads,
    rows,
    columns,
    high,
    wide,
    band,
    splits,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums of the scores' gradients over all pairs of a query band and a key band that are equally far apart.

    A band is `band` whole rows of a window. In such pairs the score at place (i, j) has the same offset, so they add up in
    registers: over pairs, windows and images. `sums` is [heads, 2 bands - 1, splits, BLOCK, BLOCK]; `fold_bands` adds it up.
    """
    bands = tl.cdiv(high, band)
    pid = tl.program_id(0)
    head, rest = pid % heads, pid // heads
    split, order = rest % splits, rest // splits
    # Differences 0, 1, -1, 2, -2, ...: those with most pairs start first.
    apart = tl.where(order % 2 == 1, (order + 1) // 2, -(order // 2))
    centre = head * (2 * high - 1) * (2 * wide - 1) + (high - 1) * (2 * wide - 1) + wide - 1
    across = tl.cdiv(columns, wide)
    windows = tl.cdiv(rows, high) * across
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for item in range(split, items, splits):
        image, window = (item // windows).to(tl.int64), item % windows
        top, left = window // across * high, window % across * wide
        first = (image * heads + head) * rows * columns
        for number in range(tl.maximum(apart, 0), tl.minimum(bands, bands + apart)):
            token = number * band * wide + lane
            position, inside, of_query = _tokens(token, top, left, rows, columns, high, wide)
            inside = inside & (lane < band * wide)
            at, there, of_key = _tokens(token - apart * band * wide, top, left, rows, columns, high, wide)
            there = there & (lane < band * wide)
            q = _load(query + image * q_image + head * q_head, position, inside, q_token, D, BLOCK_D)
            g = _load(grad + image * g_image + head * g_head, position, inside, g_token, D, BLOCK_D)
            k = _load(key + image * k_image + head * k_head, at, there, k_token, D, BLOCK_D)
            v = _load(value + image * v_image + head * v_head, at, there, v_token, D, BLOCK_D)
            log = tl.load(lse + first + position, mask=inside, other=float("inf"))
            mean = tl.load(means + first + position, mask=inside, other=0.0)
            scores = _scores(q, k, table + centre, of_query, of_key, there, scale, PRECISION)
            weights = tl.exp2(scores - log[:, None])
            total += weights * (tl.dot(g, tl.trans(v), input_precision=PRECISION) - mean[:, None])
    place = ((head * (2 * bands - 1) + apart + bands - 1) * splits + split).to(tl.int64) * BLOCK * BLOCK
    tl.store(sums + place + lane[:, None] * BLOCK + lane[None, :], total)


@triton.jit(do_not_specialize=_SIZES)
def fold_bands(sums, grad_table, high, wide, band, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of the table's gradient, [heads, 2 high - 1, 2 wide - 1], from the sums [heads, 2 bands - 1, BLOCK, BLOCK]."""
    bands = tl.cdiv(high, band)
    head, row = tl.program_id(0) // (2 * high - 1), tl.program_id(0) % (2 * high - 1)
    below = row - (high - 1)
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, band):
        # A query in row `first` of its band has its key in this row of another: below = apart * band + first - second.
        second = ((first - below) % band + band) % band
        apart = (below - first + second) // band
        exists = (apart > -bands) & (apart < bands)
        place = ((head * (2 * bands - 1) + apart + bands - 1) * BLOCK + first * wide) * BLOCK + second * wide
        for query in range(0, wide):
            key = query - (column - (wide - 1))
            total += tl.load(sums + place + query * BLOCK + key, mask=exists & (key >= 0) & (key < wide), other=0.0)
    at = grad_table + tl.program_id(0) * (2 * wide - 1) + column
    tl.store(at, total.to(grad_table.dtype.element_ty), mask=column < 2 * wide - 1)
