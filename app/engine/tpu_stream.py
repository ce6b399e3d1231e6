"""A choice on its way through a TPU, and the cache that it uses."""

import time
from dataclasses import dataclass, field

import torch

from app.engine.submit import Work
from app.engine.tpu_device import Array
from app.engine.tpu_model import KVCache
from app.engine.tpu_prompt import Prompt


@dataclass
class Slot:
    """A KV cache, what prompt it begins with, and what came after that prompt: logits, or a token."""

    cache: KVCache
    prompt: Prompt | None = None
    answer: Array | int = 0


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
