"""Clients that take their time: requests that drip in, answers that nobody reads."""

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
"""From a connection's first byte, or its being opened, to the end of the request's headers."""
BODY_SECONDS = 30.0
"""That a body may be late at any time: at its begin, or when the client pauses."""
HURRIED_SECONDS = 2.0
"""Both of these while every thread is taken."""
BODY_RATE = 32 * 1024
"""Bytes a second at which a body must come. What counts has come: a length is only a promise."""
SEND_SECONDS = 30.0
"""Without a byte taken, after which a client has stopped to read."""

body_in_time: ContextVar[Callable[[], bool]] = ContextVar("body_in_time", default=lambda: True)
"""To be called when the request has been read: whether in time. From then on it may take any time."""


@dataclass
class _Due:
    deadline: float
    hurried: float
    late: bool = False


class Readings:
    """The connections that are being served, and until when their requests must have been read. One thread
    ends the late ones; each other thread knows of its own.
    """

    def __init__(self) -> None:
        self._due: dict[socket.socket, _Due] = {}

    def head(self, connection: socket.socket) -> None:
        """Its request begins; a send that makes no progress fails from now on."""
        seconds, rest = divmod(SEND_SECONDS, 1)
        limit = struct.pack("ll", int(seconds), int(rest * 1e6))
        with contextlib.suppress(OSError):  # it was closed meanwhile
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        now = time.monotonic()
        self._due[connection] = _Due(now + HEAD_SECONDS, now + HURRIED_SECONDS)

    def body(self, connection: socket.socket, *, follows: bool) -> None:
        """Its headers have come; whether a body follows."""
        now = time.monotonic() if follows else float("inf")
        self._due[connection] = _Due(now + BODY_SECONDS, now + HURRIED_SECONDS)
        body_in_time.set(lambda: self._read(connection))

    def came(self, connection: socket.socket, block: bytes) -> bytes:
        """More of its body, which gives it more time; returns the block."""
        due, now = self._due.get(connection), time.monotonic()
        if due is not None and due.deadline < float("inf"):
            more = len(block) / BODY_RATE
            due.deadline = min(due.deadline + more, now + BODY_SECONDS)
            due.hurried = min(due.hurried + more, now + HURRIED_SECONDS)
        return block

    def over(self, connection: socket.socket) -> None:
        """It is served no longer."""
        self._due.pop(connection, None)

    def end_late(self, threads: int) -> None:
        """Let the late ones' reading end; `threads` is how many can be served at once."""
        now = time.monotonic()
        crowded = len(self._due) >= threads
        for connection, due in list(self._due.items()):
            if now > (due.hurried if crowded else due.deadline) and not due.late:
                due.late = True
                log.info("a client took too long to send its request")
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """End all of them: what waits for a client now fails."""
        for connection in list(self._due):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _read(self, connection: socket.socket) -> bool:
        due = self._due.get(connection)
        if due is None:
            return True
        due.deadline = due.hurried = float("inf")
        return not due.late
