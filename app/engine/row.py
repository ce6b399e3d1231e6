"""A sequence of the batch loop: what generate() prepared for it, and how far it has come."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import EosTokenCriteria, GenerationConfig, MaxLengthCriteria

from app.engine.pausing import Pausable
from app.engine.sampling import Sampler


class Row:
    """One sequence in the loop: what generate() prepared, and how far it has come."""

    def __init__(
        self,
        input_ids: torch.Tensor,
        inputs: dict[str, Any],
        processors: Sequence[Any],
        criteria: Sequence[Any],
        config: GenerationConfig,
        stream: Any,
    ) -> None:
        self.input_ids, self.inputs, self.stream = input_ids, inputs, stream
        self.sampler = next(one for one in processors if isinstance(one, Sampler))
        self.processors = [one for one in processors if one is not self.sampler] + self.sampler.processors
        known = (MaxLengthCriteria, EosTokenCriteria)
        self.criteria = [one for one in criteria if not isinstance(one, known)]
        ids = config.eos_token_id
        self.stop_ids = frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)
        self.max_tokens = int(config.max_new_tokens)
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.came = time.monotonic()
        self.generated: list[int] = []
        self.prompt: Any = None  # a Prompt, once the loop has made it
        self.encoding: Pausable | None = None  # what makes it
        self.keys = torch.empty(0, dtype=torch.int64)
        self.extent: Any = None  # an Extent, once there is room
        self.done = 0  # tokens whose keys and values are in the cache
        self.position = 0  # of the first generated token

    def ids(self) -> torch.Tensor:
        """Prompt and generated tokens, (1, tokens)."""
        new = torch.tensor([self.generated], dtype=torch.long, device=self.input_ids.device)
        return torch.cat([self.input_ids, new], dim=1)

    def left(self) -> int:
        """Tokens of the prompt that are not computed yet."""
        return max(0, len(self.keys) - self.done)

    def end(self, error: BaseException | None = None) -> None:
        """Let generate() return, or raise this."""
        if self.encoding is not None:
            self.encoding.close()
        self.error, self.prompt, self.inputs = error, None, {}
        self.ended.set()
