"""The KV cache of a model: one flat arena of tokens, in which each sequence owns an extent.

An extent is contiguous, so that attention reads it without a copy, and as long as the sequence can become, so
that it grows without one. It moves only where the gaps between others are together what a new one needs. What
a finished sequence leaves stays until its room is needed, least recently used first: a prompt that begins
like it starts from there.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from app.engine.stats import EngineStats

KEPT = 1024
"""Finished sequences that are kept at most; looking through them takes time at every admission."""
CONTINUED = 0.9
"""A prompt that begins with so much of a finished sequence goes on where that is; with less, it gets a copy,
and the other one can still be gone on with.
"""


@dataclass(eq=False)
class Extent:
    """Tokens `start … start + size` of the arena; the first `len(keys)` of them hold a known prefix.

    `keys` (tokens,) has a number for each token that is equal only where the token's input is. `written` of a
    running one's tokens hold anything.
    """

    start: int
    size: int
    keys: torch.Tensor = field(repr=False)
    live: bool = True
    written: int = 0


class KVCache:
    """Keys and values of all layers: `store` (layers, tokens + 1, heads, head size), of which a token has the
    keys of all KV heads, then the values of all.
    """

    def __init__(
        self, layers: int, heads: int, size: int, *, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # On a CPU this takes memory only as far as it has been written to. One token more than can be had is
        # where rows that are none write to (cuda.py).
        self.store = torch.empty((layers, tokens + 1, heads, size), dtype=dtype, device=device)
        self.tokens = tokens
        self._reached = 0  # tokens of the arena that were ever somebody's
        self._extents: list[Extent] = []  # by start
        self._retired: list[Extent] = []  # least recently used first

    def reserve(self, keys: torch.Tensor, tokens: int) -> tuple[Extent, int] | None:
        """Room for so many tokens and how many of `keys` it holds already; None if there is no room now.
        Running extents may have another `start` after it.
        """
        source, known = self.longest_prefix(keys)
        goes_on = source is not None and not source.live and CONTINUED * len(source.keys) <= known
        if source is not None and goes_on and self._room_after(source) >= tokens:
            return self._taken_over(source, keys[:known], tokens)
        gap = self._gap(tokens, source)
        if gap is None and source is not None and not source.live:
            # Its own room is needed as well.
            if self._room_after(source, self._retired) >= tokens:
                return self._taken_over(source, keys[:known], tokens)
            gap, source, known = self._gap(tokens, None), None, 0
        if gap is None:
            gap = self._gap_by_moving(tokens)
        if gap is None:
            return None
        extent = self._place(gap, tokens)
        if source is not None and known:
            taken = self.store[:, source.start : source.start + known]
            self.store[:, extent.start : extent.start + known] = taken
            extent.keys, extent.written = keys[:known], known
            if not source.live:  # it was of use just now
                self._retired.remove(source)
                self._retired.append(source)
        return extent, known

    def longest_prefix(self, keys: torch.Tensor) -> tuple[Extent | None, int]:
        """The extent that holds the longest beginning of `keys`, and how many; never all of them, since the
        last token's output is wanted.
        """
        best, longest = None, 0
        wanted = keys.numpy()
        for extent in self._extents:
            count = min(len(extent.keys), len(wanted) - 1)
            mine = extent.keys.numpy()
            # Most are told apart by one number: where the best so far ends, a better one goes on.
            if count <= longest or mine[longest] != wanted[longest]:
                continue
            differs = (mine[:count] != wanted[:count]).nonzero()[0]
            same = int(differs[0]) if len(differs) else count
            if same > longest:
                best, longest = extent, same
        return best, longest

    def retire(self, extent: Extent, keys: torch.Tensor) -> None:
        """Keep what a finished sequence has written, for as long as there is room."""
        extent.live, extent.keys, extent.size = False, keys, len(keys)
        if extent.size:
            self._retired.append(extent)
        else:
            self._extents.remove(extent)
        if len(self._retired) > KEPT:
            self._extents.remove(self._retired.pop(0))

    def held(self) -> int:
        """Tokens of the arena that running or finished sequences own."""
        return sum(extent.size for extent in self._extents)

    def untouched_bytes(self) -> int:
        """Of the arena, what takes no memory yet, but will."""
        if self.store.device.type != "cpu":
            return 0
        return (self.tokens - self._reached) * (self.store.nbytes // (self.tokens + 1))

    def stats(self) -> EngineStats:
        """Who owns the arena; may be asked from another thread."""
        owned = [(extent.live, extent.size) for extent in list(self._extents)]
        return EngineStats(
            kv_running=sum(size for live, size in owned if live),
            kv_kept=sum(size for live, size in owned if not live),
            kv_capacity=self.tokens,
        )

    def _taken_over(self, extent: Extent, known: torch.Tensor, tokens: int) -> tuple[Extent, int]:
        """A retired extent as the room of a sequence that goes on with it."""
        extent.live, extent.keys, extent.written = True, known, len(known)
        self._retired.remove(extent)
        self._forget(extent.start, extent.start + tokens)
        extent.size = tokens
        self._reached = max(self._reached, extent.start + tokens)
        return extent, len(known)

    def _gap(self, tokens: int, keep: Extent | None) -> int | None:
        """Where so many tokens have room, if the oldest of what is retired is forgotten for it, as little as
        will do.
        """
        age = {id(extent): number for number, extent in enumerate(self._retired) if extent is not keep}
        low, high, found = 0, len(self._retired), None
        while low <= high:  # forgetting more never makes less room
            count = (low + high) // 2
            start = self._first_gap(tokens, {one for one, number in age.items() if number < count})
            if start is None:
                low = count + 1
            else:
                found, high = start, count - 1
        return found

    def _first_gap(self, tokens: int, gone: set[int]) -> int | None:
        previous = 0
        for extent in self._extents:
            if id(extent) in gone:
                continue
            if extent.start - previous >= tokens:
                return previous
            previous = extent.start + extent.size
        return previous if self.tokens - previous >= tokens else None

    def _gap_by_moving(self, tokens: int) -> int | None:
        """Where so many tokens have room once running extents have moved next to each other, as few tokens as
        will do; what is retired between them is forgotten.
        """
        live = [extent for extent in self._extents if extent.live]
        ends = [0, *(extent.start + extent.size for extent in live)]
        starts = [*(extent.start for extent in live), self.tokens]
        sizes = [*(extent.size for extent in live), 0]
        found: list[tuple[int, int, int]] = []
        for first in range(len(ends)):
            room = moved = 0
            for last in range(first, len(ends)):
                room += starts[last] - ends[last]
                if room >= tokens:
                    found.append((moved, first, last))
                    break
                moved += sizes[last]
        if not found:
            return None
        _, first, last = min(found)
        start = ends[first]
        self._forget(start, starts[last])
        for extent in live[first:last]:
            self._move(extent, start)
            start += extent.size
        return start

    def _move(self, extent: Extent, start: int) -> None:
        """Move what an extent holds down the arena, layer by layer: the two places may overlap."""
        count = extent.written
        between = torch.empty_like(self.store[0, :count])  # before anything is moved: there may be no memory
        for layer in self.store:
            between.copy_(layer[extent.start : extent.start + count])
            layer[start : start + count].copy_(between)
        extent.start = start

    def _place(self, start: int, tokens: int) -> Extent:
        """A new extent there."""
        self._forget(start, start + tokens)
        self._reached = max(self._reached, start + tokens)
        found = Extent(start, tokens, torch.empty(0, dtype=torch.int64))
        bisect.insort(self._extents, found, key=lambda extent: extent.start)
        return found

    def _forget(self, start: int, end: int) -> None:
        """Let go of what is retired between two tokens of the arena."""
        gone = [one for one in self._retired if one.start < end and one.start + one.size > start]
        for extent in gone:
            self._retired.remove(extent)
            self._extents.remove(extent)

    def _room_after(self, extent: Extent, without: Sequence[Extent] = ()) -> int:
        """Tokens from an extent's start to the next one's, of those that are not retired with `without`."""
        index = self._extents.index(extent) + 1
        gone = {id(one) for one in without}
        after = (one.start for one in self._extents[index:] if id(one) not in gone)
        return next(after, self.tokens) - extent.start
