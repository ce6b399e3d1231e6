"""Several at once: in order, within the time, and nothing left over when one of them fails."""

import threading
import time
from collections.abc import Callable

import pytest

from app.media.together import TookTooLongError, together
from tests.conftest import wait_until


def nothing() -> None:
    pass


def test_what_they_return_is_in_their_order_and_so_many_run_at_once() -> None:
    meeting = threading.Barrier(3, timeout=20)
    running, most, lock = 0, 0, threading.Lock()

    def job(number: int) -> Callable[[], int]:
        def run() -> int:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            meeting.wait()
            with lock:
                running -= 1
            return number

        return run

    assert together([job(number) for number in range(6)], nothing, 30, 3) == list(range(6))
    assert most == 3
    assert together([], nothing, 30, 3) == []


def fails() -> str:
    raise KeyError("its own")


def test_the_first_that_fails_ends_all_and_what_others_return_is_undone() -> None:
    stopped, undone = threading.Event(), list[str]()

    def late() -> str:
        assert stopped.wait(20)
        return "late"

    with pytest.raises(KeyError, match="its own"):
        together([lambda: "done", late, fails], nothing, 30, 3, stop=stopped.set, undo=undone.append)
    wait_until(lambda: sorted(undone) == ["done", "late"])


def test_who_leaves_ends_all() -> None:
    stopped = threading.Event()

    def left() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        together([lambda: stopped.wait(20)], left, 30, 1, stop=stopped.set)
    assert stopped.is_set()


def test_one_that_hangs_holds_nobody_for_longer_than_the_time_and_is_named() -> None:
    hangs = threading.Event()
    began = time.monotonic()
    with pytest.raises(TookTooLongError) as caught:
        together([lambda: True, lambda: hangs.wait(60)], nothing, 0.2, 2)
    assert time.monotonic() - began < 20
    assert caught.value.index == 1
    hangs.set()
