"""Decode steps of a few rows on a CPU, all layers in one kernel (step_kernel.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from app.engine import step_kernel
from app.engine.attention import Rows
from app.engine.cache import KVCache
from app.engine.embedding import Prompt
from app.engine.kernels import BLOCK
from app.engine.streamed import FEW, StreamedLinear, streamed

Rotation = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class FewRows:
    """The kernel's arguments for the layers of a decoder (`decoder.Layer`), its last norm and its head.

    Raises ValueError for layers that the kernel is not for.
    """

    def __init__(self, layers: list[Any], norm: Any, head: Any, rotation: Rotation) -> None:
        first = layers[0]
        self._rotation, self._layers = rotation, len(layers)
        self._head, self._heads = _streamed(head), (first.heads, first.kv_heads, first.size)
        self._inner = _streamed(first.down).inputs
        sample = torch.linspace(-3, 3, 7)
        if not torch.allclose(first.activation(sample), functional.silu(sample)):
            raise ValueError("their activation is another one")
        if self._inner % BLOCK:
            raise ValueError(f"their inner width is no multiple of {BLOCK}")
        self._addresses = np.zeros((len(layers) + 1, 16), np.int64)
        self._epsilons = np.zeros((len(layers) + 1, 3), np.float32)
        self._kept_alive = [layers, norm, head]
        for index, layer in enumerate(layers):
            self._enter(index, layer)
        self._epsilons[-1, 0] = norm.epsilon
        self._addresses[-1, 0] = norm.weight.data_ptr()
        self._addresses[-1, 3:6] = self._head.addresses()
        self._store = 0

    def forward(self, rows: Rows, next_tokens: Prompt, cache: KVCache) -> torch.Tensor | None:
        """Logits (rows, vocabulary), float32, of a step without prompts; None if it is for too many rows."""
        count = len(rows)
        if not 0 < count <= FEW:
            return None
        store = cache.store
        if self._store != store.data_ptr():
            self._addresses[:-1, 15] = [layer.data_ptr() for layer in store]
            self._store = store.data_ptr()
        heads, kv_heads, size = self._heads
        hidden = next_tokens.embeds.float().clone()  # which the kernel writes to
        rotation = torch.stack(self._rotation(hidden, next_tokens.positions)).float().contiguous()
        parts = -(-torch.get_num_threads() // count)
        spans = np.array(rows, np.int64)
        widest = max(self._inner, (heads + 2 * kv_heads) * size)
        work = np.empty(count * (widest + parts * heads * (size + 2)), np.float32)
        arrived = np.zeros(1, np.int64)
        logits = torch.empty((count, self._head.outputs))
        step_kernel.run(
            step_kernel.step(self._head.kind, store.dtype),
            (
                count, self._layers, hidden.shape[1], self._inner, heads, kv_heads, size, self._head.outputs,
                parts, store.shape[1], len(work), self._addresses.ctypes.data, self._epsilons.ctypes.data,
                hidden.data_ptr(), rotation.data_ptr(), spans.ctypes.data, work.ctypes.data,
                logits.data_ptr(), arrived.ctypes.data,
            ),
        )  # fmt: skip
        return logits

    def _enter(self, index: int, layer: Any) -> None:
        """Write down where a layer's weights are."""
        norm = layer.head_norm
        self._epsilons[index] = layer.before.epsilon, layer.between.epsilon, norm.epsilon if norm else 0.0
        row = [layer.before.weight.data_ptr(), layer.between.weight.data_ptr(), 0]
        if norm:
            both = torch.stack([norm.each[0], norm.each[-1]]).contiguous()
            self._kept_alive.append(both)
            row[2] = both.data_ptr()
        for product in (layer.qkv, layer.out, layer.gate_up, layer.down):
            found = _streamed(product)
            if found.kind != self._head.kind:
                raise ValueError("their weights are of different kinds")
            row += found.addresses()
        self._addresses[index, :15] = row


def _streamed(product: Any) -> StreamedLinear:
    found = streamed(product)
    if found is None:
        raise ValueError("their weights are not kept in the order of a few rows")
    return found
