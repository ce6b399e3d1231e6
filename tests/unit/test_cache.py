"""The KV cache's room: extents never overlap, known beginnings are found, the oldest goes first."""

import itertools
import random

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine import cache as cache_module
from app.engine.cache import Extent, KVCache

assert tiny_models


def cache(tokens: int) -> KVCache:
    return KVCache(1, 1, 1, tokens=tokens, dtype=torch.float32, device=torch.device("cpu"))


def keys(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def reserve(some: KVCache, wanted: torch.Tensor, tokens: int) -> tuple[Extent, int]:
    """Take room that must be there and write the keys into it, as a computed prompt would."""
    place = some.reserve(wanted, tokens)
    assert place is not None
    extent, _ = place
    some.store[0, extent.start : extent.start + len(wanted), 0, 0] = wanted.float()
    extent.written = len(wanted)
    return place


def held(some: KVCache, extent: Extent, count: int) -> list[float]:
    values: list[float] = some.store[0, extent.start : extent.start + count, 0, 0].tolist()
    return values


def test_what_does_not_fit_beside_the_running_waits() -> None:
    some = cache(10)
    first, _ = reserve(some, keys(1), 6)
    assert some.reserve(keys(2), 5) is None
    assert some.reserve(keys(2), 4) is not None
    some.retire(first, keys(1))
    assert some.reserve(keys(3), 5) is not None


def test_none_waits_for_a_gap_between_others_where_there_is_room_for_all() -> None:
    draw, rows, length = random.Random(7), 4, 50
    some = cache(rows * length)
    live: list[tuple[Extent, list[float]]] = []
    for number in range(3000):
        if len(live) == rows or (live and draw.random() < 0.4):
            ended, written = live.pop(draw.randrange(len(live)))
            some.retire(ended, keys(*(int(value) for value in written)))
        else:
            wanted = keys(*range(draw.randrange(number + 1) * 100, number * 100 + 5)[:5])
            size = draw.choice((length, draw.randint(len(wanted), length)))
            live.append((reserve(some, wanted, size)[0], wanted.float().tolist()))
        for extent, written in live:  # moved or not
            assert held(some, extent, len(written)) == written
        ends = [(extent.start, extent.start + extent.size) for extent, _ in live]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(sorted(ends)))


def test_a_finished_beginning_is_taken_up_where_it_lies() -> None:
    some = cache(100)
    extent, known = reserve(some, keys(1, 2, 3), 10)
    assert known == 0
    some.retire(extent, keys(1, 2, 3, 4))
    again, known = reserve(some, keys(1, 2, 3, 4, 5, 6), 20)
    assert (again.start, again.size, known) == (extent.start, 20, 4)


def test_the_last_token_is_never_taken_as_known() -> None:
    some = cache(100)
    extent, _ = reserve(some, keys(1, 2, 3), 5)
    some.retire(extent, keys(1, 2, 3))
    assert reserve(some, keys(1, 2, 3), 5)[1] == 2


def test_a_beginning_that_another_one_still_uses_is_copied() -> None:
    some = cache(100)
    first, _ = reserve(some, keys(7, 8, 9), 10)
    first.keys = keys(7, 8, 9)
    second, known = reserve(some, keys(7, 8, 1), 10)
    assert known == 2
    assert second.start >= first.start + first.size
    assert held(some, second, 2) == [7.0, 8.0]


def test_a_long_conversation_is_not_given_up_for_a_short_common_beginning() -> None:
    some = cache(100)
    talk, _ = reserve(some, keys(1, 2, 3, 4, 5, 6), 10)
    some.retire(talk, keys(1, 2, 3, 4, 5, 6))
    other, known = reserve(some, keys(1, 2, 9), 5)
    assert known == 2
    assert other.start != talk.start
    assert some.longest_prefix(keys(1, 2, 3, 4, 5, 6, 7))[1] == 6


def test_the_least_recently_finished_is_forgotten_first() -> None:
    some = cache(10)
    for number in (1, 2):
        extent, _ = reserve(some, keys(number, number), 5)
        some.retire(extent, keys(*[number] * 5))
    reserve(some, keys(3), 4)
    assert some.longest_prefix(keys(1, 1, 1))[1] == 0
    assert some.longest_prefix(keys(2, 2, 2))[1] == 2


def test_what_waits_for_room_forgets_nothing_in_vain() -> None:
    some = cache(100)
    reserve(some, keys(9), 50)
    for number in range(1, 5):
        extent, _ = reserve(some, keys(number, number), 10)
        some.retire(extent, keys(*[number] * 10))
    assert some.reserve(keys(7), 60) is None
    assert [some.longest_prefix(keys(*[number] * 11))[1] for number in range(1, 5)] == [10] * 4


def test_only_what_stands_in_the_way_is_forgotten() -> None:
    some = cache(100)
    for number in range(1, 11):
        extent, _ = reserve(some, keys(number, number), 10)
        some.retire(extent, keys(*[number] * 10))
    reserve(some, keys(50), 15)
    found = [some.longest_prefix(keys(*[number] * 11))[1] for number in range(1, 11)]
    assert found == [0, 0] + [10] * 8


def test_a_sequence_as_large_as_the_cache_fits_after_one_that_begins_like_it() -> None:
    some = cache(100)
    extent, _ = reserve(some, keys(1, 2, 3, 4), 30)
    some.retire(extent, keys(*range(1, 31)))
    other, _ = reserve(some, keys(5), 20)
    some.retire(other, keys(*[5] * 20))
    whole, known = reserve(some, keys(1, 2, 9), 100)
    assert (whole.start, whole.size, known) == (0, 100, 2)
    assert held(some, whole, 2) == [1.0, 2.0]


def test_one_that_starts_elsewhere_is_forgotten_too_if_there_is_no_other_room() -> None:
    some = cache(100)
    first, _ = reserve(some, keys(8), 40)
    extent, _ = reserve(some, keys(1, 2, 3, 4), 30)
    some.retire(extent, keys(*range(1, 31)))
    some.retire(first, keys(*[8] * 40))
    whole, known = reserve(some, keys(1, 2, 9), 100)
    assert (whole.start, whole.size, known) == (0, 100, 0)


def test_another_talk_with_the_same_beginning_leaves_the_first_one_be() -> None:
    some = cache(300)
    talk, _ = reserve(some, keys(*range(60)), 80)
    some.retire(talk, keys(*range(80)))
    other, known = reserve(some, keys(*range(50), 99), 90)
    assert known == 50
    assert other.start != talk.start
    assert some.longest_prefix(keys(*range(90)))[1] == 80


def test_so_many_finished_ones_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "KEPT", 50)
    some = cache(150)
    for number in range(60):
        extent, _ = reserve(some, keys(number), 2)
        some.retire(extent, keys(number, number))
    assert some.held() == 100
    assert some.longest_prefix(keys(0, 0, 0))[1] == 0


def test_what_failed_leaves_nothing_behind() -> None:
    some = cache(10)
    extent, _ = reserve(some, keys(1, 2), 10)
    some.retire(extent, keys())
    assert some.held() == 0
    assert some.longest_prefix(keys(1, 2, 3))[1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_extents_never_overlap_and_known_tokens_hold_what_was_written(seed: int) -> None:
    rng = random.Random(seed)
    some = cache(300)
    running: list[tuple[Extent, torch.Tensor]] = []
    for _ in range(400):
        if running and rng.random() < 0.5:
            extent, written = running.pop(rng.randrange(len(running)))
            assert held(some, extent, len(written)) == written.tolist()
            some.retire(extent, written[: rng.randint(0, len(written))])
            continue
        wanted = keys(*[rng.randint(1, 2) for _ in range(rng.randint(1, 20))])
        place = some.reserve(wanted, len(wanted) + rng.randint(1, 60))
        if place is None:
            assert running
            continue
        extent, known = place
        assert held(some, extent, known) == wanted[:known].tolist()
        some.store[0, extent.start : extent.start + len(wanted), 0, 0] = wanted.float()
        extent.keys, extent.written = wanted, len(wanted)
        running.append((extent, wanted))
        spans = sorted((one.start, one.start + one.size) for one, _ in running)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert spans[-1][1] <= some.tokens
