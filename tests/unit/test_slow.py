"""Connections whose requests take too long lose their reading half, and only those."""

import socket
from collections.abc import Iterator

import pytest

from app.routes import slow
from app.routes.slow import Readings


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _of_each_test() -> Iterator[None]:
    before = slow.body_in_time.set(lambda: True)
    yield
    slow.body_in_time.reset(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slow, "time", made)
    return made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(True)
    yield ours, theirs
    ours.close()
    theirs.close()


def ended(ours: socket.socket) -> bool:
    try:
        return ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize(("threads", "patience"), [(8, slow.HEAD_SECONDS), (1, slow.HURRIED_SECONDS)])
def test_headers_have_a_time_and_less_of_it_when_every_thread_is_taken(
    clock: Clock, pair: tuple[socket.socket, socket.socket], threads: int, patience: float
) -> None:
    readings = Readings()
    readings.head(pair[0])
    clock.now += patience - 0.1
    readings.end_late(threads)
    assert not ended(pair[0])
    clock.now += 0.2
    readings.end_late(threads)
    assert ended(pair[0])


@pytest.mark.parametrize(("threads", "patience"), [(8, slow.BODY_SECONDS), (1, slow.HURRIED_SECONDS)])
def test_a_body_has_a_time_and_more_of_it_for_what_came(
    clock: Clock, pair: tuple[socket.socket, socket.socket], threads: int, patience: float
) -> None:
    readings = Readings()
    readings.head(pair[0])
    readings.body(pair[0], follows=True)
    megabytes = bytes(100 * slow.BODY_RATE)
    clock.now += patience - 0.1
    assert readings.came(pair[0], megabytes) is megabytes
    clock.now += patience - 0.1  # many bytes earn no longer a pause than few
    readings.end_late(threads)
    assert not ended(pair[0])
    readings.came(pair[0], bytes(slow.BODY_RATE))
    clock.now += 1
    readings.end_late(threads)
    assert not ended(pair[0])
    clock.now += 0.2
    readings.end_late(threads)
    assert ended(pair[0])
    assert not slow.body_in_time.get()()


def test_what_has_been_read_may_take_any_time(
    clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    readings = Readings()
    readings.body(pair[0], follows=True)
    assert slow.body_in_time.get()()
    readings.came(pair[0], b"of the next request")
    clock.now += 10_000
    readings.end_late(1)
    assert not ended(pair[0])


def test_a_request_without_a_body_has_been_read(
    clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    readings = Readings()
    readings.head(pair[0])
    readings.body(pair[0], follows=False)
    clock.now += 10_000
    readings.end_late(1)
    assert not ended(pair[0])


def test_a_cut_ends_all_that_are_being_served(pair: tuple[socket.socket, socket.socket]) -> None:
    readings = Readings()
    readings.head(pair[0])
    readings.over(pair[0])
    readings.cut()
    assert not ended(pair[0])
    readings.head(pair[0])
    readings.cut()
    assert pair[1].recv(1) == b""
