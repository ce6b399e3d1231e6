"""A completion's life: resolve, prepare, admit, submit; then its choices as one object or as chunks."""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.engine.registry import Lease, ModelRegistry
from app.engine.types import (
    ChatRequest,
    Engine,
    Finish,
    Generation,
    GenerationRequest,
    Idle,
    Message,
    PromptInfo,
    TextRequest,
    Token,
)
from app.errors import ApiError, ClientLeft, InvalidRequest
from app.metrics import Metrics
from app.services import media_info, prompt
from app.services.admission import Admission, Ticket
from app.services.media import Media, Medium, Prepared
from app.services.meter import Meter
from app.services.output import ChoiceOutput, Delta, joined
from app.services.thinking import ThinkingParser
from app.services.tools import ToolParser
from app.services.watch import Watch, done_by
from app.services.wire import ChatWire, Choice, Head, TextWire, Usage, error
from app.settings import Settings

log = logging.getLogger(__name__)

PREPARING = 4
"""Requests whose prompts are encoded at once: each may take a gigabyte. In threads of their own: torch gives
each thread that computes a helper for every core, for good, and a server has a hundred threads for requests.
"""


class Completions:
    """Starts completions on the models of a registry."""

    def __init__(
        self, registry: ModelRegistry, admission: Admission, settings: Settings, metrics: Metrics
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._metrics = metrics
        self._timeout = settings.request_timeout
        self.media = Media(settings)
        self._preparing = ThreadPoolExecutor(PREPARING, "prepare")

    def busy(self) -> tuple[int, int]:
        """How many answers run and how many wait, also for a model to load or for their session's turn."""
        running, waiting = self._registry.busy()
        return running, waiting + self._admission.preparing()

    def inside(self) -> int:
        """How many answers are not complete."""
        return self._admission.count()

    def enter(self, client_left: Callable[[], bool]) -> "Place":
        """A place for a chat request that will wait before it starts; raises Overloaded, Draining."""
        return Place(self._admission.enter(), self._watch(client_left))

    def start(
        self,
        request: ChatRequest | TextRequest,
        client_left: Callable[[], bool] = lambda: False,
        *,
        place: "Place | None" = None,
    ) -> "Completion":
        """A completion that runs; everything that can be refused is refused here, by an ApiError.

        Raises ClientLeft if the client goes away meanwhile. A `place` from `enter` stays the caller's if this
        raises, so that he can try again.
        """
        mine = place or Place(self._enter(request), self._watch(client_left))
        ticket, watch = mine.ticket, mine.watch
        lease: Lease | None = None
        try:
            # What needs no model is looked at before one is loaded in vain.
            with self.media.read(_messages(request), watch) as media:
                lease = self._registry.get(request.model, watch=watch)
                resolved, prepared = self._resolved(request, media, lease.engine, watch)
            generation = done_by(self._preparing, partial(lease.engine.submit, *resolved), watch)
            ticket.submitted()
        except BaseException:
            if lease is not None:
                lease.release()
            if place is None:
                ticket.release()
            raise
        meter = Meter(self._metrics, lease.engine.spec.id, watch.started)
        return Completion(request, generation, lease, ticket, watch, meter, prepared)

    def tokenize(
        self, request: ChatRequest | TextRequest, client_left: Callable[[], bool] = lambda: False
    ) -> "Tokens":
        """The tokens of a request's prompt, which is prepared as for an answer; raises as `start` does."""
        with (
            self._admitted(client_left) as watch,
            self.media.read(_messages(request), watch) as media,
            self._registry.get(request.model, watch=watch) as lease,
        ):
            engine = lease.engine
            (resolved,), _ = self._resolved(request, media, engine, watch)
            try:
                ids = done_by(self._preparing, partial(engine.tokenize, resolved), watch)
            except InvalidRequest as error:
                if error.code != "empty_prompt":
                    raise
                ids = ()  # nothing to go on from, but these are all the tokens that there are
            return Tokens(tuple(ids), engine.context_length, tuple(map(engine.token_bytes, ids)))

    def detokenize(
        self, model: str | None, ids: Sequence[int], client_left: Callable[[], bool] = lambda: False
    ) -> str:
        """The text of tokens; raises InvalidRequest for ids that are none."""
        with self._admitted(client_left) as watch, self._registry.get(model, watch=watch) as lease:
            return lease.engine.detokenize(ids)

    @contextmanager
    def _admitted(self, client_left: Callable[[], bool]) -> Iterator[Watch]:
        """A place for a request without a stream: it may wait for a model or for media all the same."""
        ticket = self._admission.enter()
        try:
            yield self._watch(client_left)
        finally:
            ticket.release()

    def _watch(self, client_left: Callable[[], bool]) -> Watch:
        return Watch(client_left, self._timeout, self._admission.drain)

    def _enter(self, request: ChatRequest | TextRequest) -> Ticket:
        if isinstance(request, ChatRequest):
            return self._admission.enter(request.n)
        each = max(request.n, request.best_of)
        return self._admission.enter(each * len(request.prompts), "n" if each > 1 else "prompt")

    def _resolved(
        self, request: ChatRequest | TextRequest, media: Sequence[Medium], engine: Engine, watch: Watch
    ) -> tuple[list[GenerationRequest], list[Prepared]]:
        """What a model is asked for, and the pictures and clips in it."""
        if not isinstance(request, ChatRequest):
            return prompt.plain(request, engine), []
        prepared = self.media.prepare(media, engine, watch)
        return [prompt.resolve(request, [one.part for one in prepared], engine)], prepared


@dataclass(frozen=True)
class Tokens:
    """The tokens of a prompt, with what each stands for, and how many the model takes."""

    ids: tuple[int, ...]
    context_length: int
    bytes: tuple[bytes, ...]


class Completion:
    """Some choices while they are made. It must be closed, read or not; reading it to the end closes it."""

    def __init__(
        self,
        request: ChatRequest | TextRequest,
        generation: Generation,
        lease: Lease,
        ticket: Ticket,
        watch: Watch,
        meter: Meter,
        prepared: Sequence[Prepared] = (),
    ) -> None:
        self._request = request
        self._prepared = prepared
        self._generation = generation
        self._lease = lease
        self._ticket = ticket
        self._watch = watch
        self._meter = meter
        self._each = max(request.n, request.best_of) if isinstance(request, TextRequest) else request.n
        self._outputs = [_output(request, info) for info in generation.prompts() for _ in range(self._each)]
        self._closed = self._failed = False
        self._wire = self._chosen_wire(lease.engine)

    def collect(self) -> dict[str, Any]:
        """The whole answer; raises what the generation raised, RequestTimeout or ClientLeft."""
        try:
            parts: list[list[Delta]] = [[] for _ in self._outputs]
            for index, delta in self._deltas():
                parts[index].append(delta)
            made = [
                Choice(joined(part), output.reason or "stop", index // self._each)
                for index, (part, output) in enumerate(zip(parts, self._outputs, strict=True))
            ]
            return self._wire.whole(self._best(made), self._usage())
        except ClientLeft:
            raise
        except Exception:
            self._failed = True
            raise
        finally:
            self.close()

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Chunks as they come; None when there is nothing to say. An ApiError becomes the last events."""
        try:
            for index in range(len(self._outputs)):
                yield self._wire.begin(index)
            for index, delta in self._deltas():
                yield self._wire.delta(index, delta) if delta else None
                if reason := self._outputs[index].reason:
                    yield self._wire.finish(index, reason)
            if self._request.include_usage:
                yield self._wire.usage(self._usage())
        except ClientLeft:
            raise
        except Exception as problem:
            self._failed = True
            if not isinstance(problem, ApiError):
                log.exception("a stream failed")
                problem = ApiError("The server failed; its log has the details under the request's id.")
            yield error(problem)
            for index, output in enumerate(self._outputs):
                if output.reason is None:
                    yield self._wire.finish(index, "error")
        finally:
            self.close()

    def close(self) -> None:
        """Stop what still runs and give everything back; harmless when called again."""
        if not self._closed:
            self._closed = True
            lost = "error" if self._failed else "cancelled"
            reasons = [output.reason or lost for output in self._outputs]
            usage = self._usage()
            self._meter.end(usage.prompt_tokens, usage.cached_tokens, self._generation.waits(), reasons)
        self._generation.cancel()
        self._lease.release()
        self._ticket.release()

    def _deltas(self) -> Iterator[tuple[int, Delta]]:
        """What is new and in which choice, as it comes; nothing new where there is only time to look."""
        running = len(self._outputs)
        for event in self._generation:
            self._watch()
            if isinstance(event, Idle):
                yield 0, Delta()
                continue
            output = self._outputs[event.choice]
            if output.ended():
                continue  # a stop string has ended it; this is what was under way
            if isinstance(event, Token):
                self._meter.token(event.choice)
            yield event.choice, output.push(event)
            if output.ended():
                self._generation.cancel(event.choice)
                running -= 1
                if not running:
                    return
        for index, output in enumerate(self._outputs):
            if not output.ended():  # an engine that ended without a word
                yield index, output.push(Finish("stop"))

    def _best(self, made: list[Choice]) -> list[Choice]:
        """The choices that were asked for: of each prompt's, the likeliest by token."""
        request = self._request
        if not isinstance(request, TextRequest) or request.best_of <= request.n:
            return made
        found: list[Choice] = []
        for first in range(0, len(made), request.best_of):
            some = range(first, first + request.best_of)
            order = sorted(some, key=lambda index: -self._outputs[index].mean_logprob())
            found += [made[index] for index in order[: request.n]]
        return found

    def _chosen_wire(self, engine: Engine) -> ChatWire | TextWire:
        request = self._request
        asked = (engine.spec.id, request.include_usage, request.top_logprobs, engine.token_bytes)
        if isinstance(request, ChatRequest):
            return ChatWire(Head(f"chatcmpl-{uuid.uuid4().hex}", *asked))
        echoed = None
        if request.echo:
            echoed = [text if isinstance(text, str) else engine.detokenize(text) for text in request.prompts]
        head = Head(f"cmpl-{uuid.uuid4().hex}", *asked)
        return TextWire(head, self._generation.prompts, echoed, self._each)

    def _usage(self) -> Usage:
        prompts = self._generation.prompts()
        told = isinstance(self._request, ChatRequest) and self._request.media_info
        return Usage(
            sum(len(prompt.ids) for prompt in prompts),
            sum(output.tokens for output in self._outputs),
            image_tokens=sum(prompt.image_tokens for prompt in prompts),
            video_tokens=sum(prompt.video_tokens for prompt in prompts),
            cached_tokens=sum(prompt.cached_tokens for prompt in prompts),
            reasoning_tokens=sum(output.reasoning_tokens for output in self._outputs),
            media=media_info.told(self._prepared, prompts[0]) if told else None,
        )


def _messages(request: ChatRequest | TextRequest) -> Sequence[Message]:
    return request.messages if isinstance(request, ChatRequest) else ()


def _output(request: ChatRequest | TextRequest, info: PromptInfo) -> ChoiceOutput:
    if not isinstance(request, ChatRequest):
        return ChoiceOutput(request.stop, min_tokens=request.min_tokens)
    tools = None
    if info.tool_format is not None and request.tools is not None:
        names = {function.name for function in request.tools.functions}
        tools = ToolParser(
            info.tool_format, names, request.tools.parallel, only_calls=request.tools.choice == "required"
        )
    return ChoiceOutput(
        request.stop,
        min_tokens=request.min_tokens,
        thinking=ThinkingParser(info.thinking),
        tools=tools,
        structured=request.grammar is not None,
    )


@dataclass(frozen=True)
class Place:
    """A request's place among all that run and wait, and its clock, which has begun."""

    ticket: Ticket
    watch: Watch
