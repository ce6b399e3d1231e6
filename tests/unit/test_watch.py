"""Work that is done by one of a few threads, while its client, its clock and the server's end are watched."""

import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import ClientLeft
from app.services.watch import done_by
from tests.conftest import wait_until


@pytest.fixture
def one() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "one") as threads:
        yield threads


def leaves() -> None:
    raise ClientLeft


def test_it_is_done_in_the_pools_thread_and_knows_its_request(one: ThreadPoolExecutor) -> None:
    name = contextvars.ContextVar("name", default="-")
    name.set("req_1")
    found = done_by(one, lambda: (threading.current_thread().name, name.get()), lambda: None)
    assert found == ("one_0", "req_1")


def test_what_it_raises_comes_out(one: ThreadPoolExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        done_by(one, lambda: 1 // 0, lambda: None)


def test_who_leaves_while_others_have_the_threads_is_not_served(one: ThreadPoolExecutor) -> None:
    go, done = threading.Event(), []
    busy = one.submit(go.wait, 20)
    try:
        with pytest.raises(ClientLeft):
            done_by(one, lambda: done.append(1), leaves)
    finally:
        go.set()
    assert busy.result(20)
    one.submit(int).result(20)
    assert done == []


def test_what_has_begun_is_waited_for(one: ThreadPoolExecutor) -> None:
    begun, go, looked = threading.Event(), threading.Event(), []

    def work() -> str:
        begun.set()
        go.wait(20)
        return "done"

    def watch() -> None:
        wait_until(begun.is_set)
        looked.append(1)
        go.set()
        raise ClientLeft

    assert done_by(one, work, watch) == "done"
    assert looked
