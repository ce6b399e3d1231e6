"""The end of a server: what asks is refused, what runs may finish until a deadline."""

import math
import time

from app.errors import Draining

RETRY_AFTER = 5
"""Seconds after which another server, or this one's successor, can be expected."""


class Drain:
    """Whether the server stops, and how long what runs still may. No locks: a signal handler begins it."""

    def __init__(self) -> None:
        self._deadline = math.inf

    def begin(self, seconds: float) -> None:
        """Refuse what is new, and end what still runs after so many seconds; an earlier end stays."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def has_begun(self) -> bool:
        """Whether the server stops."""
        return self._deadline < math.inf

    def overdue(self) -> float:
        """Seconds since the deadline; negative before it."""
        return time.monotonic() - self._deadline

    def refuse(self) -> None:
        """Raise Draining for a new request if the server stops."""
        if self.has_begun():
            raise Draining("The server is stopping and takes nothing new.", retry_after=RETRY_AFTER)

    def end_late(self) -> None:
        """Raise Draining for a request that still runs after the deadline."""
        if self.overdue() > 0:
            raise Draining("The server has stopped before the answer was complete.", retry_after=RETRY_AFTER)
