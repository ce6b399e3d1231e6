"""Admission: so many requests inside and no more."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import Overloaded
from app.services.admission import Admission, Ticket


def test_over_the_limit_a_request_is_refused_with_a_time_to_come_back() -> None:
    admission = Admission(2)
    tickets = [admission.enter(), admission.enter()]
    with pytest.raises(Overloaded, match="2 answers") as caught:
        admission.enter()
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    assert admission.count() == 2
    tickets[0].release()
    assert admission.count() == 1
    admission.enter()


def test_a_ticket_gives_its_place_back_once() -> None:
    admission = Admission(2)
    first, second = admission.enter(), admission.enter()
    for _ in range(3):
        first.release()
    assert admission.count() == 1
    second.release()
    assert admission.count() == 0


def test_what_no_model_has_got_is_preparing_until_it_is_submitted_or_leaves() -> None:
    admission = Admission(5)
    first, second = admission.enter(3), admission.enter()
    assert admission.preparing() == 4
    for _ in range(2):
        first.submitted()
    assert (admission.preparing(), admission.count()) == (1, 4)
    for ticket in (first, second, second):
        ticket.release()
    assert (admission.preparing(), admission.count()) == (0, 0)


def test_threads_together_get_no_more_than_the_limit() -> None:
    admission = Admission(10)
    barrier = threading.Barrier(30)

    def enter(_: int) -> Ticket | None:
        barrier.wait(10)
        try:
            return admission.enter()
        except Overloaded:
            return None

    with ThreadPoolExecutor(30) as pool:
        tickets = [ticket for ticket in pool.map(enter, range(30)) if ticket is not None]
        assert len(tickets) == admission.count() == 10
        list(pool.map(Ticket.release, tickets * 3))
    assert admission.count() == 0
