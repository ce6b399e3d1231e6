"""From one choice's tokens to what may be shown of it: thoughts, answer, tool calls, log probabilities."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.engine.types import Finish, FinishReason, Logprobs, Token
from app.services.thinking import ThinkingParser
from app.services.tools import ToolDelta, ToolParser


@dataclass(frozen=True)
class Scored:
    """A token with its log probabilities; `start` is where its text begins, in characters of the answer."""

    token: int
    start: int
    logprobs: Logprobs | None


@dataclass(frozen=True)
class Delta:
    """What is new in a choice."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolDelta, ...] = ()
    scored: tuple[Scored, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls or self.scored)


def joined(deltas: Iterable[Delta]) -> Delta:
    """Deltas one after another."""
    every = list(deltas)
    return Delta(
        "".join(delta.content for delta in every),
        "".join(delta.reasoning for delta in every),
        tuple(call for delta in every for call in delta.calls),
        tuple(scored for delta in every for scored in delta.scored),
    )


class ChoiceOutput:
    """One choice as it comes; `reason` says why it ended, once it has. Stop strings are looked for in the
    answer, not in thoughts and calls, and not before `min_tokens`. A `structured` answer that one cuts is not
    complete, and ends with `length`.
    """

    def __init__(
        self,
        stops: tuple[str, ...],
        *,
        min_tokens: int = 0,
        thinking: ThinkingParser | None = None,
        tools: ToolParser | None = None,
        structured: bool = False,
    ) -> None:
        self._structured = structured
        self._stops, self._min_tokens = StopStrings(stops), min_tokens
        self._thinking, self._tools = thinking, tools
        self._scored: list[Scored] = []  # of text that is held back
        self._length = 0  # characters so far
        self.tokens = self.reasoning_tokens = 0
        self.score = 0.0  # the sum of log probabilities
        self.reason: FinishReason | None = None

    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.reason is not None

    def push(self, event: Token | Finish) -> Delta:
        """Take the next event; nothing may come after the end."""
        if isinstance(event, Token):
            self._count(event)
        elif event.reason == "stop" and self._scored and self._scored[-1].start == self._length:
            self._scored.pop()  # the token that says stop has no text and is no part of the answer
        reasoning, content = self._split(event)
        content, calls = self._without_calls(content, event)
        content = self._stops.push(content) if self.tokens >= self._min_tokens else content
        if isinstance(event, Finish):
            content += self._stops.flush()
            self.reason = event.reason
        self._length += len(event.text)
        if self._stops.found:
            self.reason = "length" if self._structured else "stop"
            end = self._length - self._stops.cut
            self._scored = [one for one in self._scored if one.start < end]
        if self._tools is not None:
            if self.reason == "stop" and self._tools.is_within():
                self.reason = "length"  # the model ended within a call, which must not read as complete
            elif self._tools.calls and (self.reason == "stop" or self._tools.done):
                self.reason = "tool_calls"  # also where a stop string came after them
        scored: tuple[Scored, ...] = ()
        if content or reasoning or calls or self.reason:
            scored, self._scored = tuple(self._scored), []
        return Delta(content, reasoning, calls, scored)

    def mean_logprob(self) -> float:
        """How likely the choice is, by token (nats)."""
        return self.score / max(self.tokens, 1)

    def _count(self, event: Token) -> None:
        self.tokens += 1
        if self._thinking is not None and self._thinking.inside:
            self.reasoning_tokens += 1
        if event.logprobs is not None:
            self.score += event.logprobs.logprob
            self._scored.append(Scored(event.id, self._length, event.logprobs))

    def _without_calls(self, text: str, event: Token | Finish) -> tuple[str, tuple[ToolDelta, ...]]:
        if self._tools is None:
            return text, ()
        parsed = self._tools.push(text)
        if not isinstance(event, Finish):
            return parsed.content, parsed.calls
        last = self._tools.finish(event.reason == "length")
        return parsed.content + last.content, parsed.calls + last.calls

    def _split(self, event: Token | Finish) -> tuple[str, str]:
        if self._thinking is None:
            return "", event.text
        reasoning, content = self._thinking.push(event.text)
        if isinstance(event, Finish):
            last = self._thinking.finish()
            reasoning, content = reasoning + last[0], content + last[1]
        return reasoning, content


class StopStrings:
    """Passes text on, except what is, or could still become, one of the stop strings."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        self.cut = 0  # characters from the stop string's first to the last that was pushed

    def push(self, text: str) -> str:
        """Take new text; returns what can be shown now. After `found`, nothing more is."""
        if self.found or not self._stops:
            return "" if self.found else text
        self._held += text
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.found = True
            _, place = min(found)  # what ends first was there first, however tokens cut the text
            shown, self.cut, self._held = self._held[:place], len(self._held) - place, ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of an answer that did not stop."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that begins the stop string."""
    return next(
        (size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0
    )
