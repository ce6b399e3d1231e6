"""Places to decode in: few at once, of all requests, since each medium may take up to two gigabytes."""

import contextlib
import threading
from collections.abc import Iterator

from app.media.kinds import Kind

WAIT = 0.25
"""Seconds between two looks whether anybody still waits."""


class Places:
    """So many places. One of them is for pictures only, which are done in seconds, so that they never wait
    for videos, which may take minutes.
    """

    def __init__(self, count: int) -> None:
        self._all = threading.BoundedSemaphore(count)
        self._for_videos = threading.BoundedSemaphore(count - 1)

    @contextlib.contextmanager
    def one(self, kind: Kind, stopped: threading.Event) -> Iterator[None]:
        """A place for as long as the block lasts, also when nobody waits for it any more: no decoder can be
        stopped within a picture. Raises ValueError if it is `stopped` before there is one.
        """
        with contextlib.ExitStack() as held:
            for places in (self._for_videos, self._all) if kind == "video" else (self._all,):
                while not places.acquire(timeout=WAIT):
                    if stopped.is_set():
                        raise ValueError("stopped")
                held.callback(places.release)
            if stopped.is_set():
                raise ValueError("stopped")
            yield
