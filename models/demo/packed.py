"""Attention over a batch that is packed into one row: segments of similar length are padded to one another
only.
"""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

NAME = "packed"
SIMILAR = 0.75  # segments are padded together if the shortest has at least this share of the longest


@dataclass
class Group:
    """``count`` segments of similar length, padded to ``longest``: ``bias`` (broadcast to (count, heads,
    longest, longest)) is added to their scores.
    """

    bias: torch.Tensor | None
    count: int
    longest: int


@dataclass
class Layout:
    """The groups of a row; ``gather`` (padded,) is each padded place's token in the row, ``valid`` (padded,
    1) is 0 for padding, ``scatter`` (row,) is each token's padded place.
    """

    groups: list[Group]
    gather: torch.Tensor
    valid: torch.Tensor
    scatter: torch.Tensor


class _Current(threading.local):
    """The layouts of this thread's forward pass."""

    text: Layout
    vision: Layout


_current = _Current()


def layout(lengths: list[int], causal: bool) -> Layout:
    """Group segments of these lengths, which lie one after another in the row."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    chunks: list[list[int]] = []
    for index in order:
        if chunks and lengths[index] >= SIMILAR * lengths[chunks[-1][0]]:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    groups, gathers, valids = [], [], []
    for chunk in chunks:
        longest = lengths[chunk[0]]
        within = torch.arange(longest)[None] < sizes[chunk][:, None]
        gathers.append(torch.where(within, starts[chunk][:, None] + torch.arange(longest)[None], 0).flatten())
        valids.append(within.flatten())
        bias: torch.Tensor | None = None
        if causal:  # padding lies behind, where no token looks
            bias = torch.full((longest, longest), -1e4).triu(1)[None, None]
        elif not bool(within.all()):
            bias = torch.where(within, 0.0, -1e4)[:, None, None, :]
        groups.append(Group(bias, len(chunk), longest))
    gather, valid = torch.cat(gathers), torch.cat(valids)
    scatter = torch.empty(sum(lengths), dtype=torch.long)
    scatter[gather[valid]] = valid.nonzero()[:, 0]
    return Layout(groups, gather, valid[:, None], scatter)


def use(text: list[int], vision: list[int]) -> None:
    """Set the lengths of the dialogues and of the pictures' frames for the next forward pass."""
    if text:
        _current.text = layout(text, causal=True)
    if vision:
        _current.vision = layout(vision, causal=False)


class _Pad(torch.autograd.Function):
    """From the row to the padded places; the gradient needs no accumulation, as each token has one place."""

    @staticmethod
    def forward(ctx: Any, row: torch.Tensor, places: Layout) -> torch.Tensor:
        ctx.places = places
        return row.index_select(0, places.gather)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].index_select(0, ctx.places.scatter), None


class _Unpad(torch.autograd.Function):
    """From the padded places back to the row."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, places: Layout) -> torch.Tensor:
        ctx.places = places
        return padded.index_select(0, places.scatter)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].index_select(0, ctx.places.gather).mul_(ctx.places.valid), None


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float = 1.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each segment; tensors are (1, heads, row, head size), the result (1, row, heads,
    head size).

    Plain matrix products: in bfloat16 on a CPU they are several times faster than the fused kernel's
    backward pass.
    """
    current = _current.text if module.is_causal else _current.vision
    heads, few, size = query.shape[1], key.shape[1], query.shape[3]
    row = torch.cat([query[0] * scaling, key[0], value[0]]).transpose(0, 1).flatten(1)
    padded: torch.Tensor = _Pad.apply(row, current)  # type: ignore[no-untyped-call]
    outputs, first = [], 0
    for group in current.groups:
        last = first + group.count * group.longest
        every = padded[first:last].view(group.count, group.longest, heads + 2 * few, size).transpose(1, 2)
        parts = every.split([heads, few, few], dim=1)
        outputs.append(_attend(parts[0], parts[1], parts[2], group).flatten(0, 1))
        first = last
    flat: torch.Tensor = _Unpad.apply(torch.cat(outputs), current)  # type: ignore[no-untyped-call]
    return flat.view(1, -1, heads, size), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: Group) -> torch.Tensor:
    """Softmax attention of (count, heads, longest, size); the result is (count, longest, heads · size)."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3)
    if group.bias is not None:
        scores = scores + group.bias.to(scores.dtype)
    mixed = torch.softmax(scores, dim=-1).to(query.dtype) @ value
    return mixed.transpose(1, 2).flatten(2)


def install(model: Any) -> None:
    """Let a model use this attention; to be undone by loading the saved model anew."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    patches = model.model.visual.patch_embed
    patches.forward = lambda pixels: functional.linear(  # the same as its convolution, but faster
        pixels, patches.proj.weight.flatten(1), patches.proj.bias
    )
    model.config.text_config._attn_implementation = NAME
    model.config.vision_config._attn_implementation = NAME
    model.model.language_model.config._attn_implementation = NAME
    model.model.visual.config._attn_implementation = NAME
