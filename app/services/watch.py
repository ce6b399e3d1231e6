"""A request's clock and its client: whoever waits or computes for long asks whether to go on."""

import time
from collections.abc import Callable

from app.errors import ClientLeft, RequestTimeout
from app.services.drain import Drain

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
