"""The stream's thread and its streamer: the two ends of one pipe.

`TransformersEngine.submit` encodes the prompt in the caller's thread, so that a prompt that cannot be is
refused there, and starts a thread that runs `model.generate(…, streamer=stream)`. generate() calls
`stream.put` for each token; the caller iterates over the stream. Whatever the thread raises comes out of that
iteration. generate()'s decoding loop is the model's batch loop, which computes all streams together; a model
that cannot be batched keeps transformers' own. Leaving is `cancel`: the generation ends at its next token.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from app.engine import linear
from app.engine.batch import BatchLoop
from app.engine.encode import PromptEncoder
from app.engine.sampling import Sampler
from app.engine.turns import Turns
from app.engine.types import (
    Defaults,
    Event,
    Finish,
    GenerationRequest,
    Idle,
    Logprobs,
    ModelSpec,
    Token,
)
from app.errors import ApiError, ContextLengthExceeded, GenerationFailed, OutOfMemory
from app.telemetry import request_id

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds without a token after which an iteration yields Idle."""
HELD_TOKENS = 16
"""Tokens that may be held back as the beginning of a character; what is none after so many is shown."""


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
        self.context_length = context_length
        self.modalities = spec.modalities
        self.device = str(model.device)
        self._model = model
        self._encoder = encoder
        self._stop_ids = stop_ids
        self._loop = loop
        self._turns = Turns(max_concurrent)
        if loop is not None:
            self.context_length = min(context_length, loop.capacity)

    def submit(self, request: GenerationRequest) -> "TokenStream":
        """Encode the prompt and start its thread; raises InvalidRequest, ContextLengthExceeded."""
        if (least := self._encoder.least_tokens(request.messages)) > self.context_length:
            raise self._too_long(f"over {least}")  # encoding it would only take time and memory
        inputs = self._on_device(self._encoder.encode(request.messages))
        prompt_tokens = int(inputs["input_ids"].shape[1])
        max_tokens = self._room(request, prompt_tokens)
        sampler = Sampler(request.sampling)
        stop_ids = frozenset() if request.ignore_eos else self._stop_ids
        stream = TokenStream(
            self._encoder.tokenizer,
            stop_ids,
            sampler,
            prompt_tokens=prompt_tokens,
            image_tokens=self._encoder.image_tokens(inputs["input_ids"]),
            on_cancel=self._turns.wake if self._loop is None else self._loop.wake,
        )
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,  # the sampler has chosen already
            eos_token_id=sorted(stop_ids) or None,
            pad_token_id=min(self._stop_ids, default=0),
        )
        arguments = (request_id.get(), stream, inputs, sampler, config)
        threading.Thread(target=self._run, args=arguments, name="generate", daemon=True).start()
        return stream

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

    def close(self) -> None:
        """Drop the model; a generation that still winds down keeps it until its last token."""
        self._model = None
        if self._loop is not None:
            self._loop.close()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _room(self, request: GenerationRequest, prompt_tokens: int) -> int:
        """How many tokens may be generated."""
        room = self.context_length - prompt_tokens
        if room < 1:
            raise self._too_long(str(prompt_tokens))
        if request.max_tokens is None:
            return min(self.defaults.max_tokens or 2048, room)
        if request.max_tokens > room:
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens: the prompt has {prompt_tokens}, "
                f"so at most {room} can be generated, and {request.max_tokens} were asked for.",
                param=request.max_tokens_param,
            )
        return request.max_tokens

    def _too_long(self, tokens: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's context is {self.context_length} tokens; the prompt has {tokens}.",
            param="messages",
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

    def _run(
        self,
        request_name: str,
        stream: "TokenStream",
        inputs: dict[str, Any],
        sampler: Sampler,
        config: GenerationConfig,
    ) -> None:
        request_id.set(request_name)
        error: ApiError | None = None
        try:
            if self._loop is not None:
                own, pictures = self._loop.split(inputs)
                decode = functools.partial(self._loop.decode, stream=stream, pictures=pictures)
                self._generate(stream, own, sampler, config, custom_generate=decode)
            else:
                with self._turns.turn(stream.is_cancelled) as mine:
                    if mine:
                        leaving = StoppingCriteriaList([_Cancelled(stream)])
                        self._generate(stream, inputs, sampler, config, stopping_criteria=leaving)
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
        self,
        stream: "TokenStream",
        inputs: dict[str, Any],
        sampler: Sampler,
        config: GenerationConfig,
        **options: Any,
    ) -> None:
        model = self._model
        if model is None:  # closed between the turn and here: whoever asked has left
            return
        with torch.inference_mode():
            model.generate(
                **inputs,
                generation_config=config,
                logits_processor=[sampler],
                streamer=stream,
                **options,
            )


class TokenStream(TextIteratorStreamer):
    """What generate() writes into and a response reads from: tokens, then how it ended.

    TextIteratorStreamer decodes all that it holds at each token, keeps text back until a space, and
    leaves its reader waiting when generate() raises. This one keeps its protocol (put, end, iteration) and
    does neither: each token is decoded once, text waits only for the end of a character, and `fail` reaches
    the reader.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: frozenset[int],
        sampler: Sampler | None = None,
        *,
        prompt_tokens: int,
        image_tokens: int = 0,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.prompt_tokens = prompt_tokens
        self.image_tokens = image_tokens
        self.cached_tokens = 0  # known once the batch loop has taken the sequence
        self._on_cancel = on_cancel
        self._stop_ids, self._sampler = stop_ids, sampler
        self._silent = frozenset(tokenizer.all_special_ids)
        self._stopped = False
        self._held: list[int] = []
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._events: SimpleQueue[tuple[int, Logprobs | None] | BaseException | None] = SimpleQueue()
        self._cancelled = threading.Event()

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, once, which is skipped, then each token as generate() has it."""
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        for token in value.flatten().tolist():
            self._events.put((token, None if self._sampler is None else self._sampler.logprobs))

    def end(self) -> None:
        """generate() is through: with a stop token, or at the limit."""
        self._events.put(None)

    def fail(self, error: BaseException) -> None:
        """The thread's exception, to be raised where the stream is read."""
        self._events.put(error)

    def cancel(self) -> None:
        """Stop generate() at its next token, or take it out of the queue."""
        self._cancelled.set()
        self._on_cancel()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for more."""
        return self._cancelled.is_set()

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                event = self._events.get(timeout=TICK)
            except Empty:
                yield Idle()
                continue
            if isinstance(event, BaseException):
                raise event
            if event is None:
                rest = self._text(self._held) if self._held else ""
                # What is left of a character that the limit cut is no text.
                yield Finish("stop" if self._stopped else "length", rest.rstrip("\ufffd"))
                return
            token, logprobs = event
            self._stopped = token in self._stop_ids
            silent = self._stopped or token in self._silent
            yield Token(token, "" if silent else self._decode(token), logprobs)

    def _decode(self, token: int) -> str:
        self._held.append(token)
        text: str | None = self._decoder.step(self.tokenizer.backend_tokenizer, token)
        if text is not None:
            self._held.clear()
        elif len(self._held) >= HELD_TOKENS:
            # No character has so many bytes. Only the last three may still begin one.
            text, tail = self._text(self._held[:-3]), self._held[-3:]
            self._decoder, self._held = DecodeStream(skip_special_tokens=True), []
            text += "".join(self._decode(held) for held in tail)
        return text or ""

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


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
