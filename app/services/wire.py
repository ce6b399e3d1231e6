"""The objects that clients read, as OpenAI writes them, and the one JSON encoder for all of them."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.engine.catalog import context_length
from app.engine.registry import ModelRegistry
from app.engine.types import FinishReason, Logprobs, PromptInfo
from app.errors import ApiError
from app.services.output import Delta, Scored
from app.services.tools import ToolDelta

LEAST_LOGPROB = -9999.0
"""What JSON has for a token that cannot be; OpenAI writes the same."""


def encode(value: Any) -> str:
    """JSON in ASCII on one line: no character in a text can end an SSE line or break a parser."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, all choices together; the end-of-turn token counts as generated."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    video_tokens: int = 0
    media: list[dict[str, Any]] | None = None

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        details = {
            "cached_tokens": self.cached_tokens,
            "image_tokens": self.image_tokens,
            "video_tokens": self.video_tokens,
        }
        told = {} if self.media is None else {"media": self.media}
        return told | {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True)
class Choice:
    """A choice that is finished, of the prompt with this number."""

    made: Delta
    reason: FinishReason
    prompt: int = 0


@dataclass(frozen=True)
class Head:
    """What the objects of one answer have in common. `top_logprobs` None asks for no log probabilities;
    `token_bytes` tells what a token stands for.
    """

    id: str
    model: str
    include_usage: bool = False
    top_logprobs: int | None = None
    token_bytes: Callable[[int], bytes] = lambda token: b""
    created: int = field(default_factory=lambda: int(time.time()))

    def object(self, kind: str) -> dict[str, Any]:
        """The fields that every object begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def chunk(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        """A chunk with one choice."""
        body = self.object(kind) | {"choices": [choice]}
        return body | {"usage": None} if self.include_usage else body

    def token(self, token: int) -> str:
        """A token's text; what is only part of a character shows as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")


class ChatWire:
    """The completion or the chunks of a chat answer."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The whole answer."""
        bodies = [
            {
                "index": index,
                "message": _message(choice.made),
                "logprobs": self._logprobs(choice.made.scored, whole=True),
                "finish_reason": choice.reason,
            }
            for index, choice in enumerate(choices)
        ]
        return self._head.object("chat.completion") | {"choices": bodies, "usage": usage.body()}

    def begin(self, index: int) -> dict[str, Any] | None:
        """The first chunk of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        """A chunk with what is new in a choice."""
        body: dict[str, Any] = {}
        if delta.reasoning:
            body["reasoning_content"] = delta.reasoning
        if delta.calls:
            body["tool_calls"] = _call_deltas(delta.calls)
        if delta.content or not body:
            body["content"] = delta.content
        return self._chunk(index, body, self._logprobs(delta.scored))

    def finish(self, index: int, reason: FinishReason) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        return self._chunk(index, {}, reason=reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._head.object("chat.completion.chunk") | {"choices": [], "usage": usage.body()}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: FinishReason | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head.chunk("chat.completion.chunk", choice)

    def _logprobs(self, scored: Sequence[Scored], whole: bool = False) -> dict[str, Any] | None:
        if self._head.top_logprobs is None or not (scored or whole):
            return None
        return {"content": [self._scored(one) for one in scored], "refusal": None}

    def _scored(self, one: Scored) -> dict[str, Any]:
        found = one.logprobs or Logprobs(0.0)
        top = [self._entry(token, logprob) for token, logprob in found.top]
        return self._entry(one.token, found.logprob) | {"top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        bytes_ = list(self._head.token_bytes(token))
        return {"token": self._head.token(token), "logprob": _finite(logprob), "bytes": bytes_}


class TextWire:
    """The completion or the chunks of a text completion. With `echoed`, the texts of the prompts, each choice
    begins with its own; `prompts` tells the log probabilities of their tokens.
    """

    def __init__(
        self,
        head: Head,
        prompts: Callable[[], Sequence[PromptInfo]] = tuple,
        echoed: Sequence[str] | None = None,
        choices: int = 1,
    ) -> None:
        self._head, self._prompts, self._echoed, self._choices = head, prompts, echoed, choices
        self._begun: set[int] = set()

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The whole answer."""
        bodies = [
            self._choice(index, choice.prompt, choice.made, choice.reason, whole=True)
            for index, choice in enumerate(choices)
        ]
        return self._head.object("text_completion") | {"choices": bodies, "usage": usage.body()}

    def begin(self, index: int) -> dict[str, Any] | None:
        """Nothing: the prompt, where it is wanted, comes with the first of the answer."""
        return None

    def delta(self, index: int, delta: Delta, reason: FinishReason | None = None) -> dict[str, Any]:
        """A chunk with what is new in a choice."""
        body = self._choice(index, index // self._choices, delta, reason, begun=index in self._begun)
        self._begun.add(index)
        return self._head.chunk("text_completion", body)

    def finish(self, index: int, reason: FinishReason) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        return self.delta(index, Delta(), reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._head.object("text_completion") | {"choices": [], "usage": usage.body()}

    def _choice(
        self,
        index: int,
        prompt: int,
        made: Delta,
        reason: FinishReason | None,
        *,
        begun: bool = False,
        whole: bool = False,
    ) -> dict[str, Any]:
        echoed = self._echoed[prompt] if self._echoed is not None else ""
        scored = [replace(one, start=one.start + len(echoed)) for one in made.scored]
        if self._echoed is not None and not begun:
            scored = self._of_prompt(self._prompts()[prompt], echoed) + scored
        return {
            "index": index,
            "text": made.content if begun else echoed + made.content,
            "logprobs": self._logprobs(scored, whole),
            "finish_reason": reason,
        }

    def _of_prompt(self, info: PromptInfo, echoed: str) -> list[Scored]:
        """The prompt's tokens; what the tokenizer put before a text has no place in it."""
        found, text = [], b""
        for token, logprobs in zip(info.ids, info.logprobs, strict=False):
            found.append(Scored(token, len(text.decode(errors="ignore")), logprobs))
            piece = self._head.token_bytes(token)
            if text or echoed.startswith(piece.decode(errors="ignore").lstrip()):
                text += piece
        return found

    def _logprobs(self, scored: Sequence[Scored], whole: bool) -> dict[str, Any] | None:
        if self._head.top_logprobs is None or not (scored or whole):
            return None
        every = [one.logprobs for one in scored]
        return {
            "tokens": [self._name(one.token) for one in scored],
            "token_logprobs": [None if one is None else _finite(one.logprob) for one in every],
            "top_logprobs": [one.logprobs and self._top(one.token, one.logprobs) for one in scored],
            "text_offset": [one.start for one in scored],
        }

    def _top(self, chosen: int, logprobs: Logprobs) -> dict[str, float]:
        """The likeliest tokens, and the chosen one where it is none of them."""
        every = dict(logprobs.top) | {chosen: logprobs.logprob}
        return {self._name(token): _finite(logprob) for token, logprob in every.items()}

    def _name(self, token: int) -> str:
        """A token's text; what is part of a character is told by its bytes, as OpenAI does it."""
        found = self._head.token_bytes(token)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(chr(one) if 32 <= one < 127 else f"\\x{one:02x}" for one in found)


def _message(made: Delta) -> dict[str, Any]:
    """A whole message; its content is null where there are calls alone."""
    calls: list[dict[str, Any]] = []
    for delta in made.calls:
        if delta.name is not None:
            function = {"name": delta.name, "arguments": ""}
            calls.append({"id": delta.id, "type": "function", "function": function})
        calls[-1]["function"]["arguments"] += delta.arguments
    message: dict[str, Any] = {"role": "assistant", "content": made.content, "refusal": None}
    if made.reasoning:
        message["reasoning_content"] = made.reasoning
    if calls:
        message |= {"content": made.content or None, "tool_calls": calls}
    return message


def _call_deltas(calls: Sequence[ToolDelta]) -> list[dict[str, Any]]:
    """What is new in calls, one entry for each."""
    bodies: dict[int, dict[str, Any]] = {}
    for call in calls:
        body = bodies.setdefault(call.index, {"index": call.index, "function": {}})
        if call.name is not None:
            body |= {"id": call.id, "type": "function"}
            body["function"]["name"] = call.name
        body["function"]["arguments"] = body["function"].get("arguments", "") + call.arguments
    return list(bodies.values())


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def error(problem: ApiError) -> dict[str, Any]:
    """An error as the body of an answer, or as an event."""
    return {"error": problem.body()}


def plain_error(problem: ApiError) -> dict[str, Any]:
    """An error as the simple API writes it, whole or as an event."""
    return {"error": problem.message}


def tokens(ids: Sequence[int], context_length: int, strings: Sequence[bytes] | None) -> dict[str, Any]:
    """The answer of /v1/tokenize, in vLLM's words."""
    texts = None if strings is None else [one.decode(errors="replace") for one in strings]
    return {"count": len(ids), "max_model_len": context_length, "tokens": list(ids), "token_strs": texts}


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
        "context_length": engine.context_length if engine else context_length(spec),
        "engine": spec.engine,
    }
