"""A Sophon TPU's chip: models on it call the libraries one at a time, and a call may never return."""

import contextlib
import threading
import time
from collections.abc import Iterator

HANGS = 60.0
"""Seconds after which a call that has not returned is taken for one that never will: a step takes a tenth of
one, a long prompt's longest wait a few.
"""
LOADING = 600.0
"""The same for the load of a model, which slow storage makes one of minutes."""
LOADS = "bmrt_load_bmodel"


class Chip:
    """What all devices of a chip share: who calls the libraries."""

    def __init__(self) -> None:
        self._next, self._calling = threading.Lock(), threading.Lock()
        self._call: tuple[str, float] | None = None

    @contextlib.contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """The only call while it lasts. Whoever waits is next, whatever else the last caller wants."""
        with self._next:
            self._calling.acquire()
        self._call = (name, time.monotonic())
        try:
            yield
        finally:
            self._call = None
            self._calling.release()

    def hangs(self) -> str | None:
        """The call that has not returned for long, if there is one."""
        name, since = self._call or ("", 0.0)
        waited = time.monotonic() - since
        if not name or waited <= (LOADING if name == LOADS else HANGS):
            return None
        return f"{name} has not returned for {waited:.0f} seconds"


_chips: dict[int, Chip] = {}


def chip(number: int) -> Chip:
    """The chip of that number, one for all devices on it."""
    return _chips.setdefault(number, Chip())
