"""Doing something for several media at once, in threads, within a time, and with an eye on the client."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

LOOK_EVERY = 0.1
T = TypeVar("T")


class TookTooLongError(Exception):
    """Not all was done within the time; `index` is the first that was not."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


def together(
    jobs: Sequence[Callable[[], T]],
    watch: Callable[[], None],
    seconds: float,
    at_once: int,
    *,
    stop: Callable[[], None] = lambda: None,
    undo: Callable[[T], None] = lambda done: None,
) -> list[T]:
    """What the jobs return, in their order, so many of them at once. If one raises, `watch` does or the time
    is over (TookTooLongError), the others are told to `stop`, what they still return is undone, and the first
    exception is raised.
    """
    if not jobs:
        return []
    pool = ThreadPoolExecutor(min(at_once, len(jobs)), thread_name_prefix="media")
    futures = [pool.submit(job) for job in jobs]
    deadline = time.monotonic() + seconds
    try:
        running = set(futures)
        while running:
            done, running = wait(running, LOOK_EVERY, FIRST_EXCEPTION)
            for future in futures:
                if future in done:
                    future.result()
            watch()
            if running and time.monotonic() > deadline:
                raise TookTooLongError(next(index for index, one in enumerate(futures) if one in running))
    except BaseException:
        stop()
        for future in futures:
            future.add_done_callback(lambda one: _undone(one, undo))
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


def _undone(future: Future[T], undo: Callable[[T], None]) -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())
