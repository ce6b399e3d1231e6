"""The streamer of a stream's thread: the pipe from generate() to a response, and several of them read as one.

generate() calls `put` for each token. Whatever its thread raises comes out of the reader's iteration.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import TextIteratorStreamer

from app.engine.sampling import Sampler
from app.engine.types import Event, Finish, FinishReason, Idle, Logprobs, PromptInfo, Token, Wait

TICK = 0.25
"""Seconds without a token after which an iteration yields Idle."""
HELD_TOKENS = 16
"""Tokens that may be held back as the beginning of a character; what is none after so many is shown."""
SHOWN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>")
"""Tokens that structure an answer: they come through as text also where they are special tokens."""

Note = tuple[int, Logprobs | None] | BaseException | None
"""A token; or what the thread raised; or None for its end."""
Notes = SimpleQueue[tuple[int, Note]]
"""What the threads of some choices have to say, each with the choice's number."""


class TokenStream(TextIteratorStreamer):
    """What generate() writes into and a response reads from: tokens, then how it ended.

    TextIteratorStreamer decodes all that it holds at each token, keeps text back until a space, and
    leaves its reader waiting when generate() raises. This one keeps its protocol (put, end, iteration) and
    does neither: each token is decoded once, text waits only for the end of a character, and `fail` reaches
    the reader.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: frozenset[int],
        sampler: Sampler | None = None,
        *,
        choice: int = 0,
        notes: Notes | None = None,
        on_cancel: Callable[[], None] = lambda: None,
        is_complete: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.choice = choice
        # These are known once the sequence has come to the queue, and has had its turn.
        self.queue_position: int | None = None
        self.waited: float | None = None
        self.encoded: float | None = None
        self.cached_tokens = 0
        self.prompt_logprobs: tuple[Logprobs | None, ...] = ()
        self._on_cancel = on_cancel
        self._stop_ids, self._sampler = stop_ids, sampler
        special = set(tokenizer.all_special_ids)
        added = tokenizer.get_added_vocab()
        self._shown = {added[name]: name for name in SHOWN if added.get(name) in special}
        self._silent = frozenset(special - self._shown.keys())
        self._stopped = self._complete = self._ended = False
        self._is_complete = is_complete
        self._held: list[int] = []
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._notes: Notes = SimpleQueue() if notes is None else notes
        self._cancelled = threading.Event()

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, once, which is skipped, then each token as generate() has it."""
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        for token in value.flatten().tolist():
            self._tell((token, None if self._sampler is None else self._sampler.logprobs))

    def end(self) -> None:
        """generate() is through: with a stop token, with a grammar that is complete, or at the limit. Its own
        decoding loops say so themselves; what is said twice counts once.
        """
        if not self._ended:
            self._ended = True
            self._complete = self._is_complete()
            self._tell(None)

    def fail(self, error: BaseException) -> None:
        """The thread's exception, to be raised where the stream is read."""
        self._tell(error)

    def cancel(self) -> None:
        """Stop generate() at its next token, or take it out of the queue."""
        self._cancelled.set()
        self._on_cancel()

    def is_cancelled(self) -> bool:
        """Whether nobody waits for more."""
        return self._cancelled.is_set()

    def event(self, note: Note) -> Token | Finish:
        """What one of its notes says; raises what the thread raised."""
        if isinstance(note, BaseException):
            raise note
        if note is None:
            rest = self._text(self._held) if self._held else ""
            # What is left of a character that the limit cut is no text.
            reason: FinishReason = "stop" if self._stopped or self._complete else "length"
            return Finish(reason, rest.rstrip("\ufffd"), self.choice)
        token, logprobs = note
        self._stopped = token in self._stop_ids
        silent = self._stopped or token in self._silent
        return Token(token, "" if silent else self._decode(token), logprobs, self.choice)

    def __iter__(self) -> Iterator[Event]:
        return _read(self._notes, {self.choice: self})

    def _tell(self, note: Note) -> None:
        self._notes.put((self.choice, note))

    def _decode(self, token: int) -> str:
        if token in self._shown:
            before, self._held = self._text(self._held), []
            self._decoder = DecodeStream(skip_special_tokens=True)
            return before + self._shown[token]
        self._held.append(token)
        text: str | None = self._decoder.step(self.tokenizer.backend_tokenizer, token)
        if text is not None:
            self._held.clear()
        elif len(self._held) >= HELD_TOKENS:
            # No character has so many bytes. Only the last three may still begin one.
            text, tail = self._text(self._held[:-3]), self._held[-3:]
            self._decoder, self._held = DecodeStream(skip_special_tokens=True), []
            text += "".join(self._decode(held) for held in tail)
        return text or ""

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)) if tokens else ""


@dataclass(frozen=True)
class Asked:
    """A request's prompt, and the streams of its choices."""

    info: PromptInfo
    streams: Sequence[TokenStream]


class Choices:
    """The streams of some requests' choices, read as one Generation. `look` is called where there is only
    time to look; what it raises ends the reading.
    """

    def __init__(self, asked: Sequence[Asked], notes: Notes, look: Callable[[], None] = lambda: None) -> None:
        self._asked, self._notes, self._look = asked, notes, look
        self._streams = {stream.choice: stream for one in asked for stream in one.streams}

    def __iter__(self) -> Iterator[Event]:
        return _read(self._notes, self._streams, self._look)

    def prompts(self) -> Sequence[PromptInfo]:
        """The prompt of each request, as far as it is known by now."""
        return [
            replace(
                one.info,
                cached_tokens=_known(one.streams),
                encoded=max(_encoded(one.streams), default=None),
                logprobs=one.streams[0].prompt_logprobs,
            )
            for one in self._asked
        ]

    def waits(self) -> Sequence[Wait]:
        """How each choice queued that has come to its queue."""
        every = [(stream.queue_position, stream.waited) for stream in self._streams.values()]
        return [(position, waited) for position, waited in every if position is not None]

    def cancel(self, choice: int | None = None) -> None:
        """Stop one choice, or all of them."""
        for stream in self._streams.values() if choice is None else [self._streams[choice]]:
            stream.cancel()


def _known(streams: Sequence[TokenStream]) -> int:
    """Tokens of a prompt that were known before it came: those that its other choices found had just been
    computed for the first.
    """
    return min((stream.cached_tokens for stream in streams if stream.waited is not None), default=0)


def _encoded(streams: Sequence[TokenStream]) -> Iterator[float]:
    """What the choices took to encode the prompt's pictures: the first to come does, the others know them."""
    return (stream.encoded for stream in streams if stream.encoded is not None)


def _read(
    notes: Notes, streams: dict[int, TokenStream], look: Callable[[], None] = lambda: None
) -> Iterator[Event]:
    left = len(streams)
    while left:
        try:
            choice, note = notes.get(timeout=TICK)
        except Empty:
            look()
            yield Idle()
            continue
        event = streams[choice].event(note)
        left -= isinstance(event, Finish)
        yield event
