"""A request's clock and its client: whoever waits or computes for long asks whether to go on."""

import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Executor, wait
from typing import TypeVar

from app.errors import ClientLeft, RequestTimeout
from app.services.drain import Drain

T = TypeVar("T")

WATCH_EVERY = 0.25
"""Seconds between two looks at the clock and at the client."""


class Watch:
    """Looks at the clock, the client and the server's own end, a few times a second at most, and raises when
    one of them says stop.
    """

    def __init__(self, client_left: Callable[[], bool], timeout: float, drain: Drain | None = None) -> None:
        self._drain = drain or Drain()
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
        self._drain.end_late()
        if self._client_left():
            raise ClientLeft


def done_by(threads: Executor, work: Callable[[], T], watch: Callable[[], None]) -> T:
    """What the work returns or raises, done by one of these threads; raises what `watch` does while it waits
    for one. Work that has begun is waited for: whoever goes on with it looks again.
    """
    future = threads.submit(contextvars.copy_context().run, work)
    while not future.done():
        wait((future,), WATCH_EVERY)
        try:
            watch()
        except Exception:
            if future.cancel():
                raise
    return future.result()
