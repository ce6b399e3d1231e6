"""gunicorn's master: why it stops its workers, and reloads that would be its end."""

import mmap
import os
import queue
import signal
import time
from collections.abc import Callable
from typing import Any

from app.settings import SettingsError

RELOADING, STOPPING = 1, 2
TOLD = 2.0
"""Seconds after which an old worker has surely seen why it is to end."""
_state = mmap.mmap(-1, 1)  # shared with the workers, which are forked from the process that made it


def is_reloading() -> bool:
    """Whether a worker that is told to stop now has a successor, which has the port."""
    return _state[0] == RELOADING


def is_stopping() -> bool:
    """Whether the server as a whole stops."""
    return _state[0] == STOPPING


def attend(server: Any, check: Callable[[], object]) -> None:
    """Let workers know what their SIGTERM is for, which gunicorn tells none of them; and refuse to reload
    what `check` raises a SettingsError for: gunicorn would exit, and its workers with it. A SIGHUP because
    the terminal was closed is a stop.
    """
    reload, stop, reap, terminal = server.reload, server.stop, server.reap_workers, os.isatty(0)

    def reload_checked() -> None:
        if terminal and not os.isatty(0):
            raise StopIteration  # as gunicorn's own handler of SIGTERM does
        try:
            check()
        except SettingsError as wrong:
            server.log.error("not reloaded: %s", wrong)
            return
        _state[0] = RELOADING
        begun = time.monotonic()

        def reap_unless_signalled() -> None:
            reap()
            came = _waiting(server.SIG_QUEUE) - {signal.SIGCHLD}
            if came - {signal.SIGHUP} or (came and time.monotonic() > begun + TOLD):
                raise _SignalCameError

        # The last that gunicorn's reload does is to wait for the old worker, deaf to signals.
        server.reap_workers = reap_unless_signalled
        try:
            reload()
        except _SignalCameError:
            pass
        finally:
            server.reap_workers = reap
            if os.getpid() == server.pid:  # and not the new worker, which ends here as well
                _state[0] = 0

    def stop_told(graceful: bool = True) -> None:
        _state[0] = STOPPING
        stop(graceful)

    server.reload, server.stop = reload_checked, stop_told


class _SignalCameError(Exception):
    """A signal waits to be heeded."""


def _waiting(signals: "queue.SimpleQueue[int]") -> set[int]:
    """The signals that wait, which go on to do so."""
    found = [signals.get_nowait() for _ in range(signals.qsize())]
    for one in found:
        signals.put_nowait(one)
    return {*found}
