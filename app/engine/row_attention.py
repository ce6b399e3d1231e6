"""Attention of rows with one new token each on a CPU: a kernel reads their keys and values where they are.

It takes two thirds of what torch's attention takes over gathered rows (docs/performance.md).
"""

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

log = logging.getLogger(__name__)


class InPlace:
    """The first tokens of a step, one of each row: where its extent begins, how many tokens are before."""

    def __init__(self, rows: Sequence[tuple[int, int]]) -> None:
        from app.engine import step_kernel  # numba: it takes a while, and is not everywhere

        self._kernel = step_kernel
        self._spans = np.array(rows, np.int64)
        self._parts = -(-4 * torch.get_num_threads() // len(rows))  # so that all threads end together

    def attend(self, query: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        """Mix what queries (tokens, heads, size) look at in a layer's store: (rows, heads · size)."""
        count, (_, heads, size) = len(self._spans), query.shape
        queries = (query[:count].float() * size**-0.5).contiguous()
        mixed = torch.empty((count, heads * size))
        partial = torch.empty((count, self._parts, heads, size + 2))
        arrived = np.zeros(1, np.int64)
        self._kernel.run(
            self._kernel.attention(store.dtype),
            (
                count, self._parts, heads, size, store.shape[1], len(store), queries.data_ptr(),
                store.data_ptr(), self._spans.ctypes.data, partial.data_ptr(), mixed.data_ptr(),
                arrived.ctypes.data,
            ),
        )  # fmt: skip
        return mixed.to(query.dtype)


@cache
def in_place(dtype: torch.dtype) -> bool:
    """Whether the kernel can be had here for a cache of this format; tries it."""
    try:
        store = torch.arange(1.0, 9.0, dtype=dtype).repeat_interleave(8).view(4, 2, 8)
        found = InPlace([(1, 0), (3, 0)]).attend(torch.ones((2, 1, 8), dtype=dtype), store)
        return bool((found == torch.tensor([[4.0], [8.0]])).all())
    except Exception as error:  # no numba, another OpenMP, a processor that numba does not know
        log.info("rows are gathered for attention: %s", error)
        return False
