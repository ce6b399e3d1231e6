"""Compiles a transformers model for the stand-in: a folder with a .bmodel of fixed shapes and config/."""

import pathlib
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

FLOAT32, FLOAT16, INT32, BFLOAT16 = 0, 1, 6, 8
DTYPES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
EMBED, BLOCK, LM_HEAD, GREEDY_HEAD, SAMPLE_HEAD, VIT3, VIT25, ADD = range(8)

Tensors = Sequence[tuple[int, Sequence[int]]]
"""Of each tensor its dtype and its shape."""


@dataclass(frozen=True)
class Build:
    """How a model is compiled: `layout` is the generation of the prefill networks, `head` greedy (a token),
    logits, or heads (logits, and networks that choose).
    """

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    layout: Literal["static", "dynamic", "history5", "history"] = "static"
    head: Literal["greedy", "logits", "heads"] = "logits"
    logits: Literal["float32", "float16", "bfloat16"] = "float32"
    input_length: int = 256
    length: int = 512
    stages: tuple[int, ...] = ()
    history: int = 256
    patches: int = 160
    embedding_on_disk: bool = False
    batch: int = 1


def export(model: Any, weights: pathlib.Path, folder: pathlib.Path, build: Build = Build()) -> pathlib.Path:
    """The folder of a model, compiled; `weights` is where its configuration and tokenizer are."""
    config = folder / "config"
    config.mkdir(parents=True)
    for file in weights.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and "safetensors" not in file.name:
            shutil.copy(file, config)
    body = bytearray(b"VLSB1\0\0\0")
    body += _parameters(model)
    tensors = list(_weights(model))
    body += struct.pack("<i", len(tensors))
    for name, tensor in tensors:
        values = tensor.detach().float().contiguous().numpy()
        body += _name(name) + struct.pack("<i", values.size) + values.tobytes()
    nets = list(_nets(model, build))
    body += struct.pack("<i", len(nets))
    for net in nets:
        body += net
    (folder / "model_f32_seq512_bm1684x_1dev.bmodel").write_bytes(bytes(body))
    if build.embedding_on_disk:
        table = model.get_input_embeddings().weight.detach().to(getattr(torch, build.dtype)).contiguous()
        (config / "embedding.bin").write_bytes(table.view(torch.uint8).numpy().tobytes())
    return folder


def _name(name: str) -> bytes:
    return struct.pack("<i", len(name)) + name.encode()


def _parameters(model: Any) -> bytes:
    text = model.config.get_text_config()
    rope = text.rope_parameters
    section = rope.get("mrope_section") or [0, 0, 0]
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    vision = getattr(model.config, "vision_config", None)
    tied = bool(model.config.tie_word_embeddings)
    ints = [
        text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads,
        text.num_key_value_heads, size, text.vocab_size, *section, int(rope.get("mrope_interleaved", False)),
        int(tied),
    ]  # fmt: skip
    theta = 10000.0
    if vision is not None:
        taps = list(getattr(vision, "deepstack_visual_indexes", []))
        full = sum(1 << layer for layer in getattr(vision, "fullatt_block_indexes", []))
        patch = 3 * vision.temporal_patch_size * vision.patch_size**2
        ints += [
            vision.hidden_size, vision.intermediate_size, vision.depth, vision.num_heads, patch,
            vision.spatial_merge_size, len(taps), *[*taps, -1, -1, -1][:3], full,
        ]  # fmt: skip
    ints += [0] * (23 - len(ints))
    return struct.pack("<23i3f", *ints, rope["rope_theta"], text.rms_norm_eps, theta)


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    text = getattr(model.model, "language_model", model.model)
    yield "embedding", text.embed_tokens.weight
    yield "head", model.lm_head.weight
    yield "norm", text.norm.weight
    for number, layer in enumerate(text.layers):
        own = layer.self_attn
        yield f"{number}.input_norm", layer.input_layernorm.weight
        yield f"{number}.post_norm", layer.post_attention_layernorm.weight
        for name in ("q", "k", "v", "o"):
            yield from _linear(f"{number}.{name}", getattr(own, f"{name}_proj"))
        if hasattr(own, "q_norm"):
            yield f"{number}.q_norm", own.q_norm.weight
            yield f"{number}.k_norm", own.k_norm.weight
        for name in ("gate", "up", "down"):
            yield from _linear(f"{number}.{name}", getattr(layer.mlp, f"{name}_proj"))
    visual = getattr(model.model, "visual", None)
    if visual is not None:
        yield from _linear("v.patch", visual.patch_embed.proj)
        yield from _qwen3_tower(visual) if hasattr(visual, "pos_embed") else _qwen25_tower(visual)


def _qwen3_tower(visual: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield "v.positions", visual.pos_embed.weight
    yield from _vision_layers(visual, {"fc1": "linear_fc1", "fc2": "linear_fc2"})
    for number, merger in enumerate([visual.merger, *visual.deepstack_merger_list], -1):
        yield from _linear(f"merger{number}.norm", merger.norm)
        yield from _linear(f"merger{number}.fc1", merger.linear_fc1)
        yield from _linear(f"merger{number}.fc2", merger.linear_fc2)


def _qwen25_tower(visual: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from _vision_layers(visual, {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})
    yield "merger.norm", visual.merger.ln_q.weight
    yield from _linear("merger.fc1", visual.merger.mlp[0])
    yield from _linear("merger.fc2", visual.merger.mlp[2])


def _vision_layers(visual: Any, mlp: dict[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    for number, layer in enumerate(visual.blocks):
        for name in ("norm1", "norm2"):
            yield from _linear(f"v{number}.{name}", getattr(layer, name))
        for name in ("qkv", "proj"):
            yield from _linear(f"v{number}.{name}", getattr(layer.attn, name))
        for name, theirs in mlp.items():
            yield from _linear(f"v{number}.{name}", getattr(layer.mlp, theirs))


def _linear(name: str, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield name, module.weight
    if getattr(module, "bias", None) is not None:
        yield f"{name}_bias", module.bias


def _net(
    name: str, kind: int, stages: Sequence[tuple[Tensors, Tensors]], *, dynamic: bool = False,
    io_alone: bool = False, layer: int = 0,
) -> bytes:  # fmt: skip
    inputs, outputs = stages[0]
    head = (kind, int(dynamic), int(io_alone), layer, len(inputs), len(outputs), len(stages))
    found = _name(name) + struct.pack("<7i", *head)
    found += b"".join(struct.pack("<i", dtype) for dtype, _ in (*inputs, *outputs))
    for stage in stages:
        for _, dims in (*stage[0], *stage[1]):
            found += struct.pack(f"<{1 + len(dims)}i", len(dims), *dims)
    return found


def _nets(model: Any, build: Build) -> Iterator[bytes]:
    text = model.config.get_text_config()
    half, long, whole = DTYPES[build.dtype], build.input_length, build.length
    width, vocab = text.hidden_size, text.vocab_size
    if not build.embedding_on_disk:
        yield _net("embedding", EMBED, [([(INT32, [1, long])], [(half, [1, long, width])])])
        yield _net("embedding_cache", EMBED, [([(INT32, [1, 1])], [(half, [1, 1, width])])])
    yield from _blocks(model, build)
    yield from _vision(model, build)
    logits = (DTYPES[build.logits], [1, vocab])
    answer = [(INT32, [1, 1])] if build.head == "greedy" else [logits]
    yield _net("lm_head", LM_HEAD, [([(half, [1, width])], answer)])
    if build.head == "heads":
        yield _net("greedy_head", GREEDY_HEAD, [([logits], [(INT32, [1, 1])])])
        ones: Tensors = [(FLOAT32, [1]), (FLOAT32, [1]), (INT32, [1]), (FLOAT32, [1])]
        yield _net(
            "sample_head", SAMPLE_HEAD,
            [([logits, (INT32, [1, whole]), *ones], [(FLOAT32, [1, 50]), (INT32, [1, 50])])],
        )  # fmt: skip


def _blocks(model: Any, build: Build) -> Iterator[bytes]:
    text = model.config.get_text_config()
    half, long, whole = DTYPES[build.dtype], build.input_length, build.length
    width = text.hidden_size
    size = getattr(text, "head_dim", None) or width // text.num_attention_heads
    axes = 3 if text.rope_parameters.get("mrope_section") else 1

    def kv(rows: int) -> tuple[int, list[int]]:
        return half, [1, rows, text.num_key_value_heads, size]

    states, places = (half, [1, long, width]), (INT32, [axes, long])
    after = [states, kv(long), kv(long)]
    for layer in range(text.num_hidden_layers):
        if build.layout == "history5":
            mask = (half, [1, 1, long, build.history + long])
            inputs = [states, places, mask, kv(build.history), kv(build.history)]
        else:
            mask = (half, [1, 1, long, long])
            inputs = [states, places] if build.layout == "history" else [states, places, mask]
        dynamic = build.layout in ("dynamic", "history")
        yield _net(f"block_{layer}", BLOCK, [(inputs, after)], dynamic=dynamic, layer=layer)
        if build.layout == "history":
            inputs = [states, places, kv(build.history), kv(build.history)]
            yield _net(f"block_kv_{layer}", BLOCK, [(inputs, after)], dynamic=True, layer=layer)
        stages = []
        one = [build.batch, 1, width]
        for rows in sorted({whole, *build.stages}, reverse=True):
            inputs = [(half, one), (INT32, [axes, 1]), (half, [1, 1, 1, rows + 1]), kv(rows), kv(rows)]
            stages.append((inputs, [(half, one), kv(1), kv(1)]))
        yield _net(f"block_cache_{layer}", BLOCK, stages, io_alone=True, layer=layer)


def _vision(model: Any, build: Build) -> Iterator[bytes]:
    vision = getattr(model.config, "vision_config", None)
    if vision is None:
        return
    half, most = DTYPES[build.dtype], build.patches
    width = model.config.get_text_config().hidden_size
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    inputs: list[tuple[int, list[int]]] = [(FLOAT32, [most, patch]), (INT32, [most, 2])]
    mask = (FLOAT32, [1, 1, most, most])
    output = (half, [most // 4, width])
    dynamic = build.layout in ("dynamic", "history")
    if not hasattr(vision, "deepstack_visual_indexes"):
        inputs += [mask, mask, (INT32, [most // 4])]
        yield _net("vit", VIT25, [(inputs, [output])], dynamic=dynamic)
        return
    inputs += [(INT32, [most, 4]), (FLOAT32, [most, 4, 1])]
    outputs = [output] * (1 + len(vision.deepstack_visual_indexes))
    yield _net("vit", VIT3, [(inputs if dynamic else [*inputs, mask], outputs)], dynamic=dynamic)
    flat = (half, [build.input_length * width])
    yield _net("add", ADD, [([flat, flat], [flat])], dynamic=dynamic, io_alone=True)
