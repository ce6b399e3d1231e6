"""A chat completion's life: resolve, prepare, admit, submit; then its text as one object or as chunks."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from app.engine.registry import Lease, ModelRegistry
from app.engine.types import ChatRequest, FinishReason, Generation, Idle, Token
from app.errors import ApiError, ClientLeft, RequestTimeout
from app.services import prompt
from app.services.admission import Admission, Ticket
from app.services.output import StopStrings
from app.services.wire import ChatWire, Usage, error
from app.settings import Settings

log = logging.getLogger(__name__)

PREPARING = 4
"""Requests whose pictures are unpacked and whose prompts are encoded at once: each may take a gigabyte."""
WATCH_EVERY = 0.25
"""Seconds between two looks at the clock and at the client."""


class Completions:
    """Starts completions on the models of a registry."""

    def __init__(self, registry: ModelRegistry, admission: Admission, settings: Settings) -> None:
        self._registry = registry
        self._admission = admission
        self._timeout = settings.request_timeout
        self._limits = prompt.Limits(
            settings.max_images, int(settings.max_image_mp * 1e6), int(settings.max_total_mp * 1e6)
        )
        self._preparing = threading.BoundedSemaphore(PREPARING)

    def start(self, request: ChatRequest, client_left: Callable[[], bool] = lambda: False) -> "Completion":
        """A completion that runs; everything that can be refused is refused here, by an ApiError.

        Raises ClientLeft if the client goes away meanwhile.
        """
        watch = _Watch(client_left, self._timeout)
        ticket = self._admission.enter()
        lease: Lease | None = None
        try:
            pictures = prompt.read(request, self._limits)  # before a model is loaded in vain
            lease = self._registry.get(request.model, watch=watch)
            while not self._preparing.acquire(timeout=WATCH_EVERY):
                watch()
            try:
                resolved = prompt.resolve(request, pictures, lease.engine, self._limits, watch)
                generation = lease.engine.submit(resolved)
            finally:
                self._preparing.release()
        except BaseException:
            if lease is not None:
                lease.release()
            ticket.release()
            raise
        return Completion(request, generation, lease, ticket, watch)


class Completion:
    """One answer while it is made. It must be closed, read or not; reading it to the end closes it."""

    def __init__(
        self, request: ChatRequest, generation: Generation, lease: Lease, ticket: Ticket, watch: "_Watch"
    ) -> None:
        self._request = request
        self._generation = generation
        self._lease = lease
        self._ticket = ticket
        self._watch = watch
        self._stops = StopStrings(request.stop)
        self._tokens = 0
        self._closed = self._failed = False
        self._reason: FinishReason | None = None
        self._wire = ChatWire(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=lease.engine.spec.id,
            include_usage=request.include_usage,
        )

    def collect(self) -> dict[str, Any]:
        """The whole answer; raises what the generation raised, RequestTimeout or ClientLeft."""
        try:
            text = "".join(piece for piece in self._pieces() if piece)
            return self._wire.completion(text, self._reason or "stop", self._usage())
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
            yield self._wire.role()
            for piece in self._pieces():
                yield self._wire.delta(piece) if piece else None
            yield self._wire.finish(self._reason or "stop")
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
            yield self._wire.finish("error")
        finally:
            self.close()

    def close(self) -> None:
        """Stop what still runs and give everything back; harmless when called again."""
        if not self._closed:
            self._closed = True
            seconds = time.monotonic() - self._watch.started
            how = "failed" if self._failed else self._reason or "client disconnected"
            log.info("%d + %d tokens, %s, %.2f s", *self._counts(), how, seconds)
        self._generation.cancel()
        self._lease.release()
        self._ticket.release()

    def _pieces(self) -> Iterator[str]:
        """Text that can be shown, empty when there is none; sets the finish reason."""
        for event in self._generation:
            self._watch()
            if isinstance(event, Idle):
                yield ""
            elif isinstance(event, Token):
                self._tokens += 1
                yield self._stops.push(event.text)
                if self._stops.found:
                    self._reason = "stop"
                    return
            else:
                yield self._stops.push(event.text) + self._stops.flush()
                self._reason = "stop" if self._stops.found else event.reason

    def _usage(self) -> Usage:
        generation = self._generation
        return Usage(*self._counts(), generation.image_tokens, generation.cached_tokens)

    def _counts(self) -> tuple[int, int]:
        return self._generation.prompt_tokens, self._tokens


class _Watch:
    """Looks at the clock and the client, a few times a second at most, and raises when either says stop."""

    def __init__(self, client_left: Callable[[], bool], timeout: float) -> None:
        self._client_left = client_left
        self._timeout = timeout
        self.started = time.monotonic()
        self._deadline = self.started + timeout
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + WATCH_EVERY
        if now > self._deadline:
            raise RequestTimeout(f"The request took longer than {self._timeout:g} seconds.")
        if self._client_left():
            raise ClientLeft
