"""What is kept is bounded, in bytes and, by what each entry counts for itself, in number."""

from app.media.kept import ENTRY, Kept


def kept(budget: int) -> Kept[str, bytes]:
    return Kept(budget, len)


def test_what_was_used_least_recently_goes_first() -> None:
    some = kept(3 * (ENTRY + 100))
    for name in "abc":
        some.put(name, bytes(100))
    assert some.get("a") is not None
    some.put("d", bytes(100))
    assert [name for name in "abcd" if some.get(name) is None] == ["b"]
    assert some.held == 3 * (ENTRY + 100)


def test_a_value_of_more_than_half_of_the_budget_is_not_kept_and_takes_the_place_of_none() -> None:
    some = kept(4 * ENTRY)
    some.put("a", b"1")
    some.put("b", bytes(ENTRY + 1))
    assert (some.get("a"), some.get("b")) == (b"1", None)


def test_a_value_that_is_put_again_counts_once() -> None:
    some = kept(10 * ENTRY)
    for size in (5, 7, 0):
        some.put("a", bytes(size))
    assert (some.held, len(some)) == (ENTRY, 1)
    some.put("a", bytes(9 * ENTRY))
    assert (some.held, len(some), some.get("a")) == (0, 0, None)


def test_values_of_nothing_are_bounded_in_number() -> None:
    some = kept(100 * ENTRY)
    for number in range(1000):
        some.put(str(number), b"")
    assert len(some) == 100
