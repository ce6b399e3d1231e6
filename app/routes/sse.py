"""Events to bytes: server-sent events, comments on idle streams, and the close that frees everything."""

import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol

from flask import Response

from app.errors import ApiError, ClientLeft
from app.services import wire

log = logging.getLogger(__name__)

PING_EVERY = 10.0
"""Seconds of silence after which a comment keeps the connection open."""


class Events(Protocol):
    """An answer while it is made: a completion, or a turn of a conversation."""

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Its events as they come, None when there is nothing to say."""

    def close(self) -> None:
        """Stop it and give everything back."""


def stream(completion: Events) -> Response:
    """The streamed answer of a completion."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    # Typed in full: Werkzeug adds the charset to text types only on its own terms.
    return Response(EventStream(completion), headers=headers, content_type="text/event-stream; charset=utf-8")


class EventStream:
    """A response body whose `close` frees its completion, also when it was never read.

    A generator alone would not do: one that was never started gets no GeneratorExit.
    """

    def __init__(self, completion: Events) -> None:
        self._completion = completion
        self._bytes = self._encode()
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        return map(self._count, self._bytes)

    def close(self) -> None:
        """Called by the WSGI server when the response is over, however it ended."""
        self._completion.close()

    def _count(self, block: bytes) -> bytes:
        self.sent += len(block)
        return block

    def _encode(self) -> Iterator[bytes]:
        last = time.monotonic()
        try:
            for event in self._completion.events():
                now = time.monotonic()
                if event is not None:
                    name = "event: error\n" if "error" in event else ""
                    yield f"{name}data: {wire.encode(event)}\n\n".encode()
                elif now - last >= PING_EVERY:
                    yield b": ping\n\n"
                else:
                    continue
                last = now
            yield b"data: [DONE]\n\n"
        except ClientLeft:
            return
        except Exception:  # an event that is no JSON
            log.exception("a stream failed")
            failed = ApiError("The server failed; its log has the details under the request's id.")
            yield f"event: error\ndata: {wire.encode(wire.error(failed))}\n\ndata: [DONE]\n\n".encode()
