"""Prompts as a language model takes them: embeddings, positions, deepstack features.

How a prompt with pictures becomes these is the model's own forward, stopped where it calls its language
model: what it would have passed on is the prompt. So no family needs code of its own here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from greenlet import getcurrent

from app.engine.pausing import pauses_between_layers

HASHED = 1024
"""Tokens that are hashed at once: it takes several times the memory of their embeddings."""


@dataclass
class Prompt:
    """Tokens for a language model: `embeds` (tokens, width), `positions` (axes, tokens). `visual` (tokens,)
    marks the tokens of pictures, to whose hidden states `deepstack` (layers of (visual tokens, width)) is
    added.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    visual: torch.Tensor | None = None
    deepstack: list[torch.Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.embeds)

    def part(self, first: int, last: int) -> "Prompt":
        """The tokens from `first` to before `last`."""
        part = Prompt(self.embeds[first:last], self.positions[:, first:last])
        if self.visual is not None:
            part.visual = self.visual[first:last]
            before = int(self.visual[:first].sum())
            count = int(part.visual.sum())
            part.deepstack = [features[before : before + count] for features in self.deepstack]
        return part


def joined(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts one after another."""
    if len(prompts) == 1:
        return prompts[0]
    whole = Prompt(
        torch.cat([prompt.embeds for prompt in prompts]),
        torch.cat([prompt.positions for prompt in prompts], dim=1),
    )
    seeing = [prompt for prompt in prompts if prompt.deepstack]
    if seeing:
        none = whole.embeds.new_zeros(0, dtype=torch.bool)
        masks = [
            none.new_zeros(len(prompt)) if prompt.visual is None else prompt.visual for prompt in prompts
        ]
        whole.visual = torch.cat(masks)
        layers = zip(*(prompt.deepstack for prompt in seeing), strict=True)
        whole.deepstack = [torch.cat(features) for features in layers]
    return whole


class Embedder:
    """Makes prompts. `host` is the model whose forward embeds pictures, `module` the language model in it."""

    def __init__(self, host: Any, module: Any) -> None:
        self._host, self._module = host, module
        self._table: Any = host.get_input_embeddings()
        self._axes = 3 if "mrope_section" in (getattr(module.config, "rope_parameters", None) or {}) else 1
        self._factors = torch.empty(0, dtype=torch.int64)
        self.device: torch.device = self._table.weight.device
        self.dtype: torch.dtype = self._table.weight.dtype
        self.vocabulary = len(self._table.weight)
        pauses_between_layers(host, without=module)

    def prompt(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> Prompt:
        """The prompt of a batch of one: ids, or ids and pictures, or embeddings."""
        if "inputs_embeds" in inputs:
            return self._text(inputs["inputs_embeds"][0])
        if not any(name.startswith("pixel_values") for name in inputs):
            return self._text(self._table(input_ids[0]))
        arguments = self._stopped(input_ids, inputs)
        positions = arguments["position_ids"]
        deepstack = arguments.get("deepstack_visual_embeds") or []
        visual = arguments.get("visual_pos_masks")
        return Prompt(
            arguments["inputs_embeds"][0],
            positions[-self._axes :, 0] if positions.ndim == 3 else positions,
            visual[0] if visual is not None and deepstack else None,
            list(deepstack),
        )

    def tokens(self, ids: Sequence[int], positions: Sequence[int]) -> Prompt:
        """Tokens at their positions."""
        places = torch.tensor([positions], dtype=torch.long, device=self.device)
        return Prompt(
            self._table(torch.tensor(ids, dtype=torch.long, device=self.device)),
            places.expand(self._axes, -1),
        )

    def keys(self, prompt: Prompt) -> torch.Tensor:
        """A number for each token, (tokens,) on the CPU, that tells its embedding and its position from
        others: a random linear hash modulo 2^64. A picture's tokens differ as its content does.
        """
        whole = {2: torch.int16, 4: torch.int32}[prompt.embeds.element_size()]
        if not len(self._factors):
            count = prompt.embeds.shape[1] + len(prompt.positions)
            random = torch.Generator().manual_seed(0)
            factors = torch.randint(-(2**62), 2**62, (count,), generator=random)
            self._factors = (2 * factors + 1).to(self.device)
        keys = []
        for first in range(0, len(prompt), HASHED):
            part = slice(first, first + HASHED)
            bits = prompt.embeds[part].contiguous().view(whole).long()
            inputs = torch.cat([bits, prompt.positions[:, part].T.to(bits)], dim=1)
            keys.append((inputs * self._factors).sum(dim=1).cpu())
        return torch.cat(keys)

    def _text(self, embeds: torch.Tensor) -> Prompt:
        positions = torch.arange(len(embeds), device=self.device)
        return Prompt(embeds, positions[None].expand(self._axes, -1))

    def _stopped(self, input_ids: torch.Tensor, pictures: dict[str, Any]) -> dict[str, Any]:
        """What the model's own forward passes to its language model."""
        mine = getcurrent()  # another thread may score a prompt with the same model meanwhile

        def stop(_: Any, __: Any, arguments: dict[str, Any]) -> None:
            if getcurrent() is mine:
                raise _ReachedError(arguments)

        hook = self._module.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._host(input_ids=input_ids, use_cache=False, **pictures)
        except _ReachedError as reached:
            return reached.arguments
        finally:
            hook.remove()
        raise RuntimeError("the model did not call its language model")


class _ReachedError(Exception):
    """The model's own forward has come to its language model, with these arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments
