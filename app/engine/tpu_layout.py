"""What a .bmodel of a language model is made of, told from its networks and never from its file's name.

Compilers have laid the networks out in four ways so far: a prompt's blocks are static or dynamic, and they
see what is cached through inputs of their own, through networks of their own (block_kv_*), or not at all.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.engine.bmrt import BFLOAT16, DATA_TYPES, FLOAT16, FLOAT32, INT32
from app.engine.tpu_device import Net, UnknownModelError

History = Literal["none", "inputs", "networks"]


@dataclass(frozen=True)
class Layout:
    """A compiled model: `input_length` tokens of a prompt at once, `length` of prompt and answer together.

    `axes` is 3 where positions are time, row and column. `decode_stages` are the rows of cache that decoding
    was compiled for, ascending, each with its stage's number. `state_dtype` is that of hidden states, masks
    and cache. `embeds` is false where the embedding is a file.
    """

    nets: Mapping[str, Net]
    layers: int
    input_length: int
    length: int
    width: int
    vocabulary: int
    state_dtype: int
    axes: int
    dynamic: bool
    masked: bool
    history: History
    history_length: int
    kv_heads: int
    head_size: int
    decode_stages: tuple[tuple[int, int], ...]
    deepstack: int
    greedy_only: bool
    embeds: bool

    @property
    def itemsize(self) -> int:
        """Bytes of a number of a hidden state."""
        return 4 if self.state_dtype == FLOAT32 else 2

    @property
    def row_bytes(self) -> int:
        """Bytes of a token's hidden state."""
        return self.width * self.itemsize

    @property
    def kv_row_bytes(self) -> int:
        """Bytes of a token's keys, or values, in one layer."""
        return self.kv_heads * self.head_size * self.itemsize

    @property
    def kv_bytes(self) -> int:
        """Bytes of a KV cache."""
        return 2 * self.layers * self.length * self.kv_row_bytes

    def told(self) -> str:
        """What it is, for a log's line."""
        kind = "dynamic" if self.dynamic else "static"
        past = {"none": "no history", "inputs": "history", "networks": "history apart"}[self.history]
        answers = "tokens" if self.greedy_only else "logits"
        return (
            f"{self.layers} layers in {DATA_TYPES[self.state_dtype]}, {kind}, {past}: prompts of "
            f"{self.prompt_limit} tokens, {self.length} with the answer, pictures of {self.patches} patches; "
            f"it tells {answers}"
        )

    @property
    def prompt_limit(self) -> int:
        """Tokens of the longest prompt: with history it is computed in pieces, each of which begins where
        what went before still fits.
        """
        if self.history == "none":
            return min(self.input_length, self.length)
        pieces = self.history_length // self.input_length + 1
        return min(pieces * self.input_length, self.length)

    @property
    def patches(self) -> int:
        """Patches of the largest picture; 0 for a model of text."""
        return self.nets["vit"].inputs[0].dims[0] if "vit" in self.nets else 0

    @property
    def vit_is_windowed(self) -> bool:
        """Whether the vision tower is Qwen2.5-VL's, which takes two masks."""
        return "vit" in self.nets and len(self.nets["vit"].inputs[2].dims) == 4


def layout(nets: Mapping[str, Net]) -> Layout:
    """What these networks are; raises UnknownModelError, with a reason, if that cannot be served."""
    layers = sum(bool(re.fullmatch(r"block_\d+", name)) for name in nets)
    every = [f"block{kind}_{layer}" for layer in range(layers or 1) for kind in ("", "_cache")]
    for name in ("lm_head", *every):
        _must(name in nets, f"it has no network {name}: it is no language model of LLM-TPU's make")
    block, cache, head, vit = nets["block_0"], nets["block_cache_0"], nets["lm_head"], nets.get("vit")
    history: History = "networks" if "block_kv_0" in nets else "inputs" if len(block.inputs) == 5 else "none"
    _check_blocks(block, cache, head, history)
    past = {"networks": nets.get("block_kv_0"), "inputs": block, "none": None}[history]
    stages = sorted((stage.inputs[3].dims[1], number) for number, stage in enumerate(cache.stages))
    if vit is not None:
        count = len(vit.inputs)
        _must(count in (4, 5), f"its vision tower takes {count} inputs, neither 4 nor 5")
        _must(len(vit.outputs) == 1 or "add" in nets, "it has no network add for its tower's deepstack")
    embeds = "embedding" in nets and "embedding_cache" in nets
    if embeds:
        ids = nets["embedding"].inputs[0]
        _must(
            (ids.dtype, ids.dims) == (INT32, (1, block.inputs[0].dims[1])),
            "its embedding takes no row of token ids as long as its blocks are",
        )
    return Layout(
        nets=nets,
        layers=layers,
        input_length=block.inputs[0].dims[1],
        length=stages[-1][0],
        width=head.inputs[0].dims[1],
        vocabulary=head.outputs[0].dims[-1],
        state_dtype=block.inputs[0].dtype,
        axes=block.inputs[1].dims[0],
        dynamic=block.is_dynamic,
        masked=len(block.inputs) != 2,
        history=history,
        history_length=0 if past is None else past.inputs[-1].dims[1],
        kv_heads=cache.inputs[3].dims[2],
        head_size=cache.inputs[3].dims[3],
        decode_stages=tuple(stages),
        deepstack=0 if vit is None else len(vit.outputs) - 1,
        greedy_only=head.outputs[0].dims[-1] == 1,
        embeds=embeds,
    )


def check_config(found: Layout, config: Mapping[str, Any]) -> None:
    """Raise UnknownModelError for a config.json that is not the networks': the runtime ends the process
    for a token they lack. A greedy head does not tell its vocabulary.
    """
    text = {**config, **(config.get("text_config") or {})}
    heads = text.get("num_attention_heads")
    each = text["hidden_size"] // heads if heads and text.get("hidden_size") else None
    pairs = {
        "vocab_size": (text.get("vocab_size"), found.vocabulary),
        "hidden_size": (text.get("hidden_size"), found.width),
        "num_hidden_layers": (text.get("num_hidden_layers"), found.layers),
        "num_key_value_heads": (text.get("num_key_value_heads") or heads, found.kv_heads),
        "head_dim": (text.get("head_dim") or each, found.head_size),
    }
    if found.greedy_only:
        del pairs["vocab_size"]
    if found.patches:
        tower: Any = config.get("vision_config")
        _must(tower is not None, "its config.json has no vision_config, and the networks have a vision tower")
        numbers = 3 * tower.get("temporal_patch_size", 2) * tower["patch_size"] ** 2
        pairs["numbers of a patch"] = numbers, found.nets["vit"].inputs[0].dims[1]
        pairs["attention in windows"] = bool(tower.get("window_size")), found.vit_is_windowed
    for name, (wanted, compiled) in pairs.items():
        _must(
            wanted in (None, compiled),
            f"its config/ is that of another model: {name} is {wanted} there and {compiled} in the networks",
        )


def _check_blocks(block: Net, cache: Net, head: Net, history: History) -> None:
    _must(
        len(cache.inputs) == 5 and len(cache.inputs[3].dims) == 4,
        "its decoding takes other inputs than states, positions, mask, keys, values",
    )
    _must(cache.inputs[0].dims[0] == 1, "it was compiled with --batch, which this server does not use")
    count = len(block.inputs)
    _must(count in (2, 3, 5), f"its blocks take {count} inputs: no layout that is known")
    # What a block sees of the cache is as long as compiled where a mask hides the rest, else as it is.
    fits = {"none": True, "inputs": not block.is_dynamic, "networks": block.is_dynamic and count == 2}
    _must(fits[history], f"its blocks take {count} inputs and history in a way that is not known")
    dtype = block.inputs[0].dtype
    _must(
        dtype in (FLOAT32, FLOAT16, BFLOAT16) and {cache.inputs[i].dtype for i in (0, 2, 3, 4)} == {dtype},
        "its states and its cache are not of one floating-point format",
    )
    widths = {block.inputs[0].dims[-1], cache.inputs[0].dims[-1], head.inputs[0].dims[-1]}
    _must(len(widths) == 1, f"its networks disagree about the width of a state: {sorted(widths)}")
    axes = block.inputs[1].dims[0]
    _must(axes in (1, 3), f"its positions have {axes} rows, neither 1 nor 3")
    _must(
        cache.outputs[1].dims[-2:] == cache.inputs[3].dims[-2:],
        "a decoding step gives keys of another size than its cache has",
    )


def _must(holds: bool, reason: str) -> None:
    if not holds:
        raise UnknownModelError(reason)
