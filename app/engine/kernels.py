"""Kernels for a few tokens on a CPU, compiled by numba: products, norms and what is between them.

Weights lie in the order in which they are read, 64 outputs beside each other for every input: then a product
is as fast as the memory. The figures are in docs/performance.md.

The functions are written for numba: loops, arrays and numbers. `ranks` threads run a function each with
its `rank`; what one writes another one reads after a barrier.
"""

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload

BLOCK = 64
"""Outputs of a product that are beside each other in memory; their sums stay in registers or next to them."""


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A weight (outputs, inputs) as (blocks, inputs, 64), zeros after the last output."""
    rows, columns = weight.shape
    blocks = -(-rows // BLOCK)
    packed = weight.new_zeros((blocks, columns, BLOCK))
    for block in range(blocks):  # one at a time: a second copy of a large weight may not fit
        part = weight[block * BLOCK : (block + 1) * BLOCK]
        packed[block, :, : len(part)] = part.T
    return packed


def wide(value: Any) -> Any:
    """A number as float32; 16 bits are those of a bfloat16."""


@overload(wide, inline="always", strict=False)
def _wide_of(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: np.float32(value)


def narrow(value: Any, like: Any) -> Any:
    """A float32 as a number of an array's kind, to the nearest."""


@overload(narrow, inline="always", strict=False)
def _narrow_to(value: Any, like: Any) -> Any:
    if like.dtype == types.uint16:

        def rounded(value: Any, like: Any) -> Any:
            bits = np.uint32(np.float32(value).view(np.uint32))
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16)

        return rounded
    return lambda value, like: np.float32(value)


@njit(fastmath=True, error_model="numpy", inline="always")
def exp(value: Any) -> Any:
    """e to a float32 up to 88, as Cephes' expf has it: in a form that is computed for many at once."""
    value = max(value, np.float32(-87.0))
    whole = np.floor(value * np.float32(1.44269504) + np.float32(0.5))
    rest = value - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4)
    power = power * rest + np.float32(1.3981999507e-3)
    power = power * rest + np.float32(8.3334519073e-3)
    power = power * rest + np.float32(4.1665795894e-2)
    power = power * rest + np.float32(1.6666665459e-1)
    power = power * rest + np.float32(5.0000001201e-1)
    power = power * rest * rest + rest + np.float32(1.0)
    return power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(fastmath=True, error_model="numpy")
def norm(values: Any, weight: Any, epsilon: Any, out: Any) -> None:
    """Root mean square norm (Zhang and Sennrich 2019) of each row."""
    for row in range(values.shape[0]):
        total = np.float32(0.0)
        for index in range(values.shape[1]):
            total += values[row, index] * values[row, index]
        factor = np.float32(1.0) / np.sqrt(total / np.float32(values.shape[1]) + epsilon)
        for index in range(values.shape[1]):
            out[row, index] = values[row, index] * factor * weight[index]


@njit(fastmath=True, error_model="numpy")
def _block(inputs: Any, weight: Any, block: Any, sums: Any) -> None:
    """Sums (rows, 64): the inputs' product with a block of a packed weight."""
    sums[:] = np.float32(0.0)
    for index in range(inputs.shape[1]):
        for row in range(inputs.shape[0]):
            value = inputs[row, index]
            for lane in range(BLOCK):
                sums[row, lane] += wide(weight[block, index, lane]) * value


@njit(fastmath=True, error_model="numpy")
def _finish(sums: Any, scales: Any, bias: Any, first: Any) -> None:
    """Scale and shift the sums of the outputs from `first` on."""
    for row in range(sums.shape[0]):
        if len(scales):
            for lane in range(min(BLOCK, len(scales) - first)):
                sums[row, lane] *= scales[first + lane]
        if len(bias):
            for lane in range(min(BLOCK, len(bias) - first)):
                sums[row, lane] += bias[first + lane]


@njit(fastmath=True, error_model="numpy")
def product(
    inputs: Any, weight: Any, scales: Any, bias: Any, out: Any, add: Any, rank: Any, ranks: Any
) -> None:
    """This rank's part of a linear layer, written to `out` (rows, outputs) or added to it."""
    sums = np.empty((inputs.shape[0], BLOCK), np.float32)
    blocks = weight.shape[0]
    for block in range(blocks * rank // ranks, blocks * (rank + 1) // ranks):
        _block(inputs, weight, block, sums)
        first = block * BLOCK
        _finish(sums, scales, bias, first)
        for row in range(inputs.shape[0]):
            for lane in range(min(BLOCK, out.shape[1] - first)):
                before = out[row, first + lane] if add else np.float32(0.0)
                out[row, first + lane] = before + sums[row, lane]


@njit(fastmath=True, error_model="numpy")
def silu_product(inputs: Any, weight: Any, scales: Any, bias: Any, out: Any, rank: Any, ranks: Any) -> None:
    """This rank's part of silu(gate) · up, both in one weight: (rows, half the outputs)."""
    gate = np.empty((inputs.shape[0], BLOCK), np.float32)
    up = np.empty((inputs.shape[0], BLOCK), np.float32)
    half = weight.shape[0] // 2
    for block in range(half * rank // ranks, half * (rank + 1) // ranks):
        _block(inputs, weight, block, gate)
        _finish(gate, scales, bias, block * BLOCK)
        _block(inputs, weight, half + block, up)
        _finish(up, scales, bias, (half + block) * BLOCK)
        for row in range(inputs.shape[0]):
            for lane in range(BLOCK):
                value = gate[row, lane]
                sigmoid = np.float32(1.0) / (np.float32(1.0) + exp(min(-value, np.float32(87.0))))
                out[row, block * BLOCK + lane] = value * sigmoid * up[row, lane]
