"""The objects that clients read, as OpenAI writes them, and the one JSON encoder for all of them."""

import json
from dataclasses import dataclass
from typing import Any

from app.engine.registry import ModelRegistry
from app.engine.types import FinishReason
from app.errors import ApiError


def encode(value: Any) -> str:
    """JSON in ASCII on one line: no character in a text can end an SSE line or break a parser."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Usage:
    """Tokens of one request; the end-of-turn token counts as generated."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0
    cached_tokens: int = 0

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        details = {"cached_tokens": self.cached_tokens, "image_tokens": self.image_tokens}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": details,
        }


@dataclass(frozen=True)
class ChatWire:
    """The completion or the chunks of one answer."""

    id: str
    created: int
    model: str
    include_usage: bool = False

    def completion(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """The whole answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        return self._head("chat.completion") | {"choices": [choice], "usage": usage.body()}

    def role(self) -> dict[str, Any]:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def delta(self, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk({"content": text}, None)

    def finish(self, reason: FinishReason) -> dict[str, Any]:
        """The chunk that says why it ended."""
        return self._chunk({}, reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage.body()}

    def _chunk(self, delta: dict[str, Any], reason: FinishReason | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def error(problem: ApiError) -> dict[str, Any]:
    """An error as the body of an answer, or as an event."""
    return {"error": problem.body()}


def models(registry: ModelRegistry) -> list[dict[str, Any]]:
    """The rows of /v1/models."""
    return [model(registry, spec.id) for spec in registry.catalog]


def model(registry: ModelRegistry, name: str) -> dict[str, Any]:
    """One row of /v1/models, by id or alias; raises ModelNotFound."""
    spec = registry.catalog.resolve(name)
    engine = next((engine for engine in registry.engines() if engine.spec.id == spec.id), None)
    return {
        "id": spec.id,
        "object": "model",
        "created": registry.catalog.created,
        "owned_by": "vlserve",
        "loaded": engine is not None,
        "modalities": list(engine.modalities if engine else spec.modalities),
        "context_length": engine.context_length if engine else spec.context_length,
        "engine": spec.engine,
    }
