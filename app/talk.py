"""A conversation with a running server, and the screen that shows it."""

import base64
import contextlib
import mimetypes
import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from app.client import CallError, Remote, shown

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
LONGEST_FILE = 512 * 2**20  # bytes; the server's own limit is lower, and it says so


@dataclass
class Screen:
    """Where answers are written; thoughts are dim on a terminal that can."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    thinking: bool = False
    last: str = "\n"

    @property
    def can_dim(self) -> bool:
        return self.out.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")

    def write(self, text: str, *, thought: bool = False) -> None:
        """A piece of an answer or of a thought, as it comes."""
        if text := shown(text):
            if thought != self.thinking:
                start = "" if self.last == "\n" else "\n"
                self._put(start + (DIM * self.can_dim if thought else PLAIN * self.can_dim))
                if not self.can_dim:
                    self._put("[thinking]\n" if thought else "[answer]\n")
                self.thinking = thought
            self._put(text)
            self.last = text[-1]

    def line(self, text: str) -> None:
        """A line of our own, after whatever was begun."""
        self._put(PLAIN * (self.thinking and self.can_dim) + "\n" * (self.last != "\n"))
        self.thinking, self.last = False, "\n"
        if text:
            self._put(f"{DIM}{text}{PLAIN}\n" if self.can_dim else f"{text}\n")

    def _put(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


@dataclass
class Talk:
    """A conversation with a server, and what will go with the next message."""

    server: Remote
    model: str
    screen: Screen
    options: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    attached: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> bool:
        """Send a message and show its answer; whether there was a whole one. Ctrl-C keeps what had come."""
        content: Any = [*self.attached, {"type": "text", "text": text}] if self.attached else text
        self.messages.append({"role": "user", "content": content})
        answer: list[str] = []
        stopped = False
        try:
            self._receive(answer)
        except KeyboardInterrupt:
            stopped = True
            self.screen.line("(stopped)")
        except CallError as failure:
            self.screen.line(f"error: {failure}")
            if failure.code == "context_length_exceeded" and len(self.messages) > 1:
                self.screen.line("reset forgets the conversation and makes room")
            elif self.attached and failure.kind[:3] in ("400", "413"):
                # Most likely for a file: kept, it would spoil the next message as well.
                self.attached = []
                self.screen.line("the files are put away; show them again if they were not the reason")
            self.messages.pop()  # what is still attached goes with the next try
            return False
        if stopped and not any(answer):
            self.messages.pop()
            return False
        self.attached = []
        self.messages.append({"role": "assistant", "content": "".join(answer)})
        return not stopped

    def _receive(self, answer: list[str]) -> None:
        begun, first, tokens, reason = time.monotonic(), 0.0, 0, ""
        with contextlib.closing(self.server.events("/v1/chat/completions", self._body())) as events:
            for event in events:
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                for choice in event.get("choices") or []:
                    delta = choice.get("delta") or {}
                    reason = choice.get("finish_reason") or reason
                    thought, text = delta.get("reasoning_content"), delta.get("content")
                    if (thought or text) and not first:
                        first = time.monotonic()
                    self.screen.write(thought or "", thought=True)
                    self.screen.write(text or "")
                    answer.append(text or "")
        self.screen.line("")
        cut = ", cut by the limit of tokens" if reason == "length" else ""
        if tokens and first and (cut or self.screen.can_dim):
            speed = f", {(tokens - 1) / (time.monotonic() - first):.0f} a second" if tokens > 1 else ""
            self.screen.line(f"{tokens} tokens, the first after {first - begun:.2f} s{speed}{cut}")

    def _body(self) -> dict[str, Any]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "messages": [*first, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body | ({"model": self.model} if self.model else {}) | self.options

    def attach(self, kind: str, paths: str, *, told: bool = True) -> bool:
        """Keep files, or addresses that the server fetches, for the next message; whether all were there."""
        for path in _paths(paths):
            try:
                url = path if path.startswith(("http://", "https://", "data:")) else _data_url(kind, path)
            except OSError as error:
                self.screen.line(f"{path}: {error.strerror or error}")
                return False
            self.attached.append({"type": f"{kind}_url", f"{kind}_url": {"url": url}})
            if told:
                self.screen.line(f"{path} goes with the next message")
        return True

    def think(self, wish: str) -> None:
        """Ask for thoughts, or for none, from the next message on."""
        if wish in ("on", "off"):
            self.options["enable_thinking"] = wish == "on"
        elif wish:
            self.screen.line(f"/think {wish}: it is /think on or /think off")
            return
        state = self.options.get("enable_thinking")
        self.screen.line(
            f"thinking is {'as the model has it' if state is None else 'on' if state else 'off'}"
        )

    def reset(self) -> None:
        """Forget what was said, and what was attached."""
        self.messages, self.attached = [], []
        self.screen.line("the conversation is forgotten")

    def status(self) -> None:
        """What the server says of itself, and how long this conversation is."""
        self.screen.line(f"server     {self.server.url}, model {self.model or 'its own'}")
        try:
            found = self.server.call("GET", "/status")
            memory = found["memory_allocated"] / 1e6
            state = f"on {found['device']}, {memory:.0f} MB of weights" if memory else "not loaded yet"
            self.screen.line(f"default    {shown(str(found['model_name']))}, {state}")
            self.screen.line(f"answers    {found['running']} running, {found['waiting']} waiting")
        except CallError as failure:
            self.screen.line(f"error: {failure}")
        except (KeyError, TypeError):
            pass  # another server with OpenAI's API
        self.screen.line(f"messages   {len(self.messages)}, {len(self.attached)} files with the next one")


def default_model(server: Remote) -> str:
    """The model that the server takes if none is named, for servers that want one named as well."""
    try:
        return str(server.call("GET", "/status")["model_name"])
    except (CallError, KeyError, TypeError) as failure:
        if isinstance(failure, CallError) and not failure.kind.startswith("404"):
            raise
    listed = server.call("GET", "/v1/models")
    found = listed.get("data") if isinstance(listed, dict) else None
    return str(found[0].get("id", "")) if found else ""


def _data_url(kind: str, path: str) -> str:
    """A file as a data: URL; raises OSError."""
    file = Path(path.removeprefix("file://")).expanduser()
    if file.stat().st_size > LONGEST_FILE:
        raise OSError(f"the file has more than {LONGEST_FILE >> 20} MiB")
    usual = {"image": "image/png", "video": "video/mp4"}[kind]
    guessed = mimetypes.guess_type(file.name)[0] or usual
    name = guessed if guessed.startswith(kind) else usual
    return f"data:{name};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _paths(text: str) -> list[str]:
    """One path with blanks as it is, if there is such a file; else as a shell reads them, quotes and all."""
    if Path(text).expanduser().exists():
        return [text]
    try:
        return shlex.split(text)
    except ValueError:
        return [text]
