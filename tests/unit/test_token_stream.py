"""The pipe between generate() and a response: text as the tokenizer decodes it, never half a character."""

import pathlib
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from app.engine.stream import HELD_TOKENS, SHOWN, Asked, Choices, TokenStream
from app.engine.types import Event, Finish, Idle, PromptInfo, Token
from app.errors import GenerationFailed

assert tiny_models
STOP = 3
REPLACEMENT = "\ufffd"


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def tokenizer(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny(request.param))


def stream_of(tokenizer: Any, ids: Iterable[int], stop_ids: frozenset[int] = frozenset()) -> TokenStream:
    """A stream that has taken a prompt and these tokens."""
    stream = TokenStream(tokenizer, stop_ids)
    stream.put(torch.tensor([[5, 6]]))
    for token in ids:
        stream.put(torch.tensor([token]))
    return stream


def text_of(tokenizer: Any, ids: Iterable[int]) -> str:
    stream = stream_of(tokenizer, ids)
    stream.end()
    return "".join(event.text for event in stream if not isinstance(event, Idle))


def byte_ids_of(tokenizer: Any) -> dict[int, int]:
    """The token of each single byte."""
    return {byte: tokenizer.convert_tokens_to_ids(letter) for byte, letter in bytes_to_unicode().items()}


TEXTS = [
    "Hello, world! The picture shows a red circle.",
    "这张图片里有一个红色的圆形。天气很好，龘䶮𠜎。",
    "🙂👩‍👩‍👧‍👦🇨🇳👍🏽",
    " leading, double  spaces \n\n and\ttabs ",
    "e\u0301 ﷽ Ω≈ç √∫ \u200f\u2028",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_was_and_never_with_half_a_character(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = stream_of(tokenizer, ids)
    stream.end()
    pieces = [event.text for event in stream if isinstance(event, Token | Finish)]
    assert len(pieces) == len(ids) + 1
    assert not [piece for piece in pieces if REPLACEMENT in piece]
    assert "".join(pieces) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", TEXTS[1:3])
def test_a_text_arrives_byte_by_byte(tokenizer: Any, text: str) -> None:
    byte_ids = byte_ids_of(tokenizer)
    assert text_of(tokenizer, [byte_ids[byte] for byte in text.encode()]) == text


def test_random_tokens_give_what_the_tokenizer_decodes(tokenizer: Any) -> None:
    random = Random(3)
    wrong = []
    added = tokenizer.get_added_vocab()
    usual = [token for token in range(len(tokenizer)) if token not in {added.get(name) for name in SHOWN}]
    for _ in range(1500):
        ids = [random.choice(usual) for _ in range(random.randint(1, 30))]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        if text_of(tokenizer, ids).rstrip(REPLACEMENT) != whole.rstrip(REPLACEMENT):
            wrong.append(ids)
    assert wrong[:3] == []


def test_tokens_that_structure_an_answer_are_shown_also_where_they_are_special(tokenizer: Any) -> None:
    added = tokenizer.get_added_vocab()
    name = next(name for name in SHOWN if name in added)
    half = byte_ids_of(tokenizer)[0xE4]
    ids = [*tokenizer.encode("before", add_special_tokens=False), half, added[name]]
    after = tokenizer.encode("after", add_special_tokens=False)
    assert text_of(tokenizer, [*ids, *after]) == f"before{REPLACEMENT}{name}after"


@pytest.mark.parametrize("count", [1, HELD_TOKENS - 2, HELD_TOKENS - 1, HELD_TOKENS, 3 * HELD_TOKENS])
def test_control_tokens_are_not_shown_and_spoil_nothing(tokenizer: Any, count: int) -> None:
    byte_ids = byte_ids_of(tokenizer)
    control = tokenizer.all_special_ids[0]
    ids = [control] * count + [byte_ids[byte] for byte in "🙂!".encode()]
    assert text_of(tokenizer, ids) == "🙂!"


def test_bytes_that_never_become_a_character_are_shown_after_a_while(tokenizer: Any) -> None:
    broken = byte_ids_of(tokenizer)[0xFF]
    stream = stream_of(tokenizer, [broken] * HELD_TOKENS)
    events = iter(stream)
    shown = "".join(event.text for _ in range(HELD_TOKENS) if isinstance(event := next(events), Token))
    assert set(shown) == {REPLACEMENT}


def test_a_character_that_the_limit_cut_is_dropped(tokenizer: Any) -> None:
    byte_ids = byte_ids_of(tokenizer)
    for size in (1, 2, 3):
        ids = [byte_ids[byte] for byte in b"ok" + "🙂".encode()[:size]]
        assert text_of(tokenizer, ids) == "ok"


def events_of(stream: TokenStream) -> list[Event]:
    return [event for event in stream if not isinstance(event, Idle)]


def test_the_prompt_is_skipped_and_a_stop_token_has_no_text(tokenizer: Any) -> None:
    (token,) = tokenizer.encode("a", add_special_tokens=False)
    stream = stream_of(tokenizer, [token, STOP], frozenset({STOP}))
    stream.end()
    assert events_of(stream) == [Token(token, "a"), Token(STOP, ""), Finish("stop")]


def test_without_a_stop_token_the_limit_was_reached(tokenizer: Any) -> None:
    stream = stream_of(tokenizer, [STOP], frozenset({99}))
    stream.end()
    assert events_of(stream)[-1] == Finish("length")


def test_what_the_thread_raised_reaches_the_reader_after_the_tokens_before_it(tokenizer: Any) -> None:
    stream = stream_of(tokenizer, tokenizer.encode("a", add_special_tokens=False))
    error = GenerationFailed("broken")
    stream.fail(error)
    events = iter(stream)
    assert isinstance(next(events), Token)
    with pytest.raises(GenerationFailed) as caught:
        next(events)
    assert caught.value is error


def test_a_silent_stream_is_idle(tokenizer: Any) -> None:
    stream = TokenStream(tokenizer, frozenset())
    assert next(iter(stream)) == Idle()


def test_cancel_is_told_once_and_for_all(tokenizer: Any) -> None:
    told: list[None] = []
    stream = TokenStream(tokenizer, frozenset(), on_cancel=lambda: told.append(None))
    assert not stream.is_cancelled()
    stream.cancel()
    stream.cancel()
    assert stream.is_cancelled()
    assert told


def test_a_reader_in_another_thread_gets_all_in_order(tokenizer: Any) -> None:
    ids = tokenizer.encode(TEXTS[0] * 5, add_special_tokens=False)
    stream = TokenStream(tokenizer, frozenset())
    got: list[Event] = []
    reader = threading.Thread(target=lambda: got.extend(events_of(stream)))
    reader.start()
    stream.put(torch.tensor([[5, 6]]))
    for token in ids:
        stream.put(torch.tensor([token]))
    stream.end()
    reader.join(20)
    assert [event.id for event in got if isinstance(event, Token)] == ids


def test_a_prompt_was_known_as_far_as_the_first_of_its_choices_found_it(tokenizer: Any) -> None:
    streams = [TokenStream(tokenizer, frozenset(), choice=choice) for choice in range(3)]
    choices = Choices([Asked(PromptInfo(tuple(range(100))), streams)], SimpleQueue())
    assert choices.prompts()[0].cached_tokens == 0
    for stream, known in zip(streams[1:], (10, 99), strict=True):  # the last copies what the one before made
        stream.cached_tokens, stream.waited = known, 0.0
    assert choices.prompts()[0].cached_tokens == 10
