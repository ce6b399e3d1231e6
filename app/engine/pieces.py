"""What single tokens stand for: the bytes of their text."""

import json
import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece vocabularies write a token that is one byte."""


class TokenBytes:
    """Bytes of the tokens of one tokenizer, byte-level (Qwen, Llama 3) or SentencePiece's (Llama 2)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = frozenset(tokenizer.get_added_vocab().values())
        decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")
        self._bytes: dict[str, int] = {}
        if '"ByteLevel"' in json.dumps(decoder):
            self._bytes = {letter: byte for byte, letter in bytes_to_unicode().items()}

    def __call__(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character; none for an id that is no token."""
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        text = str(piece)
        if token in self._added:
            return text.encode()
        if self._bytes:
            return bytes(self._bytes[letter] for letter in text if letter in self._bytes)
        if one := BYTE.fullmatch(text):
            return bytes.fromhex(one.group(1))
        return text.replace("\u2581", " ").encode()
