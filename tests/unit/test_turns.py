"""Turns: first come, first served, and whoever leaves is not waited for."""

import functools
import threading

from app.engine.turns import Turns
from tests.conftest import wait_until


class Guest:
    """A thread that takes a turn, holds it until told, and may leave before."""

    def __init__(self, turns: Turns, arrivals: list["Guest"]) -> None:
        self.turns, self.arrivals = turns, arrivals
        self.may_go = threading.Event()
        self.left = False
        self.mine: bool | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def come(self) -> "Guest":
        before = sum(self.turns.count())
        self.thread.start()
        wait_until(lambda: sum(self.turns.count()) > before)
        return self

    def leave(self) -> None:
        self.left = True
        self.turns.wake()

    def go(self) -> None:
        self.may_go.set()
        self.thread.join(10)

    def _run(self) -> None:
        with self.turns.turn(lambda: self.left) as mine:
            self.mine = mine
            if mine:
                self.arrivals.append(self)
                self.may_go.wait(10)


def guests(turns: Turns, count: int) -> tuple[list[Guest], list[Guest]]:
    arrivals: list[Guest] = []
    return [Guest(turns, arrivals).come() for _ in range(count)], arrivals


def test_so_many_run_and_the_others_wait() -> None:
    turns = Turns(2)
    came, arrivals = guests(turns, 5)
    wait_until(lambda: len(arrivals) == 2)
    assert turns.count() == (2, 3)
    for guest in came:
        guest.go()
    assert turns.count() == (0, 0)


def test_the_waiting_come_in_the_order_of_their_arrival() -> None:
    came, arrivals = guests(Turns(1), 5)
    for guest in came:
        wait_until(functools.partial(arrivals.__contains__, guest))
        guest.go()
    assert arrivals == came


def test_who_leaves_the_queue_gets_no_turn_and_does_not_hold_up_the_next() -> None:
    turns = Turns(1)
    came, arrivals = guests(turns, 3)
    came[1].leave()
    came[1].thread.join(10)
    assert came[1].mine is False
    assert turns.count() == (1, 1)
    came[0].go()
    wait_until(lambda: came[2] in arrivals)
    came[2].go()
    assert arrivals == [came[0], came[2]]
    assert turns.count() == (0, 0)


def test_who_has_left_before_coming_gets_no_turn() -> None:
    turns = Turns(1)
    with turns.turn(lambda: True) as mine:
        assert not mine
        assert turns.count() == (0, 0)


def test_an_exception_gives_the_turn_back() -> None:
    turns = Turns(1)
    try:
        with turns.turn(lambda: False):
            assert turns.count() == (1, 0)
            raise ValueError
    except ValueError:
        pass
    assert turns.count() == (0, 0)
    with turns.turn(lambda: False) as mine:
        assert mine
