"""A server between the page and vlserve: it passes everything on, but plays a script where a test has one."""

import functools
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests


def chunk(reason: str | None = None, **delta: str) -> bytes:
    """An event of a streamed completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'model': 'demo', 'choices': [choice]})}\n\n".encode()


def usage(prompt: int = 10, completion: int = 5) -> bytes:
    """The event with the counts of tokens."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return f"data: {json.dumps({'model': 'demo', 'choices': [], 'usage': counts})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def says(*texts: str) -> list[bytes]:
    """A whole answer in these pieces."""
    return [*(chunk(content=text) for text in texts), chunk("stop"), usage(), DONE]


@dataclass
class Stage:
    """What the next answers are, and what was asked."""

    behind: str
    play: Sequence[bytes | threading.Event] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: Callable[[bytes], Iterable[bytes]] = lambda block: [block]
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def plays(
        self, *blocks: bytes | threading.Event, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer chat completions with this from now on."""
        self.play, self.status, self.headers = blocks, status, headers or {}


@contextmanager
def served(behind: str) -> Iterator[Stage]:
    """A stage in front of a server, on a free port."""
    stage = Stage(behind)
    handler = type("StageHandler", (Handler,), {"stage": stage})
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http_server.daemon_threads = True
    stage.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stage
    finally:
        http_server.shutdown()
        thread.join(10)
        http_server.server_close()


@functools.cache
def page_file(url: str) -> requests.Response:
    """A file of the page, which does not change while tests run: each of them loads all."""
    return requests.get(url, timeout=20)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request; `stage` is set by `serve`."""

    stage: Stage

    def do_GET(self) -> None:
        if self.path.startswith("/playground/"):
            self._pass_on(page_file(self.stage.behind + self.path))
            return
        self._pass_on(requests.get(self.stage.behind + self.path, headers=self._headers(), timeout=20))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions" or self.stage.play is None:
            url = self.stage.behind + self.path
            answer = requests.post(url, body, headers=self._headers(), stream=True, timeout=60)
            self._pass_on(answer)
            return
        models = requests.get(self.stage.behind + "/v1/models", headers=self._headers(), timeout=20)
        if not models.ok:  # the key is looked at, as for an answer that is none of a script
            self._pass_on(models)
            return
        self.stage.asked.append(json.loads(body))
        self.send_response(self.stage.status)
        given = {"Content-Type": "text/event-stream", "x-request-id": "req_of_the_stage"} | self.stage.headers
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        for block in self.stage.play:
            if isinstance(block, bytes):
                self._write([block])
            elif not self._wait(block):
                return

    def _pass_on(self, answer: requests.Response) -> None:
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "content-length", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        is_stream = "event-stream" in answer.headers.get("Content-Type", "")
        for block in answer.iter_content(None):
            self._write(self.stage.cut(block) if is_stream else [block])

    def _write(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            self.wfile.write(block)

    def _wait(self, event: threading.Event) -> bool:
        """Until the event; whether the client stayed."""
        deadline = time.monotonic() + 30
        while not event.wait(0.02) and time.monotonic() < deadline:
            try:
                if self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                    self.stage.left.set()
                    return False
            except BlockingIOError:
                continue
        return True

    def _headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests look at what was asked themselves."""
