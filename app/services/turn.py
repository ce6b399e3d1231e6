"""A turn of a conversation: it waits for the one before it, takes as much history as fits, answers, is kept.

A turn that failed, or whose client left, leaves the history as it was.
"""

import base64
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from app.engine.media_types import ImagePart
from app.engine.registry import ModelRegistry
from app.engine.types import ChatRequest, Message, Part, TextPart
from app.errors import ApiError, ClientLeft, ContextLengthExceeded, InvalidRequest
from app.services import wire
from app.services.completion import Completion, Completions, Place
from app.services.conversations import Conversations, Picture, Round, Session
from app.services.watch import WATCH_EVERY

MAX_TOKENS = 512
"""Of an answer, where the request does not say; at most half of the context, less where no more fits."""
HISTORY = "history"
"""The `param` of a remembered picture."""


@dataclass(frozen=True)
class Asked:
    """A request of the simple API, with its pictures read."""

    session: Session
    chat: ChatRequest
    pictures: tuple[Picture, ...]

    @property
    def text(self) -> str:
        """The message without its pictures."""
        return "\n".join(part.text for part in self.chat.messages[-1].parts if isinstance(part, TextPart))


class Turns:
    """Starts turns, one at a time for a session, in the order in which they were asked for."""

    def __init__(
        self, completions: Completions, conversations: Conversations, registry: ModelRegistry
    ) -> None:
        self._completions = completions
        self._conversations = conversations
        self._registry = registry
        self._queues = SessionQueues()

    def start(
        self, session: Session, chat: ChatRequest, client_left: Callable[[], bool] = lambda: False
    ) -> "Turn":
        """A turn whose answer is being generated; `chat` has the new message only. Raises what
        Completions.start raises, and Unavailable where the history cannot be read.
        """
        with contextlib.ExitStack() as held:
            place = self._completions.enter(client_left)
            held.callback(place.ticket.release)
            asked = Asked(
                session, chat, self._pictures(chat, place.watch)
            )  # what is wrong with it need not wait
            held.enter_context(self._queues.turn(session, place.watch))
            lease = self._registry.get(chat.model, watch=place.watch)
            held.callback(lease.release)
            rounds = self._conversations.rounds(session)
            completion, used = self._begin(asked, rounds, lease.engine.context_length, place)
            held.callback(completion.close)
            return Turn(asked, used, completion, self._conversations, client_left, held.pop_all())

    def forget(self, session: Session, client_left: Callable[[], bool] = lambda: False) -> bool:
        """Delete a session when the turns before this have ended; whether there was one."""
        with contextlib.ExitStack() as held:
            place = self._completions.enter(client_left)
            held.callback(place.ticket.release)
            held.enter_context(self._queues.turn(session, place.watch))
            return self._conversations.forget(session)

    def _pictures(self, chat: ChatRequest, watch: Callable[[], None]) -> tuple[Picture, ...]:
        """The new pictures as bytes: what an address shows may be something else in the next turn."""
        found = []
        with self._completions.media.read(chat.messages, watch) as media:
            for medium in media:
                if medium.kind != "image":
                    raise InvalidRequest(
                        "A conversation keeps pictures only, no video; /v1/chat/completions takes those.",
                        param=medium.part.param,
                        code="invalid_image",
                    )
                found.append(Picture(medium.bodies[0].read(), medium.pixels))
        return tuple(found)

    def _begin(
        self, asked: Asked, rounds: list[Round], context_length: int, place: Place
    ) -> tuple[Completion, list[Round]]:
        """Start the completion with as many of the rounds as fit, the newest ones; and those rounds."""
        max_tokens: int | None = asked.chat.max_tokens or max(1, min(MAX_TOKENS, context_length // 2))
        rounds = self._with_pictures(rounds, asked)
        rounds = _without_oldest(rounds, _tokens(rounds) + (max_tokens or 0) - context_length)
        while True:
            try:
                return self._completions.start(_prompt(asked, rounds, max_tokens), place=place), rounds
            except ContextLengthExceeded as error:
                if rounds:
                    rounds = _without_oldest(rounds, max(1, error.excess))
                elif max_tokens is not None and asked.chat.max_tokens is None:
                    max_tokens = None  # nobody asked for so many: what still fits will do
                else:
                    raise
            except InvalidRequest as error:
                if error.param != HISTORY:
                    raise
                # Another model, or a lower limit, since they were taken: they must not block the session.
                rounds = [replace(one, pictures=()) for one in rounds]

    def _with_pictures(self, rounds: list[Round], asked: Asked) -> list[Round]:
        """The rounds, and of their pictures the newest that a request may have beside the new ones."""
        media = self._completions.media
        count = media.most_pictures - len(asked.pictures)
        pixels = media.total_pixels - sum(picture.pixels for picture in asked.pictures)
        kept: deque[Round] = deque()
        for one in reversed(rounds):
            count -= len(one.pictures)
            pixels -= sum(picture.pixels for picture in one.pictures)
            kept.appendleft(one if min(count, pixels) >= 0 else replace(one, pictures=()))
        return list(kept)


class Turn:
    """One answer while it is made, and its place in the conversation. It must be closed, read or not;
    reading it to the end closes it.
    """

    def __init__(
        self,
        asked: Asked,
        history: list[Round],
        completion: Completion,
        conversations: Conversations,
        client_left: Callable[[], bool],
        held: contextlib.ExitStack,
    ) -> None:
        self._asked = asked
        self._history = history
        self._completion = completion
        self._conversations = conversations
        self._client_left = client_left
        self._held = held

    def collect(self) -> dict[str, Any]:
        """The whole answer, kept; raises what Completion.collect raises, and Unavailable if it cannot be."""
        with self._held:
            body = self._completion.collect()
            (choice,) = body["choices"]
            return self._keep(choice["message"].get("content") or "", choice["finish_reason"], body["usage"])

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Pieces of the answer as they come, None when there is nothing to say; last the whole answer, kept,
        or an error.
        """
        text: list[str] = []
        usage: dict[str, Any] | None = None
        reason, failed = "stop", False
        with self._held:
            yield {"session_id": self._asked.session.name, "delta": ""}
            for chunk in self._completion.events():
                if chunk is None:
                    yield None
                    continue
                if "error" in chunk:
                    failed = True
                    yield {"error": chunk["error"]["message"]}
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", ()):
                    reason = choice["finish_reason"] or reason
                    if piece := choice["delta"].get("content"):
                        text.append(piece)
                        yield {"delta": piece}
            if not failed:
                try:
                    yield self._keep("".join(text), reason, usage or {})
                except ApiError as problem:
                    yield wire.plain_error(problem)

    def close(self) -> None:
        """Stop what still runs and let the session's next turn begin; harmless when called again."""
        self._held.close()

    def _keep(self, answer: str, reason: str, usage: dict[str, Any]) -> dict[str, Any]:
        if self._client_left():
            raise ClientLeft
        thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        # Thinking is in no later prompt. The prompt had the history, whose tokens are known.
        tokens = usage["total_tokens"] - thought - _tokens(self._history)
        made = Round(self._asked.text, answer, max(1, tokens), self._asked.pictures)
        if answer or reason == "stop":  # else a thought took all of the limit
            self._conversations.add(self._asked.session, made)
        return {
            "message": self._asked.text,
            "response": answer,
            "status": "success",
            "session_id": self._asked.session.name,
            "finish_reason": reason,
        }


class SessionQueues:
    """A queue for each session that has a turn; whoever waits can leave."""

    def __init__(self) -> None:
        self._queues: dict[Session, deque[object]] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, session: Session, watch: Callable[[], None]) -> Iterator[None]:
        """Hold the session's turn. `watch` is called a few times a second while that is another's, and may
        raise.
        """
        ticket = object()
        with self._changed:
            queue = self._queues.setdefault(session, deque())
            queue.append(ticket)
        try:
            with self._changed:
                while queue[0] is not ticket:
                    watch()
                    self._changed.wait(WATCH_EVERY)
            yield
        finally:
            with self._changed:
                queue.remove(ticket)
                if not queue:
                    del self._queues[session]
                self._changed.notify_all()


def _prompt(asked: Asked, rounds: list[Round], max_tokens: int | None) -> ChatRequest:
    """The request that a model gets: the rounds, then the new message, its pictures as they were read."""
    messages: list[Message] = []
    for one in rounds:
        remembered: list[Part] = [ImagePart(_data_url(picture), HISTORY) for picture in one.pictures]
        messages.append(Message("user", (*remembered, TextPart(one.message))))
        messages.append(Message("assistant", (TextPart(one.response),)))
    pictures = iter(asked.pictures)
    newest = asked.chat.messages[-1]
    parts = tuple(
        replace(part, source=_data_url(next(pictures))) if isinstance(part, ImagePart) else part
        for part in newest.parts
    )
    messages.append(replace(newest, parts=parts))
    return replace(asked.chat, messages=tuple(messages), max_tokens=max_tokens, include_usage=True)


def _data_url(picture: Picture) -> str:
    return f"data:;base64,{base64.b64encode(picture.data).decode('ascii')}"


def _tokens(rounds: list[Round]) -> int:
    return sum(one.tokens for one in rounds)


def _without_oldest(rounds: list[Round], excess: int) -> list[Round]:
    """The rounds without as many of the oldest as have so many tokens, or more."""
    number = 0
    while excess > 0 and number < len(rounds):
        excess -= max(1, rounds[number].tokens)
        number += 1
    return rounds[number:]
