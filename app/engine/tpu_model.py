"""A compiled Qwen on a TPU: its networks compute prompts and next tokens, over KV caches in device memory.

Buffers of our own carry everything from network to network: those of the networks themselves lie in one arena
that each launch may overwrite. One thread uses a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.engine.bmrt import FLOAT32, INT32, BmError, DeviceMemory
from app.engine.tpu_device import Array, Device, UnknownModelError, View, part, stored
from app.engine.tpu_layout import Layout
from app.engine.tpu_prompt import HIDDEN, Prompt, Vision, causal_mask
from app.engine.tpu_vision import Tower

CANDIDATES = 50
"""Tokens that a sampling head tells of."""


@dataclass
class KVCache:
    """Keys and values of one sequence, a piece of device memory for each layer; `rows` tokens of them are
    there or were begun, what follows is zero.
    """

    keys: Sequence[DeviceMemory]
    values: Sequence[DeviceMemory]
    rows: int = 0


class TpuModel:
    """The networks of a .bmodel on a device, and the buffers between them. Raises BmError when the device
    fails.
    """

    def __init__(self, device: Device, layout: Layout, config: Path, vision: Vision | None) -> None:
        self.layout = layout
        self._device = device
        rows, axes = layout.input_length, layout.axes
        row, most = layout.row_bytes, -(-layout.prompt_limit // rows) * rows
        allocate = device.allocate
        self._states = allocate(most * row)  # of the whole prompt, as embedded
        self._deepstack = [allocate(most * row) for _ in range(layout.deepstack)]
        self._spares = [allocate(rows * row) for _ in range(2)]
        self._ids = allocate(4 * rows)
        self._positions = allocate(4 * axes * rows)
        block = layout.nets["block_0"]
        self._mask = allocate(block.inputs[2].bytes) if layout.masked else None
        self._new_kv = [allocate(rows * layout.kv_row_bytes) for _ in range(2)]
        self._next_mask = allocate((layout.length + 1) * layout.itemsize)
        self._next_states = [allocate(row) for _ in range(2)]
        self._answer = allocate(layout.nets["lm_head"].outputs[0].bytes)
        self._chosen = allocate(4)
        choosing = layout.nets["sample_head"] if self.has_candidates() else None
        self._choosing = [] if choosing is None else [allocate(port.bytes) for port in choosing.inputs[1:]]
        self._candidates = [] if choosing is None else [allocate(port.bytes) for port in choosing.outputs]
        self._table = None if layout.embeds else _embedding_file(config, layout)
        self._tower: Tower | None = None
        if vision is not None and layout.patches:
            self._tower = Tower(device, layout, vision)

    def caches(self, wanted: int, held: Sequence[KVCache] = ()) -> list[KVCache]:
        """So many KV caches, or as many as the device's memory has room for, filled with zeros; `held`, an
        earlier answer, comes first with what it holds.

        The networks have memory of their own for one cache, which is read without a copy but through which
        the caches of others pass. So it is used only where it is the only one.
        """
        found = list(held) if len(held) > 1 else []
        made: list[KVCache] = []
        while len(found) + len(made) < wanted > 1:
            try:
                made.append(self._new_cache())
            except BmError as error:
                if not error.is_out_of_memory:
                    raise
                break
        found += made
        if len(found) == 1:
            self._device.free([*made[0].keys, *made[0].values])
        if len(found) < 2:
            if held:
                return list(held)
            numbers = range(self.layout.layers)
            stage = self.layout.decode_stages[-1][1]
            nets = [self.layout.nets[f"block_cache_{layer}"].stages[stage].inputs for layer in numbers]
            found = made = [KVCache([ports[3].memory for ports in nets], [ports[4].memory for ports in nets])]
        for cache in made:
            self.clear(cache)
        if len(held) == 1 and held[0].rows:
            self.copy_cache(found[0], held[0], held[0].rows)
        return found

    def _new_cache(self) -> KVCache:
        pieces: list[DeviceMemory] = []
        try:
            for _ in range(2 * self.layout.layers):
                pieces.append(self._device.allocate(self.layout.length * self.layout.kv_row_bytes))
        except BmError:
            self._device.free(pieces)
            raise
        return KVCache(pieces[::2], pieces[1::2])

    def rewind(self, cache: KVCache, rows: int = 0) -> None:
        """Forget what follows the first rows. It becomes zeros: a mask adds to scores, which hides no NaN."""
        start, size = rows * self.layout.kv_row_bytes, (cache.rows - rows) * self.layout.kv_row_bytes
        for memory in (*cache.keys, *cache.values) if size > 0 else ():
            self._device.zero(part(memory, start, size))
        cache.rows = min(cache.rows, rows)

    def clear(self, cache: KVCache) -> None:
        """Make all of a cache zeros, whatever is there."""
        cache.rows = self.layout.length
        self.rewind(cache)

    def copy_cache(self, target: KVCache, source: KVCache, rows: int) -> None:
        """Begin a cache with the first rows of another."""
        self.rewind(target, rows)
        size = rows * self.layout.kv_row_bytes
        pairs = zip((*target.keys, *target.values), (*source.keys, *source.values), strict=True)
        for mine, theirs in pairs:
            self._device.copy(mine, theirs, size)
        target.rows = rows

    def prefill(
        self,
        cache: KVCache,
        prompt: Prompt,
        between: Callable[[], None] = lambda: None,
        each: Callable[[], None] | None = None,
    ) -> None:
        """Compute a prompt; the answer is what comes after it. `between` is called between networks, and may
        raise; `each` when the answer is what comes after the first token, the second, and so on.
        """
        self.rewind(cache)
        self._embed(prompt)
        if prompt.pictures and self._tower is not None:
            self._look(prompt, self._tower, between)
        step = self.layout.input_length
        for start in range(0, len(prompt), step):
            count = min(step, len(prompt) - start)
            cache.rows = start + count
            state = self._piece(cache, prompt, start, count, between)
            for row in range(count if each else 0):
                between()
                self._head(part(state, row * self.layout.row_bytes, self.layout.row_bytes))
                if each is not None:
                    each()
        self._head(part(state, (count - 1) * self.layout.row_bytes, self.layout.row_bytes))

    def decode(self, cache: KVCache, token: int, position: int) -> None:
        """Compute one more token of a sequence; the answer is what comes after it."""
        layout, device = self.layout, self._device
        length, stage = next(one for one in layout.decode_stages if one[0] > cache.rows)
        mask = np.zeros(length + 1, np.float32)
        mask[cache.rows : length] = HIDDEN  # the token itself comes last
        dtype, size = layout.state_dtype, layout.kv_row_bytes
        device.write(self._next_mask, stored(mask, dtype))
        device.write(self._positions, np.full(layout.axes, position, np.int32))
        state, spare = self._next_states
        self._embed_one(token, state)
        dims = (1, length, layout.kv_heads, layout.head_size)
        common = (
            View(self._positions, INT32, (layout.axes, 1)),
            View(self._next_mask, dtype, (1, 1, 1, length + 1)),
        )
        for layer in range(layout.layers):
            past = (cache.keys[layer], cache.values[layer])
            seen = [View(part(memory, 0, length * size), dtype, dims) for memory in past]
            new = [part(memory, cache.rows * size, size) for memory in past]
            net = layout.nets[f"block_cache_{layer}"]
            device.launch(
                net, [View(state, dtype, (1, 1, layout.width)), *common, *seen], [spare, *new], stage
            )
            state, spare = spare, state
        cache.rows += 1
        self._head(state)

    def token(self) -> int:
        """The likeliest token of the answer, as the device says it."""
        if self.layout.greedy_only:
            return int(self._device.read(self._answer, INT32, 1)[0])
        net = self.layout.nets["greedy_head"]
        port = net.inputs[0]
        self._device.launch(net, [View(self._answer, port.dtype, port.dims)], [self._chosen])
        return int(self._device.read(self._chosen, INT32, 1)[0])

    def logits(self) -> Array:
        """The answer's logits, (vocabulary,) float32; not for a model that tells only tokens."""
        port = self.layout.nets["lm_head"].outputs[0]
        return self._device.read(self._answer, port.dtype, self.layout.vocabulary)

    def has_chooser(self) -> bool:
        """Whether the device can tell the likeliest token by itself."""
        net = self.layout.nets.get("greedy_head")
        return net is not None and net.inputs[0].dtype == self.layout.nets["lm_head"].outputs[0].dtype

    def has_candidates(self) -> bool:
        """Whether the device can tell the likeliest tokens by itself."""
        net = self.layout.nets.get("sample_head")
        dtype = self.layout.nets["lm_head"].outputs[0].dtype
        return net is not None and len(net.inputs) == 6 and net.inputs[0].dtype == dtype == FLOAT32

    def candidate_logits(self) -> Array:
        """Logits of which all but those of the likeliest tokens, CANDIDATES at most, are -inf."""
        net = self.layout.nets["sample_head"]
        count = net.outputs[0].dims[-1]
        ids = np.zeros(net.inputs[1].dims, np.int32)  # of no penalty
        settings = [np.array([1], np.float32)] * 2 + [np.array([count], np.int32), np.array([1], np.float32)]
        for memory, value in zip(self._choosing, [ids, *settings], strict=True):
            self._device.write(memory, value)
        memories = (self._answer, *self._choosing)
        views = [View(one, port.dtype, port.dims) for one, port in zip(memories, net.inputs, strict=True)]
        self._device.launch(net, views, self._candidates)
        shares = self._device.read(self._candidates[0], FLOAT32, count)
        logits = np.full(self.layout.vocabulary, -np.inf, np.float32)
        with np.errstate(divide="ignore"):
            logits[self._device.read(self._candidates[1], INT32, count)] = np.log(shares)
        return logits

    def _embed(self, prompt: Prompt) -> None:
        """Token states of the whole prompt."""
        layout, step = self.layout, self.layout.input_length
        if self._table is not None:
            padded = np.zeros((-(-len(prompt) // step) * step, layout.width), self._table.dtype)
            padded[: len(prompt)] = self._table[prompt.ids]
            self._device.write(self._states, padded)
            return
        net, size = layout.nets["embedding"], step * layout.row_bytes
        for number, start in enumerate(range(0, len(prompt), step)):
            ids = np.zeros((1, step), np.int32)
            some = prompt.ids[start : start + step]
            ids[0, : len(some)] = some
            self._device.write(self._ids, ids)
            target = part(self._states, number * size, size)
            self._device.launch(net, [View(self._ids, INT32, (1, step))], [target])

    def _embed_one(self, token: int, state: DeviceMemory) -> None:
        if self._table is not None:
            self._device.write(state, self._table[token])
            return
        self._device.write(self._ids, np.array([[token]], np.int32))
        self._device.launch(self.layout.nets["embedding_cache"], [View(self._ids, INT32, (1, 1))], [state])

    def _look(self, prompt: Prompt, tower: Tower, between: Callable[[], None]) -> None:
        """Put the features of the prompt's pictures in the place of their tokens."""
        for memory in self._deepstack:
            self._device.zero(memory)
        for picture in prompt.pictures:
            between()
            features, deepstack = tower.look(picture)
            size, start = tower.cells(picture) * self.layout.row_bytes, picture.start * self.layout.row_bytes
            self._device.copy(self._states, features, size, to=start)
            for target, source in zip(self._deepstack, deepstack, strict=True):
                self._device.copy(target, source, size, to=start)

    def _piece(
        self, cache: KVCache, prompt: Prompt, start: int, count: int, between: Callable[[], None]
    ) -> DeviceMemory:
        """Run the blocks over a piece of the prompt, after what is cached; returns their last states."""
        layout, device = self.layout, self._device
        rows = count if layout.dynamic else layout.input_length
        positions = np.zeros((layout.axes, rows), np.int32)
        positions[:, :count] = prompt.positions[:, start : start + count]
        device.write(self._positions, positions)
        common = [View(self._positions, INT32, (layout.axes, rows))]
        if self._mask is not None:
            room = layout.history_length
            mask = causal_mask(count, rows, room + rows, past=start, room=room)
            device.write(self._mask, stored(mask, layout.state_dtype))
            common.append(View(self._mask, layout.state_dtype, (1, 1, rows, room + rows)))
        row, size = layout.row_bytes, layout.kv_row_bytes
        state = part(self._states, start * row, layout.input_length * row)
        for layer in range(layout.layers):
            between()
            apart = layout.history == "networks" and start > 0
            net = layout.nets[f"block_kv_{layer}" if apart else f"block_{layer}"]
            spare = self._spare(state)
            view = View(state, layout.state_dtype, (1, rows, layout.width))
            device.launch(net, [view, *common, *self._past(cache, layer, start)], [spare, *self._new_kv])
            state = spare
            if prompt.pictures and layer < layout.deepstack:
                state = self._add(state, layer, start, rows)
            device.copy(cache.keys[layer], self._new_kv[0], count * size, to=start * size)
            device.copy(cache.values[layer], self._new_kv[1], count * size, to=start * size)
        return state

    def _past(self, cache: KVCache, layer: int, start: int) -> list[View]:
        """What a block sees of the cache."""
        layout = self.layout
        if layout.history == "none" or (layout.history == "networks" and not start):
            return []
        rows = start if layout.dynamic else layout.history_length
        dims, size = (1, rows, layout.kv_heads, layout.head_size), rows * layout.kv_row_bytes
        past = (cache.keys[layer], cache.values[layer])
        return [View(part(memory, 0, size), layout.state_dtype, dims) for memory in past]

    def _add(self, state: DeviceMemory, layer: int, start: int, rows: int) -> DeviceMemory:
        """States plus the features that a deepstack layer gets."""
        layout, net = self.layout, self.layout.nets["add"]
        count = (rows if net.is_dynamic else layout.input_length) * layout.width
        more = part(self._deepstack[layer], start * layout.row_bytes, layout.input_length * layout.row_bytes)
        spare = self._spare(state)
        self._device.launch(net, [View(one, layout.state_dtype, (count,)) for one in (state, more)], [spare])
        return spare

    def _spare(self, state: DeviceMemory) -> DeviceMemory:
        first, second = self._spares
        return second if state.address == first.address else first

    def _head(self, state: DeviceMemory) -> None:
        view = View(state, self.layout.state_dtype, (1, self.layout.width))
        self._device.launch(self.layout.nets["lm_head"], [view], [self._answer])


def _embedding_file(config: Path, layout: Layout) -> Array:
    """The rows of config/embedding.bin, which stays on the disk (compiled with --embedding_disk)."""
    path = config / "embedding.bin"
    if not path.exists():
        raise UnknownModelError("it has no embedding network, and its config/ has no embedding.bin")
    kind = np.dtype(np.float32 if layout.state_dtype == FLOAT32 else np.uint16)
    if path.stat().st_size % layout.row_bytes:
        raise UnknownModelError("its embedding.bin has not the width of its networks")
    return np.memmap(path, kind, "r").reshape(-1, layout.width)
