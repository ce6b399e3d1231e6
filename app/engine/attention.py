"""Attention of a step: the tokens of many sequences, each looking at its own extent of the KV cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from app.engine.row_attention import InPlace, in_place

PADDED = 512
"""Rows up to so many tokens are gathered and padded to one another; longer ones are read where they are."""
ALIKE = 64
"""Rows that are padded to one another have at most twice as many tokens as the shortest, or so many."""

Rows = Sequence[tuple[int, int]]
"""Sequences with one new token each: where each one's extent begins and how many tokens it has, ascending."""


class Part(Protocol):
    """Some tokens of a step."""

    def attend(self, query: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        """Mix what its queries, of all (tokens, heads, size), look at in a layer's store: (its own tokens,
        heads · size).
        """


@dataclass(frozen=True)
class Span:
    """A part of a prompt: its sequence's extent begins at `start`, holds `done` tokens; `count` are new."""

    start: int
    done: int
    count: int


class Step:
    """Where the tokens of a step are written and what they look at; the same for all layers."""

    def __init__(self, slots: torch.Tensor, parts: "Sequence[Part]") -> None:
        self._slots, self._parts = slots, parts

    @classmethod
    def of(cls, rows: Rows, spans: Sequence[Span], dtype: torch.dtype, device: torch.device) -> "Step":
        """That of rows with a new token each and of parts of prompts after them."""
        slots = [slots_of(rows)]
        parts = _of_rows(rows, dtype, device)
        at = len(rows)
        for span in spans:
            parts.append(Alone(at, span, dtype, device))
            slots.append(torch.arange(span.start + span.done, span.start + span.done + span.count))
            at += span.count
        return cls(torch.cat(slots).to(device), parts)

    def attend(self, query: torch.Tensor, new: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        """Write the `new` keys and values, (tokens, 2 · KV heads, size), into a layer's `store`, (all tokens,
        2 · KV heads, size), and mix what the queries (tokens, heads, size) look at: (tokens, heads · size).
        """
        store.index_copy_(0, self._slots, new.to(store.dtype))
        query = query.to(store.dtype)
        mixed = [part.attend(query, store) for part in self._parts]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).to(new.dtype)


def _of_rows(rows: Rows, dtype: torch.dtype, device: torch.device) -> "list[Part]":
    if rows and device.type == "cpu" and in_place(dtype):
        return [InPlace(rows)]
    parts: list[Part] = []
    at = 0
    for some in _alike(rows):
        if len(some) > 1:
            parts.append(Padded(slice(at, at + len(some)), *padding(some, dtype), device))
        else:
            parts.append(Alone(at, Span(*some[0], 1), dtype, device))
        at += len(some)
    return parts


def _alike(rows: Rows) -> Iterator[Rows]:
    """Short rows of like lengths together, each long one by itself."""
    first = 0
    for index, (_, done) in enumerate(rows):
        limit = min(max(2 * rows[first][1], ALIKE), PADDED)
        if index > first and done >= limit:
            yield rows[first:index]
            first = index
    if rows:
        yield rows[first:]


def slots_of(rows: Rows) -> torch.Tensor:
    """Where in the arena the new tokens of rows are written: (rows,)."""
    return torch.tensor([start + done for start, done in rows], dtype=torch.long)


def padding(rows: Rows, dtype: torch.dtype, length: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded to their longest, or to `length`: the places of all their tokens in the arena, (rows ·
    length,), and what is added to scores, (rows, 1, 1, length).
    """
    starts = torch.tensor([start for start, _ in rows])
    lengths = torch.tensor([done + 1 for _, done in rows])
    places = torch.arange(length or int(lengths.max()))
    within = places[None] < lengths[:, None]
    gather = torch.where(within, starts[:, None] + places, starts[:, None]).flatten()
    bias = torch.zeros(within.shape, dtype=dtype).masked_fill_(~within, float("-inf"))
    return gather, bias[:, None, None]


class Padded:
    """Rows with one new token each, the step's `tokens`; `gather` and `bias` as `padding` has them."""

    def __init__(self, tokens: slice, gather: torch.Tensor, bias: torch.Tensor, device: torch.device) -> None:
        self._tokens = tokens
        self._gather, self._bias = gather.to(device), bias.to(device)

    def attend(self, query: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        count, heads, size = len(self._bias), store.shape[1] // 2, store.shape[2]
        grouped = query[self._tokens].view(count, heads, -1, size)
        both = store.index_select(0, self._gather).view(count, -1, 2 * heads, size).transpose(1, 2)
        bias = self._bias.expand(-1, -1, grouped.shape[2], -1)
        mixed = functional.scaled_dot_product_attention(grouped, both[:, :heads], both[:, heads:], bias)
        return mixed.reshape(count, -1)


class Alone:
    """One sequence's tokens: a part of a prompt, or the next token of a long row."""

    def __init__(self, at: int, span: Span, dtype: torch.dtype, device: torch.device) -> None:
        self._tokens = slice(at, at + span.count)
        self._extent = slice(span.start, span.start + span.done + span.count)
        self._bias: torch.Tensor | None = None
        if span.count > 1:
            seen = torch.ones((span.count, span.done + span.count), dtype=torch.bool, device=device)
            seen = seen.tril_(span.done)
            self._bias = torch.zeros(seen.shape, dtype=dtype, device=device)
            self._bias.masked_fill_(~seen, float("-inf"))

    def attend(self, query: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        heads, size = store.shape[1] // 2, store.shape[2]
        mine = query[self._tokens]
        count, groups = len(mine), mine.shape[1] // heads
        # The queries that share a KV head are put one after another, so that nothing is repeated for them.
        grouped = mine.view(count, heads, groups, size).permute(1, 2, 0, 3).reshape(heads, -1, size)
        both = store[self._extent].transpose(0, 1)[None]
        if self._bias is not None and len(self._bias) == count:
            self._bias = self._bias.repeat(groups, 1)  # once for all layers
        mixed = functional.scaled_dot_product_attention(
            grouped[None], both[:, :heads], both[:, heads:], self._bias
        )
        return mixed[0].view(heads, groups, count, size).permute(2, 0, 1, 3).reshape(count, -1)
