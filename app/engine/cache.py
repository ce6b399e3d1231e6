"""The KV cache of a model: one flat arena of tokens, in which each sequence owns an extent.

An extent is contiguous, so that attention reads it without a copy, and as long as the sequence can become, so
that it never moves. What a finished sequence leaves stays until its room is needed, least recently used
first: a prompt that begins like it starts from there.
"""

from dataclasses import dataclass, field

import torch

from app.engine.stats import EngineStats


@dataclass(eq=False)
class Extent:
    """Tokens `start … start + size` of the arena; the first `len(keys)` of them hold a known prefix.

    `keys` (tokens,) has a number for each token that is equal only where the token's input is.
    """

    start: int
    size: int
    keys: torch.Tensor = field(repr=False)
    live: bool = True


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
        self._known = 0  # tokens that were asked for and held already
        self._extents: list[Extent] = []  # by start
        self._retired: list[Extent] = []  # least recently used first

    def reserve(self, keys: torch.Tensor, tokens: int) -> tuple[Extent, int] | None:
        """Room for so many tokens and how many of `keys` it holds already; None if there is no room now."""
        source, known = self.longest_prefix(keys)
        mostly = source is not None and not source.live and 2 * known >= len(source.keys)
        if source is not None and mostly and self._room_after(source) >= tokens:
            self._retired.remove(source)
            source.size, source.live, source.keys = tokens, True, keys[:known]
            self._known += known
            return source, known
        extent = self._place(tokens, source)
        if extent is None:
            return None
        if source is not None and known:
            taken = self.store[:, source.start : source.start + known]
            self.store[:, extent.start : extent.start + known] = taken
            extent.keys = keys[:known]
        self._known += known
        return extent, known

    def longest_prefix(self, keys: torch.Tensor) -> tuple[Extent | None, int]:
        """The extent that holds the longest beginning of `keys`, and how many; never all of them, since the
        last token's output is wanted.
        """
        best, longest = None, 0
        for extent in self._extents:
            count = min(len(extent.keys), len(keys) - 1)
            if count <= longest:
                continue
            differs = (extent.keys[:count] != keys[:count]).nonzero()
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

    def held(self) -> int:
        """Tokens of the arena that running or finished sequences own."""
        return sum(extent.size for extent in self._extents)

    def stats(self) -> EngineStats:
        """Who owns the arena, and what was not computed again; may be asked from another thread."""
        owned = [(extent.live, extent.size) for extent in list(self._extents)]
        return EngineStats(
            kv_running=sum(size for live, size in owned if live),
            kv_kept=sum(size for live, size in owned if not live),
            kv_capacity=self.tokens,
            prefix_hit_tokens=self._known,
        )

    def _place(self, tokens: int, source: Extent | None) -> Extent | None:
        """A new extent in the first gap that is large enough, made by forgetting the oldest if need be."""
        while True:
            previous = 0
            for index, extent in enumerate([*self._extents, None]):
                end = self.tokens if extent is None else extent.start
                if end - previous >= tokens:
                    found = Extent(previous, tokens, torch.empty(0, dtype=torch.int64))
                    self._extents.insert(index, found)
                    return found
                if extent is not None:
                    previous = extent.start + extent.size
            oldest = next((one for one in self._retired if one is not source), None)
            if oldest is None:
                return None
            self._retired.remove(oldest)
            self._extents.remove(oldest)

    def _room_after(self, extent: Extent) -> int:
        index = self._extents.index(extent) + 1
        end = self._extents[index].start if index < len(self._extents) else self.tokens
        return end - extent.start
