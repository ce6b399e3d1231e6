"""Admission: a request beyond all that may run and wait is refused at once, never queued in the dark."""

import threading

from app.errors import InvalidRequest, Overloaded
from app.services.drain import Drain


class Admission:
    """Counts the answers that are in the house, run or waiting, and those of them that no model has got yet;
    `limit` is streams plus queue.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = self._preparing = 0
        self._lock = threading.Lock()
        self.drain = Drain()

    def enter(self, choices: int = 1, param: str = "n") -> "Ticket":
        """A place for each choice of a request; raises Overloaded (429) if there is none now, Draining if
        the server stops, InvalidRequest that names `param` if there never is.
        """
        self.drain.refuse()
        if choices > self._limit:
            raise InvalidRequest(
                f"The request asks for {choices} answers; this server runs and queues {self._limit} at most.",
                param=param,
                code="too_many_choices",
            )
        with self._lock:
            if self._inside + choices > self._limit:
                raise Overloaded(
                    f"{self._inside} answers are running or waiting; {self._limit} may be. Try again later.",
                    retry_after=2,
                )
            self._inside += choices
            self._preparing += choices
        return Ticket(self, choices)

    def leave(self, choices: int) -> None:
        """So many answers fewer."""
        with self._lock:
            self._inside -= choices

    def submitted(self, choices: int) -> None:
        """So many that a model has got, or never will."""
        with self._lock:
            self._preparing -= choices

    def count(self) -> int:
        """Answers inside."""
        with self._lock:
            return self._inside

    def preparing(self) -> int:
        """Those that wait for a model to load, for their session's turn or for their prompt."""
        with self._lock:
            return self._preparing


class Ticket:
    """One request's places, given back once however often `release` is called."""

    def __init__(self, admission: Admission, choices: int) -> None:
        self._admission: Admission | None = admission
        self._prepares: Admission | None = admission
        self._choices = choices
        self._lock = threading.Lock()

    def submitted(self) -> None:
        """A model has the request now."""
        with self._lock:
            admission, self._prepares = self._prepares, None
        if admission is not None:
            admission.submitted(self._choices)

    def release(self) -> None:
        """Give the places back."""
        self.submitted()
        with self._lock:
            admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave(self._choices)
