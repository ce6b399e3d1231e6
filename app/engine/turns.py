"""Turns: at most so many generations run at once, the others wait in the order in which they came."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """A first-come-first-served semaphore whose waiters can leave; counts who runs and who waits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def count(self) -> tuple[int, int]:
        """Running and waiting."""
        with self._changed:
            return self._running, len(self._waiting)

    def wake(self) -> None:
        """Make the waiting look whether they have left."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def turn(self, left: Callable[[], bool]) -> Iterator[bool]:
        """Hold a turn; yields False, without one, if `left()` became true before it came."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: left() or (self._waiting[0] is ticket and self._running < self._limit)
            )
            self._waiting.remove(ticket)
            mine = not left()
            self._running += mine
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                self._running -= mine
                self._changed.notify_all()
