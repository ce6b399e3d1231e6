"""Admission: a request beyond all that may run and wait is refused at once, never queued in the dark."""

import threading

from app.errors import Overloaded


class Admission:
    """Counts the requests that are in the house; `limit` is streams plus queue."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._lock = threading.Lock()

    def enter(self) -> "Ticket":
        """A place for one request; raises Overloaded (429) if there is none."""
        with self._lock:
            if self._inside >= self._limit:
                raise Overloaded(
                    f"{self._inside} requests are running or waiting, as many as may be. Try again later.",
                    retry_after=2,
                )
            self._inside += 1
        return Ticket(self)

    def leave(self) -> None:
        """One request fewer."""
        with self._lock:
            self._inside -= 1

    def count(self) -> int:
        """Requests inside."""
        with self._lock:
            return self._inside


class Ticket:
    """One request's place, given back once however often `release` is called."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission
        self._lock = threading.Lock()

    def release(self) -> None:
        """Give the place back."""
        with self._lock:
            admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave()
