"""Tool calls told apart from the answer, while both stream, in the words that a model was trained on.

Qwen's (Hermes'): <tool_call>{"name": …, "arguments": {…}}</tool_call>, anywhere in the answer. Llama 3.1's:
an answer that begins with {"name": …, "parameters": {…}}, after <|python_tag|> or not; more of them after a
";". A call that is written otherwise (the arguments first, as a string, or none, or in OpenAI's own form) is
read when it is complete. What only looks like a call, or calls a function that is not there, is text.
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from app.engine.types import ToolFormat

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
HEADER = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
LONGEST_HEADER = 400
"""Characters after which what has not become a call will not."""
OTHER_CALL = re.compile(r'\s*\{\s*"(?:name|arguments|parameters|type|id|function)"\s*:')
LONGEST_CALL = 65_536
"""The same for what begins like a call that is written otherwise."""


@dataclass(frozen=True)
class ToolDelta:
    """What is new in the call with this index: its id and name come first, then pieces of its arguments."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Parsed:
    """What a piece of text has made clear: text of the answer, and pieces of calls."""

    content: str = ""
    calls: tuple[ToolDelta, ...] = ()


class ToolParser:
    """Splits a choice's answer. `names` are the functions that may be called; without `parallel`, `done` is
    set after the first call. An answer with `only_calls` has no text. Blank space around calls, and what
    an answer begins with, is no text.
    """

    def __init__(
        self, form: ToolFormat, names: Collection[str], parallel: bool = True, only_calls: bool = False
    ) -> None:
        self._llama, self._names, self._parallel = form == "llama", names, parallel
        self._only_calls, self._fresh = only_calls, True  # nothing but blank space has come yet
        self._state = self._open if self._llama else self._text
        self._held = self._opening = ""  # the tag and the space before it, while it may begin a call
        self._depth, self._quoted, self._escaped = 0, False, False
        self._closing = ""  # the brace that ends the arguments, held back until their call has ended too
        self._braced = False  # the call's own brace has come
        self._found: list[str | ToolDelta] = []
        self.calls = 0
        self.done = False

    def push(self, text: str) -> Parsed:
        """Take new text; returns what is clear by now."""
        self._held += text
        while not self.done and self._held and self._state():
            pass
        return self._parsed()

    def finish(self, cut: bool = False) -> Parsed:
        """What was held back, at the end of the text. Half a call is no call, and no text either where the
        limit has `cut` it; then a call that only lacks its tag is half a call as well.
        """
        whole = self._llama or not cut
        if self._state == self._open and whole and (found := self._read(self._held)):
            self._take(*found)
            self._held = ""
        rest, self._held = self._held, ""
        if self._closing and not cut:
            self._close()
        if self._state == self._open:
            rest = "" if cut and rest.lstrip()[:1] in ("", "{") else self._opening + rest
        if self._state in (self._text, self._open, self._plain):
            self._found.append(rest.rstrip() if self.calls else rest)
        return self._parsed()

    def is_within(self) -> bool:
        """Whether the text has ended within the arguments of a call."""
        return self._state == self._arguments

    def _parsed(self) -> Parsed:
        found, self._found = self._found, []
        content = "".join(one for one in found if isinstance(one, str) and not self._only_calls)
        if self._fresh:
            content = content.lstrip()
            self._fresh = not content
        return Parsed(content, tuple(one for one in found if isinstance(one, ToolDelta)))

    # Each state takes from what is held; it returns whether another look is worth it.

    def _text(self) -> bool:
        before, tag, after = self._held.partition(OPEN)
        if tag:
            shown = before.rstrip()
            self._found.append(shown)
            self._opening = before[len(shown) :] + OPEN
            self._held, self._state = after, self._open
            return True
        # Blank space may be what stands before a call, and the last letters may begin its tag.
        keep = next(size for size in range(len(OPEN) - 1, -1, -1) if self._held.endswith(OPEN[:size]))
        shown = self._held[: len(self._held) - keep].rstrip()
        if shown:
            self._found.append(shown)
            self._held = self._held[len(shown) :]
        return False

    def _open(self) -> bool:
        if self._llama:
            self._held = self._held.lstrip().removeprefix(PYTHON_TAG)
        if header := HEADER.match(self._held):
            name = (_object(f'{{"name": "{header[1]}"}}') or {}).get("name")
            if name in self._names:
                self._found.append(ToolDelta(self.calls, id=f"call_{uuid.uuid4().hex[:24]}", name=name))
                self._held, self._state = self._held[header.end() :], self._arguments
                return True
        block, tag, after = self._held.partition(CLOSE)
        if tag and (found := self._read(block)):
            self._take(*found)
            self._held, self._state = after, self._text
            return True
        begun = self._held.lstrip()
        waits = not begun or begun[0] == "{" or (self._llama and PYTHON_TAG.startswith(begun))
        most = LONGEST_CALL if OTHER_CALL.match(begun) else LONGEST_HEADER
        if waits and not header and not tag and len(begun) < most:
            return False
        self._found.append(self._opening)
        self._state = self._plain if self._llama else self._text
        return True

    def _read(self, block: str) -> tuple[str, str] | None:
        """The name and the arguments of a whole call, however it is written."""
        call = _object(block)
        if call is not None and isinstance(call.get("function"), dict):
            call = call["function"]
        if call is None or not isinstance(call.get("name"), str) or call["name"] not in self._names:
            return None
        given = call.get("arguments", call.get("parameters"))
        if isinstance(given, str):
            given = _object(given or "{}")
        elif given is None:
            given = {}
        return (call["name"], json.dumps(given, ensure_ascii=False)) if isinstance(given, dict) else None

    def _take(self, name: str, arguments: str) -> None:
        self._found.append(ToolDelta(self.calls, arguments, f"call_{uuid.uuid4().hex[:24]}", name))
        self.calls += 1
        self.done = not self._parallel
        self._state = self._text

    def _arguments(self) -> bool:
        for place, letter in enumerate(self._held):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = letter == "\\", letter != '"'
            else:
                self._quoted = letter == '"'
                self._depth += (letter in "{[") - (letter in "}]")
                if self._depth == 0:
                    self._give(place)
                    self._closing, self._held, self._braced = letter, self._held[1:], False
                    self._state = self._end
                    return True
        self._give(len(self._held))
        return False

    def _give(self, count: int) -> None:
        if count:
            self._found.append(ToolDelta(self.calls, self._held[:count]))
        self._held = self._held[count:]

    def _close(self) -> None:
        """The call has ended."""
        if self._closing:
            self._found.append(ToolDelta(self.calls, self._closing))
            self._closing = ""
            self.calls += 1
            self.done = not self._parallel

    def _end(self) -> bool:
        """After the arguments: the brace of the call, then its tag, or what comes instead."""
        rest = self._held.lstrip()
        if rest.startswith("}") and not self._braced:
            rest, self._braced = rest[1:].lstrip(), True
        self._held = rest
        brace = rest.find("}")
        if rest.startswith(",") and not self._braced and (brace > 0 or len(rest) < LONGEST_HEADER):
            self._held = rest[max(brace, 0) :]  # the call has more than a name and arguments
            return brace > 0
        tag = ";" if self._llama else CLOSE
        if self._llama and self._braced:
            self._close()  # its last letter has come
        if not rest or (tag != rest and tag.startswith(rest)):
            return False
        self._close()
        self._held = rest.removeprefix(tag)
        if self._llama:
            self._state = self._open if rest.startswith(tag) else self._plain
        else:
            self._state = self._text
        return True

    def _plain(self) -> bool:
        shown = self._held.rstrip()
        self._found.append(shown)
        self._held = self._held[len(shown) :]
        return False


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, if it is one."""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
