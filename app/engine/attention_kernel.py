"""The attention of rows with one new token each, as kernels for a CPU (kernels.py)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from app.engine.kernels import exp, narrow, wide

TILE = 64
"""Tokens whose scores are computed before their values are mixed; a multiple of eight."""
LEAST = np.float32(-1e30)


@njit(fastmath=True, error_model="numpy")
def _turn(values: Any, weight: Any, epsilon: Any, cosine: Any, sine: Any, out: Any) -> None:
    """A head's query or key (size,), normed where there is a weight, and turned to its position by cosine and
    sine (size,), the first half of the sine negated.
    """
    size = len(values)
    factor = np.float32(1.0)
    if len(weight):
        total = np.float32(0.0)
        for index in range(size):
            total += values[index] * values[index]
        factor = np.float32(1.0) / np.sqrt(total / np.float32(size) + epsilon)
    half = size // 2
    for index in range(half):
        left, right = values[index] * factor, values[half + index] * factor
        if len(weight):
            left *= weight[index]
            right *= weight[half + index]
        out[index] = left * cosine[index] + right * sine[index]
        out[half + index] = right * cosine[half + index] + left * sine[half + index]


@njit(fastmath=True, error_model="numpy")
def _score(query: Any, keys: Any, count: Any, scores: Any) -> None:
    """The products (tokens,) of a query (size,) with keys (tokens, size), four tokens at a time."""
    for token in range(0, count, 4):
        first = second = third = fourth = np.float32(0.0)
        for index in range(len(query)):
            value = query[index]
            first += value * keys[token, index]
            second += value * keys[token + 1, index]
            third += value * keys[token + 2, index]
            fourth += value * keys[token + 3, index]
        scores[token], scores[token + 1] = first, second
        scores[token + 2], scores[token + 3] = third, fourth
    for token in range(count, TILE):
        scores[token] = LEAST


@njit(fastmath=True, error_model="numpy")
def _add_values(weights: Any, values: Any, count: Any, out: Any) -> None:
    """Add values (tokens, size), times their weights, to (size,), eight tokens at a time."""
    for token in range(0, count, 8):
        w0, w1, w2, w3 = weights[token], weights[token + 1], weights[token + 2], weights[token + 3]
        w4, w5, w6, w7 = weights[token + 4], weights[token + 5], weights[token + 6], weights[token + 7]
        for index in range(len(out)):
            out[index] += (
                (w0 * values[token, index] + w1 * values[token + 1, index])
                + (w2 * values[token + 2, index] + w3 * values[token + 3, index])
                + (w4 * values[token + 4, index] + w5 * values[token + 5, index])
                + (w6 * values[token + 6, index] + w7 * values[token + 7, index])
            )


@njit(fastmath=True, error_model="numpy")
def _weigh(scores: Any, state: Any) -> Any:
    """Make weights of scores (tokens,): e to what they are above the largest so far; `state` is that and the
    sum of all weights. Returns what earlier weights shrink by.
    """
    largest = state[0]
    for token in range(len(scores)):
        largest = max(largest, scores[token])
    shrink = exp(state[0] - largest)
    total = np.float32(0.0)
    for token in range(len(scores)):
        scores[token] = exp(scores[token] - largest)
        total += scores[token]
    state[0], state[1] = largest, state[1] * shrink + total
    return shrink


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        builder.call(
            function, [place, *(ir.Constant(number, flag) for flag in (0, 2, 1))]
        )  # to read, into L2
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit(error_model="numpy")
def _fetch(store: Any, first: Any, last: Any, part: Any, parts: Any) -> None:
    """Ask for a part of the tokens `first` to `last`: the next ones, while these are computed."""
    line = 64
    token = store.shape[1] * store.shape[2] * store.itemsize
    start, total = store.ctypes.data + first * token, max(0, last - first) * token // line
    for number in range(total * part // parts, total * (part + 1) // parts):
        _prefetch(start + line * number)


@njit(fastmath=True, error_model="numpy")
def _mix(queries: Any, store: Any, first: Any, last: Any, out: Any) -> None:
    """Attention of a row's queries (heads, size) over the tokens `first` to `last` of the store, (all tokens,
    2 · KV heads, size): for each query the unnormed mix, the largest score and the sum of the weights,
    (heads, size + 2), as Dao et al. 2022 have it.
    """
    heads, size = queries.shape
    both = store.shape[1]
    groups = heads // (both // 2)
    tile = np.zeros((both, TILE, size), np.float32)
    weights = np.empty(TILE, np.float32)
    for head in range(heads):
        out[head, :] = np.float32(0.0)
        out[head, size] = LEAST
    for begin in range(first, last, TILE):
        count = min(TILE, last - begin)
        for token in range(count):
            for head in range(both):
                for index in range(size):
                    tile[head, token, index] = wide(store[begin + token, head, index])
        for head in range(heads):
            _fetch(store, begin + TILE, min(begin + 2 * TILE, last), head, heads)
            mixed = out[head, :size]
            _score(queries[head], tile[head // groups], count, weights)
            shrink = _weigh(weights, out[head, size:])
            for index in range(size):
                mixed[index] *= shrink
            _add_values(weights, tile[both // 2 + head // groups], count, mixed)


@njit(fastmath=True, error_model="numpy")
def join(partial: Any, out: Any) -> None:
    """Put together the parts (rows, parts, heads, size + 2) of a mix: (rows, heads · size)."""
    rows, parts, heads, size = partial.shape
    size -= 2
    for row in range(rows):
        for head in range(heads):
            most = partial[row, 0, head, size]
            for part in range(1, parts):
                most = max(most, partial[row, part, head, size])
            total = np.float32(0.0)
            mixed = out[row, head * size : (head + 1) * size]
            mixed[:] = np.float32(0.0)
            for part in range(parts):
                share = exp(partial[row, part, head, size] - most)
                total += share * partial[row, part, head, size + 1]
                for index in range(size):
                    mixed[index] += share * partial[row, part, head, index]
            for index in range(size):
                mixed[index] /= total


@njit(fastmath=True, error_model="numpy")
def attend(
    heads: Any,
    norms: Any,
    epsilon: Any,
    rotation: Any,
    spans: Any,
    store: Any,
    partial: Any,
    rank: Any,
    ranks: Any,
) -> None:
    """This rank's part of the attention of rows with one new token each: `heads` (rows, heads and 2 · KV
    heads, size), of which the last ones are written into the store. A row's tokens are shared out in parts.
    """
    rows, parts, own, size = partial.shape
    size -= 2
    kv_heads = store.shape[1] // 2
    queries = np.empty((own, size), np.float32)
    turned = np.empty(size, np.float32)
    scale = np.float32(1.0) / np.sqrt(np.float32(size))
    for unit in range(rank, rows * parts, ranks):
        row, part = unit // parts, unit % parts
        cosine, sine = rotation[0, row], rotation[1, row]
        for head in range(own):
            _turn(heads[row, head], norms[0], epsilon, cosine, sine, turned)
            for index in range(size):
                queries[head, index] = turned[index] * scale
        start, done = spans[row, 0], spans[row, 1]
        if part == parts - 1:
            for head in range(kv_heads):
                _turn(heads[row, own + head], norms[1], epsilon, cosine, sine, turned)
                for index in range(size):
                    store[start + done, head, index] = narrow(turned[index], store)
                    value = heads[row, own + kv_heads + head, index]
                    store[start + done, kv_heads + head, index] = narrow(value, store)
        first, last = (done + 1) * part // parts, (done + 1) * (part + 1) // parts
        _mix(queries, store, start + first, start + last, partial[row, part])


@njit(fastmath=True, error_model="numpy")
def mix_rows(queries: Any, spans: Any, store: Any, partial: Any, rank: Any, ranks: Any) -> None:
    """This rank's part of the attention of rows whose tokens are all in the store, in parts: queries (rows,
    heads, size), scaled.
    """
    rows, parts = partial.shape[:2]
    for unit in range(rank, rows * parts, ranks):
        row, part = unit // parts, unit % parts
        start, count = spans[row, 0], spans[row, 1] + 1
        first, last = count * part // parts, count * (part + 1) // parts
        _mix(queries[row], store, start + first, start + last, partial[row, part])
