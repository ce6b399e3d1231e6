"""The stream's thread: from a request to generate(), whose tokens go into the stream (stream.py).

`TransformersEngine.submit` encodes the prompt in the caller's thread, so that a prompt that cannot be is
refused there, and starts a thread for each choice that runs `model.generate(…, streamer=stream)`. The
decoding loop of generate() is the model's batch loop, which computes all streams together, and what choices
begin with once; a model that cannot be batched keeps transformers' own. Leaving is `cancel`: the generation
ends at its next token.
"""

import functools
import gc
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from app.engine import lark, linear, processors
from app.engine.batch import BatchLoop
from app.engine.encode import PromptEncoder
from app.engine.grammar import Completion, Grammars, Guide, Thought
from app.engine.sampling import Sampler, logprobs
from app.engine.stats import EngineStats, device_memory
from app.engine.stream import Asked, Choices, Notes, TokenStream
from app.engine.turns import Turns
from app.engine.types import Defaults, GenerationRequest, Logprobs, ModelSpec, PromptInfo, ToolFormat
from app.engine.vision import Features
from app.errors import ApiError, ContextLengthExceeded, GenerationFailed, InvalidRequest, OutOfMemory
from app.telemetry import request_id

log = logging.getLogger(__name__)

SCORED = 64
"""Tokens of a prompt whose logits are held at once when they are scored."""


@dataclass(frozen=True)
class Work:
    """What a choice's thread needs."""

    request: GenerationRequest
    inputs: dict[str, Any]
    stream: TokenStream
    sampler: Sampler
    config: GenerationConfig
    request_name: str
    first: bool  # of its prompt's choices
    guide: Guide | None = None


class TransformersEngine:
    """A model that runs transformers' generate(), in one thread for each stream; `loop` computes them all, or
    without one each computes for itself, `max_concurrent` at once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: Any,
        encoder: PromptEncoder,
        *,
        defaults: Defaults,
        context_length: int,
        stop_ids: frozenset[int],
        max_concurrent: int,
        loop: BatchLoop | None = None,
    ) -> None:
        self.spec = spec
        self.defaults = defaults
        self.context_length = context_length if loop is None else min(context_length, loop.capacity)
        self._limit = f"This model's context is {self.context_length} tokens"
        if self.context_length < context_length:
            self._limit = f"The KV cache has room for {self.context_length} tokens, see --kv-cache-gb"
        self.modalities = spec.modalities
        self.fitter = encoder.fitter
        self.device = str(model.device)
        self._model = model
        self._encoder = encoder
        self._stop_ids = stop_ids
        self._loop = loop
        self._turns = Turns(max_concurrent)
        self._grammars = Grammars(encoder.tokenizer, stop_ids)

    def submit(self, *requests: GenerationRequest) -> Choices:
        """Encode the prompts and start the threads of their choices; raises InvalidRequest,
        ContextLengthExceeded.
        """
        notes: Notes = SimpleQueue()
        asked: list[Asked] = []
        todo: list[Work] = []
        for request in requests:
            works, info = self._prepare(request, len(todo), notes)
            asked.append(Asked(info, [work.stream for work in works]))
            todo += works
        for work in todo:
            threading.Thread(target=self._run, args=(work,), name="generate", daemon=True).start()
        return Choices(asked, notes)

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

    def is_batched(self) -> bool:
        """Whether all streams are computed together."""
        return self._loop is not None

    def busy(self) -> tuple[int, int]:
        """Running and waiting generations."""
        return self._turns.count() if self._loop is None else self._loop.count()

    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        own = sum(weight.numel() * weight.element_size() for weight in self._model.parameters())
        return int(own) + linear.packed_bytes(self._model)

    def stats(self) -> EngineStats:
        """What the batch loop says, the known pictures, and the memory of a GPU."""
        stats = EngineStats() if self._loop is None else self._loop.stats()
        features = getattr(getattr(self._model, "model", None), "get_image_features", None)
        if isinstance(features, Features):
            stats = replace(stats, vision_hits=features.hits, vision_misses=features.misses)
        return replace(stats, device_memory=device_memory(self.device))

    def close(self) -> None:
        """Drop the model; a generation that still winds down keeps it until its last token."""
        self._model = None
        self._grammars.close()
        if self._loop is not None:
            self._loop.close()
        gc.collect()  # what was put before the model's methods refers to the model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
            thinking=request.prompt is None and self._encoder.ends_in_thought(ids),
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
        config = GenerationConfig(
            max_new_tokens=max(max_tokens, 1),
            do_sample=False,  # the sampler has chosen already
            eos_token_id=sorted(stop_ids) or None,
            pad_token_id=min(self._stop_ids, default=0),
        )
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
                on_cancel=self._turns.wake if self._loop is None else self._loop.wake,
                is_complete=functools.partial(getattr, guide, "complete", False),
            )
            name = request_id.get()
            works.append(Work(request, inputs, stream, sampler, config, name, choice == 0, guide))
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
            for one in lark.parameters(request.tools):
                self._grammars.guide(one)  # raises for the one that is to blame
            raise

    def _encode(self, request: GenerationRequest) -> dict[str, Any]:
        """A prompt as generate() takes it."""
        prompt = request.messages if request.prompt is None else request.prompt
        if (least := self._encoder.least_tokens(prompt)) > self.context_length:
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
        if room < 1 and request.max_tokens != 0:
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

    def _too_long(self, request: GenerationRequest, tokens: int, shown: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"{self._limit}; the prompt has {shown}.",
            param=request.prompt_param,
            excess=tokens - self.context_length + (request.max_tokens or 1),
        )

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs on the model's device, pixels in the model's number format."""
        model = self._model
        return {
            name: value.to(model.device, model.dtype if name.startswith("pixel_values") else value.dtype)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }

    def _run(self, work: Work) -> None:
        request_id.set(work.request_name)
        stream = work.stream
        error: ApiError | None = None
        ids: torch.Tensor | None = None
        try:
            if work.first and work.request.score_prompt:
                stream.prompt_logprobs = self._score(work)
            if work.request.max_tokens == 0:
                pass
            elif self._loop is not None:
                own, pictures = self._loop.split(work.inputs)
                decode = functools.partial(self._loop.decode, stream=stream, pictures=pictures)
                ids = self._generate(work, own, custom_generate=decode)
            else:
                came, stream.queue_position = time.monotonic(), self._turns.count()[1]
                with self._turns.turn(stream.is_cancelled) as mine:
                    if mine:
                        stream.waited = time.monotonic() - came
                        ids = self._generate(work, work.inputs, _Cancelled(stream))
            if work.guide is not None and ids is not None:
                work.guide.is_complete(ids)  # the last token may have come with the limit
            stream.end()
        except ApiError as known:
            error = known
        except BaseException as unknown:
            log.exception("generate() failed")
            error = _explained(unknown)
        if error is not None:
            # Outside of the except blocks: a traceback would keep the request's tensors alive.
            stream.fail(error.with_traceback(None))

    def _generate(
        self, work: Work, inputs: dict[str, Any], *criteria: StoppingCriteria, **options: Any
    ) -> torch.Tensor | None:
        """What generate() returns: ids, with or without those of the prompt."""
        model = self._model
        if model is None:  # closed between the turn and here: whoever asked has left
            return None
        ending = [] if work.guide is None else [Completion(work.guide)]
        with torch.inference_mode():
            ids: torch.Tensor = model.generate(
                **inputs,
                generation_config=work.config,
                logits_processor=[work.sampler],
                stopping_criteria=StoppingCriteriaList([*criteria, *ending]),
                streamer=work.stream,
                **options,
            )
        return ids

    @torch.inference_mode()
    def _score(self, work: Work) -> tuple[Logprobs | None, ...]:
        """The log probabilities of a text prompt's tokens."""
        ids = work.inputs["input_ids"]
        model, count = self._model, work.request.sampling.top_logprobs or 0
        hidden, head = model.base_model(input_ids=ids, use_cache=False)[0][0], model.get_output_embeddings()
        found: list[Logprobs | None] = [None]
        for start in range(0, ids.shape[1] - 1, SCORED):
            wanted = ids[0, start + 1 : start + 1 + SCORED].tolist()
            logits = head(hidden[start : start + len(wanted)])
            found += logprobs(logits, wanted, [count] * len(wanted))
        return tuple(found)


class _Cancelled(StoppingCriteria):
    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stream.is_cancelled(), device=input_ids.device)


def _explained(error: BaseException) -> ApiError:
    """What a client is told of an exception in generate(): its kind, never its text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory("The device's memory ran out for this request; try a shorter one.", retry_after=5)
    return GenerationFailed(f"The model failed while it generated ({type(error).__name__}).")
