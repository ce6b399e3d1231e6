"""Decode steps on a GPU as CUDA graphs: launching a step's kernels one by one takes longer than they do.

A graph replays the same kernels on the same memory, so a step gets tensors of its own for each size of batch
and of context, in powers of two; rows that fill a batch up write to the cache's spare token.
"""

import logging
from collections.abc import Callable

import torch

from app.engine.attention import Padded, Rows, Step, padding, slots_of
from app.engine.cache import KVCache
from app.engine.embedding import Prompt

log = logging.getLogger(__name__)

SHORTEST = 256
"""Tokens of the smallest context that a graph is made for."""
LONGEST = 2048
"""Tokens of the largest; longer rows are read where they are, without the copy that padding is."""
TOLERANCE = 0.05
"""How far a graph's logits may be from the step's own when it is tried: root mean square, by their spread."""

Decode = Callable[[Prompt, Step, KVCache], torch.Tensor]
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Makes of some work on fixed tensors a replay of it, which gives the same tensor with new numbers."""


def record_cuda(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A CUDA graph of some work, which is run twice before, so that its libraries have set themselves up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads of this process may ask for memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


class StepGraphs:
    """Graphs of a decoder's steps, made when they are first needed."""

    def __init__(self, decode: Decode, record: Record) -> None:
        self._decode, self._record = decode, record
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._works = True

    def forward(self, rows: Rows, next_tokens: Prompt, cache: KVCache) -> torch.Tensor | None:
        """Logits (rows, vocabulary) of a step without prompts; None if it has to be computed as it is."""
        longest = max((done for _, done in rows), default=LONGEST) + 1
        if not self._works or longest > LONGEST:
            return None
        size = (_power(len(rows)), max(_power(longest), SHORTEST))
        graph = self._graphs.get(size)
        if graph is not None:
            return graph.forward(rows, next_tokens)
        try:
            graph = _Graph(size, next_tokens, cache, self._decode, self._record)
            found = graph.forward(rows, next_tokens)
            step = Step.of(rows, [], next_tokens.embeds.dtype, next_tokens.embeds.device)
            wanted = self._decode(next_tokens, step, cache)
            error = float((found - wanted).float().square().mean().sqrt() / wanted.float().std())
            if not error < TOLERANCE:
                raise ValueError(f"its logits are others, by {error:.2g}")
        except (RuntimeError, ValueError) as problem:  # torch's errors, and the one above
            log.warning("no CUDA graphs, steps are launched kernel by kernel: %s", problem)
            self._works = False
            self._graphs.clear()
            return None
        self._graphs[size] = graph
        return wanted


class _Graph:
    """The step of so many rows with so many tokens each, in tensors of its own."""

    def __init__(
        self, size: tuple[int, int], like: Prompt, cache: KVCache, decode: Decode, record: Record
    ) -> None:
        count, self._length = size
        device = like.embeds.device
        self._nobody = (cache.tokens, 0)  # the spare token
        self._rows: list[tuple[int, int]] = [self._nobody] * count
        self._prompt = Prompt(
            like.embeds.new_zeros((count, like.embeds.shape[1])),
            like.positions.new_zeros((len(like.positions), count)),
        )
        gather, bias = padding(self._rows, like.embeds.dtype, self._length)
        self._gather, self._bias = gather.to(device), bias.to(device)
        self._slots = slots_of(self._rows).to(device)
        part = Padded(slice(0, count), self._gather, self._bias, device)
        step = Step(self._slots, [part])
        self._replay = record(lambda: decode(self._prompt, step, cache))

    def forward(self, rows: Rows, next_tokens: Prompt) -> torch.Tensor:
        """Logits (rows, vocabulary), valid until the next call."""
        count = len(rows)
        filled = [*rows, *[self._nobody] * (len(self._rows) - count)]
        gather, bias = padding(filled, self._bias.dtype, self._length)
        self._gather.copy_(gather)
        self._bias.copy_(bias)
        self._slots.copy_(slots_of(filled))
        self._prompt.embeds[:count] = next_tokens.embeds
        self._prompt.positions[:, :count] = next_tokens.positions
        return self._replay()[:count]


def _power(number: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << max(number - 1, 0).bit_length()
