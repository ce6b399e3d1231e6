"""Thoughts told apart from the answer, while both stream: what is in <think> … </think> is reasoning."""

OPEN, CLOSE = "<think>", "</think>"


class ThinkingParser:
    """Splits a choice's text; `inside` says that the prompt has opened a thought already.

    A thought is only what the text begins with; a <think> later on is part of the answer. Blank space around
    both is not passed on.
    """

    def __init__(self, inside: bool = False) -> None:
        self.inside = inside
        self._state = "thought" if inside else "start"
        self._held = ""
        self._fresh = True  # nothing of the current part has been shown

    def push(self, text: str) -> tuple[str, str]:
        """Take new text; returns what of it is reasoning and what is answer, as far as that is clear."""
        if self._state == "answer" and not self._fresh:
            return "", text
        self._held += text
        if self._state == "start":
            start = self._held.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                return "", ""  # blank space, or what may become the tag
            self.inside = start.startswith(OPEN)
            self._state = "thought" if self.inside else "answer"
            # Blank space before an answer without a thought is the model's own.
            self._fresh = self.inside
            if self.inside:
                self._held = start.removeprefix(OPEN)
        reasoning = self._thought() if self._state == "thought" else ""
        return reasoning, self._answer() if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        if self._state == "thought":
            return rest.rstrip(), ""
        return "", rest if self._state == "start" or not self._fresh else ""

    def _thought(self) -> str:
        if self._fresh:
            self._held = self._held.lstrip()
        before, tag, after = self._held.partition(CLOSE)
        if tag:
            self._state, self.inside, self._fresh, self._held = "answer", False, True, after
            return before.rstrip()
        keep = next(size for size in range(len(CLOSE) - 1, -1, -1) if before.endswith(CLOSE[:size]))
        shown = before[: len(before) - keep].rstrip()  # blank space may be the last of the thought
        self._held = before[len(shown) :]
        self._fresh = self._fresh and not shown
        return shown

    def _answer(self) -> str:
        text, self._held = self._held.lstrip() if self._fresh else self._held, ""
        self._fresh = self._fresh and not text
        return text
