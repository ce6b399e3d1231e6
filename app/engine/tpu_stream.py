"""A choice on its way through a TPU, and the cache that it uses."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from app.engine.sampling import logprobs
from app.engine.submit import Work
from app.engine.tpu_device import Array
from app.engine.tpu_model import CANDIDATES, KVCache, TpuModel
from app.engine.tpu_prompt import Prompt


class NobodyWaitsError(Exception):
    """Nobody waits for the stream any more."""


@dataclass(eq=False)
class Slot:
    """A KV cache, what prompt it begins with, and what came after that prompt: logits, or a token."""

    cache: KVCache
    prompt: Prompt | None = None
    answer: Array | int = 0

    def begins_with(self, prompt: Prompt) -> bool:
        """Whether the cache does."""
        return self.prompt is not None and self.prompt.key == prompt.key


@dataclass(eq=False)
class Stream:
    """A choice on its way: its prompt and answer so far are the first `count` of ids (1, all that may be)."""

    work: Work
    prompt: Prompt
    ids: torch.Tensor = field(init=False)
    count: int = field(init=False)
    slot: Slot | None = None
    came: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.count = len(self.prompt)
        self.ids = torch.zeros(1, self.count + self.work.max_tokens, dtype=torch.long)
        self.ids[0, : self.count] = torch.from_numpy(self.prompt.ids)

    @property
    def known(self) -> torch.Tensor:
        """Prompt and generated tokens, (1, tokens)."""
        return self.ids[:, : self.count]

    @property
    def made(self) -> int:
        """Generated tokens."""
        return self.count - len(self.prompt)

    def check(self) -> None:
        """Raise NobodyWaitsError when that is so."""
        if self.work.stream.is_cancelled():
            raise NobodyWaitsError

    def prefill(self, model: TpuModel, slot: Slot, *, scores: bool) -> None:
        """Compute the prompt into a slot, with `scores` also the log probabilities of its own tokens."""
        slot.prompt, found = None, list[Any]([None])

        def score() -> None:
            if (place := len(found)) < len(self.prompt):
                count = self.work.request.sampling.top_logprobs or 0
                logits = torch.from_numpy(model.logits())[None]
                found.extend(logprobs(logits, [int(self.ids[0, place])], [count]))

        model.prefill(slot.cache, self.prompt, self.check, score if scores else None)
        self.work.stream.prompt_logprobs = tuple(found) if scores else ()
        slot.answer = model.token() if model.layout.greedy_only else model.logits()
        slot.prompt = self.prompt

    def decode(self, model: TpuModel, cache: KVCache) -> Array | int:
        """Compute the last token; what comes next, as a token where the device may choose it, else logits."""
        position = self.prompt.next_position + self.made - 1
        model.decode(cache, int(self.ids[0, self.count - 1]), position)
        sampler = self.work.sampler
        plain = not sampler.processors and sampler.top_logprobs is None
        if model.layout.greedy_only or (plain and sampler.greedy and model.has_chooser()):
            return model.token()
        if plain and not sampler.greedy and 0 < sampler.top_k <= CANDIDATES and model.has_candidates():
            return model.candidate_logits()
        return model.logits()

    def take(self, answer: Array | int) -> bool:
        """Choose the next token by what the model says, and tell it; whether it is the last."""
        work = self.work
        if isinstance(answer, int):
            token = answer
        else:
            scores = work.sampler(self.known, torch.from_numpy(answer)[None].clone())  # type: ignore[arg-type]
            token = int(scores.argmax())
        self.ids[0, self.count] = token
        self.count += 1
        work.stream.put(torch.tensor([token]))
        complete = work.guide is not None and work.guide.is_complete(self.known)
        return complete or token in work.stop_ids or self.made >= work.max_tokens
