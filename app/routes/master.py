"""gunicorn's master: why it stops its workers, and reloads that would be its end."""

import mmap
import os
from collections.abc import Callable
from typing import Any

from app.settings import SettingsError

RELOADING, STOPPING = 1, 2
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
    reload, stop, terminal = server.reload, server.stop, os.isatty(0)

    def reload_checked() -> None:
        if terminal and not os.isatty(0):
            raise StopIteration  # as gunicorn's own handler of SIGTERM does
        try:
            check()
        except SettingsError as wrong:
            server.log.error("not reloaded: %s", wrong)
            return
        _state[0] = RELOADING
        try:
            reload()
        finally:
            _state[0] = 0

    def stop_told(graceful: bool = True) -> None:
        _state[0] = STOPPING
        stop(graceful)

    server.reload, server.stop = reload_checked, stop_told
