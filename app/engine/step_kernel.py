"""A decode step of a few rows as one kernel for a CPU, and parts of it by themselves, on torch's own threads.

All layers are one call, since the time between the products would be a tenth of a short step and more. It is
run by the threads of torch's OpenMP, because those of a second one would contend with them for the cores.
"""

import ctypes
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from app.engine.attention_kernel import attend, join, mix_rows
from app.engine.kernels import BLOCK, norm, product, silu_product

SPINS = 1000
"""Looks at the counter of a barrier after which a thread lets others run."""

_yield = types.ExternalFunction("sched_yield", types.int32())
_rank = types.ExternalFunction("omp_get_thread_num", types.int32())
_ranks = types.ExternalFunction("omp_get_num_threads", types.int32())


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def _add_one(typing: Any, counter: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), generate


@intrinsic
def _load(typing: Any, counter: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), generate


@njit(error_model="numpy")
def _wait(counter: Any, ranks: Any) -> None:
    """Wait until all ranks are here; the counter at that address began at 0. OpenMP's own barrier puts
    threads to sleep where a process has more of them than there are cores: a seventh of a step in all.
    """
    goal = (_add_one(counter) // ranks + 1) * ranks
    spins = 0
    while _load(counter) < goal:
        spins += 1
        if spins % SPINS == 0:
            _yield()


@njit(error_model="numpy")
def _vector(address: Any, count: Any) -> Any:
    """Float32 numbers at an address; none where that is 0."""
    return carray(_pointer(address), (count if address else 0,), np.float32)


@njit(error_model="numpy")
def _linear(inputs: Any, layer: Any, out: Any, add: Any, kind: Any, rank: Any, ranks: Any) -> None:
    """This rank's part of the layer whose weight, scales and bias are at three addresses."""
    outputs = out.shape[1]
    weight = carray(_pointer(layer[0]), (-(-outputs // BLOCK), inputs.shape[1], BLOCK), kind)
    product(inputs, weight, _vector(layer[1], outputs), _vector(layer[2], outputs), out, add, rank, ranks)


@njit(error_model="numpy")
def _layer(
    sizes: Any,
    addresses: Any,
    epsilons: Any,
    hidden: Any,
    work: Any,
    rotation: Any,
    spans: Any,
    store: Any,
    counter: Any,
    kind: Any,
    rank: Any,
    ranks: Any,
) -> None:
    """A decoder layer: pre-norm attention with rotary positions and grouped heads, then a gated MLP."""
    rows, width = hidden.shape
    inner, heads, kv_heads, size, parts = sizes
    all_heads = heads + 2 * kv_heads
    normed = np.empty((rows, width), np.float32)
    mixed = np.empty((rows, heads * size), np.float32)
    qkv = work[: rows * all_heads * size].reshape(rows, all_heads * size)
    gated = work[: rows * inner].reshape(rows, inner)
    partial = work[rows * max(inner, all_heads * size) :]
    partial = partial[: rows * parts * heads * (size + 2)].reshape(rows, parts, heads, size + 2)
    head_norms = carray(_pointer(addresses[2]), (2, size if addresses[2] else 0), np.float32)

    norm(hidden, _vector(addresses[0], width), epsilons[0], normed)
    _linear(normed, addresses[3:], qkv, False, kind, rank, ranks)
    _wait(counter, ranks)
    turning = qkv.reshape(rows, all_heads, size)
    attend(turning, head_norms, epsilons[2], rotation, spans, store, partial, rank, ranks)
    _wait(counter, ranks)
    join(partial, mixed)
    _linear(mixed, addresses[6:], hidden, True, kind, rank, ranks)
    _wait(counter, ranks)
    norm(hidden, _vector(addresses[1], width), epsilons[1], normed)
    weight = carray(_pointer(addresses[9]), (2 * inner // BLOCK, width, BLOCK), kind)
    scales, bias = _vector(addresses[10], 2 * inner), _vector(addresses[11], 2 * inner)
    silu_product(normed, weight, scales, bias, gated, rank, ranks)
    _wait(counter, ranks)
    _linear(gated, addresses[12:], hidden, True, kind, rank, ranks)
    _wait(counter, ranks)


@njit(error_model="numpy")
def _step(arguments: Any, kind: Any, kept: Any) -> None:
    """A step of all layers and the head; the arguments are numbers and addresses, as few_rows.py has them."""
    given = carray(arguments, (19,), np.int64)
    rows, layers, width, inner, heads, kv_heads, size, words, parts, tokens, space = given[:11]
    rank, ranks = _rank(), _ranks()
    addresses = carray(_pointer(given[11]), (layers + 1, 16), np.int64)
    epsilons = carray(_pointer(given[12]), (layers + 1, 3), np.float32)
    hidden = carray(_pointer(given[13]), (rows, width), np.float32)
    rotation = carray(_pointer(given[14]), (2, rows, size), np.float32)
    spans = carray(_pointer(given[15]), (rows, 2), np.int64)
    work = carray(_pointer(given[16]), (space,), np.float32)
    logits = carray(_pointer(given[17]), (rows, words), np.float32)
    sizes = (inner, heads, kv_heads, size, parts)
    for index in range(layers):
        one = addresses[index]
        store = carray(_pointer(one[15]), (tokens, 2 * kv_heads, size), kept)
        _layer(
            sizes, one, epsilons[index], hidden, work, rotation, spans, store, given[18], kind, rank, ranks
        )
    normed = np.empty((rows, width), np.float32)
    norm(hidden, _vector(addresses[layers, 0], width), epsilons[layers, 0], normed)
    _linear(normed, addresses[layers, 3:], logits, False, kind, rank, ranks)


@njit(error_model="numpy")
def _one_linear(arguments: Any, kind: Any) -> None:
    """A linear layer by itself: rows, inputs, outputs; addresses of weight, scales, bias, input, output."""
    given = carray(arguments, (8,), np.int64)
    inputs = carray(_pointer(given[6]), (given[0], given[1]), np.float32)
    out = carray(_pointer(given[7]), (given[0], given[2]), np.float32)
    _linear(inputs, given[3:], out, False, kind, _rank(), _ranks())


@njit(error_model="numpy")
def _attention(arguments: Any, kept: Any) -> None:
    """The attention of many rows by itself; the arguments are as row_attention.py has them."""
    given = carray(arguments, (12,), np.int64)
    rows, parts, heads, size, both, tokens = given[:6]
    rank, ranks = _rank(), _ranks()
    queries = carray(_pointer(given[6]), (rows, heads, size), np.float32)
    store = carray(_pointer(given[7]), (tokens, both, size), kept)
    spans = carray(_pointer(given[8]), (rows, 2), np.int64)
    partial = carray(_pointer(given[9]), (rows, parts, heads, size + 2), np.float32)
    mixed = carray(_pointer(given[10]), (rows, heads * size), np.float32)
    mix_rows(queries, spans, store, partial, rank, ranks)
    _wait(given[11], ranks)
    first, last = rows * rank // ranks, rows * (rank + 1) // ranks
    join(partial[first:last], mixed[first:last])


KINDS = {torch.bfloat16: np.uint16, torch.int8: np.int8, torch.float32: np.float32}
"""What numbers are to numba, which has no bfloat16."""


@functools.cache
def run_parallel() -> Callable[[int, Any, int, int], None]:
    """GOMP_parallel of the OpenMP that torch uses: (address of a C function, its argument, threads, 0).

    Raises OSError where torch uses another one.
    """
    folder = Path(torch.__file__).parent
    for path in [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]:
        llvmlite.binding.load_library_permanently(str(path))  # for the functions above
        function: Any = ctypes.CDLL(str(path)).GOMP_parallel
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        found: Callable[[int, Any, int, int], None] = function
        return found
    raise OSError("this torch has no libgomp")


@functools.cache
def _sources() -> str:
    """What the kernels are made of. Numba keeps what it has compiled for as long as the file of the compiled
    function stays the same; as a part of that function this stands for the others.
    """
    files = sorted(Path(__file__).parent.glob("*kernel*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@functools.cache
def step(weights: torch.dtype, kept: torch.dtype) -> Any:
    """The kernel of a step for weights and a KV cache of these formats. Compiling it takes ten seconds and
    more, once on a machine, since it is kept on disk.
    """
    kind, cached, made_of = KINDS[weights], KINDS[kept], _sources()

    def body(arguments: Any) -> None:
        if len(made_of):
            _step(arguments, kind, cached)

    return _compiled(body)


@functools.cache
def linear(weights: torch.dtype) -> Any:
    """The kernel of a linear layer."""
    kind, made_of = KINDS[weights], _sources()

    def body(arguments: Any) -> None:
        if len(made_of):
            _one_linear(arguments, kind)

    return _compiled(body)


@functools.cache
def attention(kept: torch.dtype) -> Any:
    """The kernel of the attention of many rows over a KV cache of this format."""
    kind, made_of = KINDS[kept], _sources()

    def body(arguments: Any) -> None:
        if len(made_of):
            _attention(arguments, kind)

    return _compiled(body)


def _compiled(body: Callable[[Any], None]) -> Any:
    run_parallel()  # which makes the functions of OpenMP known
    try:
        return cfunc("void(voidptr)", cache=True)(body)
    except RuntimeError:  # no folder where it could be kept
        return cfunc("void(voidptr)")(body)


def run(kernel: Any, arguments: Sequence[int]) -> None:
    """Run a kernel with numbers and addresses, on all of torch's threads."""
    given = np.array(arguments, np.int64)
    run_parallel()(kernel.address, given.ctypes.data, torch.get_num_threads(), 0)
