"""Tokens are told by their bytes, in both of the usual kinds of vocabulary."""

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import transformers
from tokenizers import Tokenizer, decoders, models

from app.engine.pieces import TokenBytes

assert tiny_models
TEXT = "Hello, world! 你好 🙂"


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_bytes_of_tokens_are_those_of_the_text(tiny: Callable[[str], pathlib.Path], family: str) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny(family))
    bytes_of = TokenBytes(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(map(bytes_of, ids)).decode() == TEXT


def test_a_special_token_is_its_name(tiny: Callable[[str], pathlib.Path]) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny("qwen3"))
    (name, token), *_ = tokenizer.get_added_vocab().items()
    assert TokenBytes(tokenizer)(token) == name.encode()


def test_an_id_that_is_no_token_has_no_bytes(tiny: Callable[[str], pathlib.Path]) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny("qwen3"))
    assert TokenBytes(tokenizer)(10**8) == b""


def test_sentencepiece_writes_spaces_and_bytes_its_own_way() -> None:
    vocabulary = {"<unk>": 0, "\u2581Hello": 1, "<0xE4>": 2, "you": 3}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback()])
    bytes_of = TokenBytes(transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))
    assert [bytes_of(token) for token in (1, 2, 3)] == [b" Hello", b"\xe4", b"you"]
