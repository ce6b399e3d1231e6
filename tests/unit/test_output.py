"""Stop strings: found over token borders, never shown, and nothing else is kept back for good."""

import itertools
from collections.abc import Iterable, Iterator
from random import Random

import pytest

from app.engine.types import Finish, Logprobs, Token
from app.services.output import ChoiceOutput, Delta, StopStrings, joined
from app.services.thinking import ThinkingParser


def run(stops: tuple[str, ...], pieces: Iterable[str]) -> tuple[str, bool]:
    """What is shown of the pieces, and whether a stop string was found."""
    output = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += output.push(piece)
        if output.found:
            return shown, True
    return shown + output.flush(), False


def expected(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The reference: at the first place where a stop string is complete, the text before it."""
    for end in range(len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, ending))], True
    return text, False


def splits(text: str) -> Iterator[list[str]]:
    """All ways to cut a text into pieces."""
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        places = [0, *(number + 1 for number, cut in enumerate(cuts) if cut), len(text)]
        yield [text[start:end] for start, end in itertools.pairwise(places)]


CASES: list[tuple[tuple[str, ...], str, str, bool]] = [
    ((), "hello", "hello", False),
    (("END",), "so it ENDs", "so it ", True),
    (("END",), "EN or EENDx", "EN or E", True),
    (("END",), "nothing EN", "nothing EN", False),
    (("END",), "ENDEND", "", True),
    (("aab",), "aaaab!", "aa", True),
    (("aba",), "ababa", "", True),
    (("abac",), "ababac", "ab", True),
    (("\n\n",), "a\nb\n\nc", "a\nb", True),
    (("b", "abc"), "xabc", "xa", True),
    (("abc", "bc"), "xabc", "x", True),
    (("abcd", "bc"), "xabcd", "xa", True),
    (("xyz", "yy"), "xyxyyz", "xyx", True),
    (("🙂",), "ok 🙂!", "ok ", True),
    (("停止",), "请停停止吧", "请停", True),
]


@pytest.mark.parametrize(("stops", "text", "shown", "found"), CASES)
def test_the_text_ends_before_the_first_complete_stop_string_however_it_is_cut(
    stops: tuple[str, ...], text: str, shown: str, found: bool
) -> None:
    assert expected(stops, text) == (shown, found)
    wrong = [pieces for pieces in splits(text) if run(stops, pieces) != (shown, found)]
    assert wrong == []


def random_cases(*, one: bool) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    random = Random(11)
    for _ in range(3000):
        count = 1 if one else random.randint(2, 4)
        stops = tuple("".join(random.choices("ab", k=random.randint(1, 5))) for _ in range(count))
        pieces = ["".join(random.choices("abc", k=random.randint(0, 4))) for _ in range(random.randint(1, 8))]
        yield stops, pieces


@pytest.mark.parametrize("one", [True, False], ids=["one stop string", "overlapping stop strings"])
def test_random_texts_agree_with_the_reference(one: bool) -> None:
    wrong = [
        (stops, pieces)
        for stops, pieces in random_cases(one=one)
        if run(stops, pieces) != expected(stops, "".join(pieces))
    ]
    assert wrong[:3] == []


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    output = StopStrings(("STOP",))
    assert [output.push(piece) for piece in ("a", "S", "T", "a", "ST", "OS")] == [
        "a",
        "",
        "",
        "STa",
        "",
        "STO",
    ]
    assert output.flush() == "S"
    assert output.flush() == ""


def test_without_stop_strings_nothing_is_held_back() -> None:
    output = StopStrings(())
    assert [output.push("a"), output.push(""), output.flush()] == ["a", "", ""]


def test_after_a_stop_string_nothing_is_shown() -> None:
    output = StopStrings(("x",))
    assert output.push("axb") == "a"
    assert output.found
    assert [output.push("more"), output.flush()] == ["", ""]


def scored(token: int, text: str) -> Token:
    return Token(token, text, Logprobs(-float(token)))


def tokens_of(deltas: list[Delta]) -> list[list[int]]:
    return [[one.token for one in delta.scored] for delta in deltas]


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    output = ChoiceOutput(("STOP",))
    deltas = [output.push(scored(1, "a")), output.push(scored(2, "ST")), output.push(scored(3, "ARE"))]
    assert [delta.content for delta in deltas] == ["a", "", "STARE"]
    assert tokens_of(deltas) == [[1], [], [2, 3]]


def test_tokens_of_a_stop_string_have_no_log_probabilities_to_tell() -> None:
    output = ChoiceOutput(("STOP",))
    deltas = [output.push(scored(1, "ab")), output.push(scored(2, "cST")), output.push(scored(3, "OP"))]
    assert "".join(delta.content for delta in deltas) == "abc"
    assert tokens_of(deltas) == [[1], [2], []]
    assert output.reason == "stop"


def test_the_token_that_ends_a_turn_is_no_part_of_the_answer() -> None:
    output = ChoiceOutput(())
    deltas = [output.push(scored(1, "a")), output.push(scored(2, "")), output.push(Finish("stop"))]
    assert [one for delta in tokens_of(deltas) for one in delta] == [1]
    assert output.tokens == 2


def test_at_the_limit_every_token_is_told_also_half_a_character() -> None:
    output = ChoiceOutput(())
    deltas = [output.push(scored(1, "a")), output.push(scored(2, "")), output.push(Finish("length"))]
    assert [one for delta in tokens_of(deltas) for one in delta] == [1, 2]


def test_stop_strings_are_none_before_the_least_number_of_tokens() -> None:
    output = ChoiceOutput(("b",), min_tokens=3)
    deltas = [output.push(Token(1, text)) for text in ("a", "b", "c", "b")]
    assert "".join(delta.content for delta in deltas) == "abc"
    assert output.reason == "stop"


def test_a_structured_answer_that_a_stop_string_cuts_does_not_read_as_complete() -> None:
    output = ChoiceOutput((",",), structured=True)
    deltas = [output.push(Token(1, text)) for text in ('{"a": 1', ", ")]
    assert (joined(deltas).content, output.reason) == ('{"a": 1', "length")
    whole = ChoiceOutput((";",), structured=True)
    deltas = [whole.push(Token(1, '{"a": 1}')), whole.push(Finish("stop"))]
    assert (joined(deltas).content, whole.reason) == ('{"a": 1}', "stop")


def test_thoughts_are_counted_and_have_no_stop_strings() -> None:
    output = ChoiceOutput(("b",), thinking=ThinkingParser(inside=True))
    deltas = [output.push(Token(1, text)) for text in ("a", "b", "</think>", "c", "b")]
    whole = joined(deltas)
    assert (whole.reasoning, whole.content, output.reason) == ("ab", "c", "stop")
    assert (output.tokens, output.reasoning_tokens) == (5, 3)


def test_the_mean_log_probability_is_by_token() -> None:
    output = ChoiceOutput(())
    for token in (1, 2, 3):
        output.push(scored(token, "x"))
    assert output.mean_logprob() == -2.0
