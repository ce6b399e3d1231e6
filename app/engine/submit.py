"""From a request to the work of its choices, as all engines for language models do it.

A prompt is encoded in the caller's thread, so that one that cannot be is refused there. What is then to be
computed is the engine's own: `LanguageEngine` leaves to it `_begin`, `_wake` and `_on_device`.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from app.engine import lark, processors
from app.engine.encode import PromptEncoder
from app.engine.grammar import Grammars, Guide, Thought
from app.engine.sampling import Sampler
from app.engine.stream import Asked, Choices, Notes, TokenStream
from app.engine.types import Defaults, GenerationRequest, ModelSpec, PromptInfo, ToolFormat
from app.errors import ContextLengthExceeded, InvalidRequest
from app.telemetry import request_id


@dataclass(frozen=True)
class Work:
    """What is to be computed for a choice: at most `max_tokens`, up to one of `stop_ids`."""

    request: GenerationRequest
    inputs: dict[str, Any]
    stream: TokenStream
    sampler: Sampler
    max_tokens: int
    stop_ids: frozenset[int]
    request_name: str
    first: bool  # of its prompt's choices
    guide: Guide | None = None


class LanguageEngine(ABC):
    """What engines for language models have in common. `context_length` is of prompt and answer together;
    `prompt_length` of a prompt, where that is less.
    """

    def __init__(
        self,
        spec: ModelSpec,
        encoder: PromptEncoder,
        *,
        defaults: Defaults,
        context_length: int,
        stop_ids: frozenset[int],
        device: str,
        prompt_length: int | None = None,
    ) -> None:
        self.spec = spec
        self.defaults = defaults
        self.context_length = context_length
        self.prompt_length = prompt_length
        self._limit = f"This model's context is {context_length} tokens"
        self.modalities = spec.modalities
        self.fitter = encoder.fitter
        self.device = device
        self._encoder = encoder
        self._stop_ids = stop_ids
        self._grammars = Grammars(encoder.tokenizer, stop_ids)

    def submit(self, *requests: GenerationRequest) -> Choices:
        """Encode the prompts and start their choices; raises InvalidRequest, ContextLengthExceeded."""
        notes: Notes = SimpleQueue()
        asked: list[Asked] = []
        todo: list[Work] = []
        for request in requests:
            works, info = self._prepare(request, len(todo), notes)
            asked.append(Asked(info, [work.stream for work in works]))
            todo += works
        self._begin(todo)
        return Choices(asked, notes, self._look)

    def tokenize(self, request: GenerationRequest) -> Sequence[int]:
        """The tokens of its prompt; raises InvalidRequest, ContextLengthExceeded for one of any length that
        could not be a prompt.
        """
        ids: list[int] = self._encode(request)["input_ids"][0].tolist()
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones too; raises InvalidRequest for ids that are none."""
        self._encoder.check_ids(ids, "tokens")
        return str(self._encoder.tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in the text's UTF-8."""
        return self._encoder.token_bytes(token)

    def fault(self) -> str | None:
        """What keeps the device from computing; None while nothing does."""
        return None

    def is_lost(self) -> bool:
        """Whether only a new process can compute again."""
        return False

    def _look(self) -> None:
        """Called now and then while an answer waits for a token: may raise what ends it."""
        return

    @abstractmethod
    def _begin(self, works: Sequence[Work]) -> None:
        """Start to compute them, in this order; what comes goes into their streams."""

    @abstractmethod
    def _wake(self) -> None:
        """A stream was cancelled."""

    @abstractmethod
    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the encoder made, as the model takes it."""

    def _prepare(
        self, request: GenerationRequest, number: int, notes: Notes
    ) -> tuple[list[Work], PromptInfo]:
        """The work of a request's choices, of which the first has this number."""
        inputs = self._encode(request)
        ids = inputs["input_ids"]
        count = int(ids.shape[1])
        max_tokens = self._room(request, count)
        stop_ids = frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self._stop_ids)
        self._encoder.check(request, max_tokens)
        info = PromptInfo(
            tuple(ids[0].tolist()),
            **self._encoder.visual_tokens(inputs),
            thinking=self._encoder.ends_in_thought(request, ids),
            tool_format=self._tool_format(request),
        )
        own = processors.of(request.sampling, sorted(stop_ids))
        if request.max_thinking_tokens is not None:
            tags = self._encoder.thinking_tags()
            if tags is None:
                raise InvalidRequest(
                    "This model has no token that ends a thought.",
                    param="max_thinking_tokens",
                    code="unsupported_by_model",
                )
            own.append(processors.ThinkingLimit(request.max_thinking_tokens, *tags, info.thinking))
        works = []
        for choice in range(request.n):
            guide = self._guide(request, info)
            sampler = Sampler(request.sampling, [*own, *([] if guide is None else [guide])], choice)
            stream = TokenStream(
                self._encoder.tokenizer,
                stop_ids,
                sampler,
                choice=number + choice,
                notes=notes,
                on_cancel=self._wake,
                is_complete=functools.partial(getattr, guide, "complete", False),
            )
            name = request_id.get()
            work = Work(request, inputs, stream, sampler, max_tokens, stop_ids, name, choice == 0, guide)
            works.append(work)
        return works, info

    def _guide(self, request: GenerationRequest, info: PromptInfo) -> Guide | None:
        """What holds a choice to its grammar, which begins after a thought if there is one."""
        grammar, tags = lark.of(request, info.tool_format), self._encoder.thinking_tags()
        if grammar is None:
            return None
        free = request.grammar is None and lark.may_call(request.tools)  # to think as well
        thinks = info.thinking or request.template.thinking or free
        thought = Thought(*tags, info.thinking) if tags is not None and thinks else None
        try:
            return self._grammars.guide(grammar, thought, request.stop_token_ids)
        except InvalidRequest:
            for one in lark.parameters(request.tools, request.grammar):
                self._grammars.guide(one)  # raises for the one that is to blame
            raise

    def _encode(self, request: GenerationRequest) -> dict[str, Any]:
        """A prompt as the model takes it."""
        prompt = request.messages if request.prompt is None else request.prompt
        if (least := self._encoder.least_tokens(prompt)) > self._longest_prompt():
            # Encoding it would only take time and memory.
            raise self._too_long(request, least, f"over {least}")
        if request.prompt is None:
            encoded = self._encoder.encode(request.messages, request.template, request.tools)
            return self._on_device(encoded)
        return self._on_device(self._encoder.encode_plain(request.prompt, request.prompt_param))

    def _tool_format(self, request: GenerationRequest) -> ToolFormat | None:
        """How the answer's tool calls are written; raises InvalidRequest where the model knows none."""
        if request.tools is None or request.tools.choice == "none":
            return None
        found = self._encoder.tool_format()
        if found is None:
            raise InvalidRequest(
                "This model's chat template knows no tools.", param="tools", code="unsupported_by_model"
            )
        return found

    def _room(self, request: GenerationRequest, prompt_tokens: int) -> int:
        """How many tokens may be generated."""
        room = self.context_length - prompt_tokens
        if prompt_tokens > self._longest_prompt() or (room < 1 and request.max_tokens != 0):
            raise self._too_long(request, prompt_tokens, str(prompt_tokens))
        if request.max_tokens is None:
            return min(self.defaults.max_tokens or 2048, room)
        if request.max_tokens > room:
            raise ContextLengthExceeded(
                f"{self._limit}: the prompt has {prompt_tokens}, "
                f"so at most {room} can be generated, and {request.max_tokens} were asked for.",
                param=request.max_tokens_param,
                excess=request.max_tokens - room,
            )
        return request.max_tokens

    def _longest_prompt(self) -> int:
        return self.context_length if self.prompt_length is None else self.prompt_length

    def _too_long(self, request: GenerationRequest, tokens: int, shown: str) -> ContextLengthExceeded:
        excess = tokens - self.context_length + (request.max_tokens or 1)
        limit = self._limit
        if self.prompt_length is not None and tokens > self.prompt_length:
            excess = max(excess, tokens - self.prompt_length)
            limit = f"This model takes prompts of {self.prompt_length} tokens"
        return ContextLengthExceeded(
            f"{limit}; the prompt has {shown}.", param=request.prompt_param, excess=excess
        )
