"""A server with an OpenAI-like API that answers what a test has written down, and keeps what it was asked."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT = "/v1/chat/completions"
STATUS = {"model_name": "fake", "device": "cpu", "memory_allocated": 0, "running": 0, "waiting": 0}


@dataclass
class FakeServer:
    """`answers` are status and body for each path; a list as body is a stream of events and of raw bytes."""

    url: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=lambda: {"/status": (200, STATUS)})
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def bodies(self, path: str = CHAT) -> list[Any]:
        """What was posted there."""
        return [body for where, _, body in self.requests if where == path]


def event(**delta: Any) -> dict[str, Any]:
    """A chunk of a stream."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def says(
    *texts: str, tokens: int | None = None, prompt: int = 5, reason: str = "stop"
) -> tuple[int, list[Any]]:
    """A whole stream of these texts, with its usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": len(texts) if tokens is None else tokens}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return 200, [event(role="assistant"), *(event(content=text) for text in texts), end,
                 {"choices": [], "usage": usage}, b"data: [DONE]\n\n"]  # fmt: skip


@contextlib.contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A running one, ended with the block."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            fake.requests.append((self.path, dict(self.headers), body))
            status, answer = fake.answers.get(
                self.path, (404, {"error": {"message": "none", "code": "not_found"}})
            )
            self.send_response(status)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):  # a client that left
                for piece in answer if isinstance(answer, list) else [answer]:
                    self.wfile.write(_bytes(piece, isinstance(answer, list)))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join(10)


def _bytes(piece: Any, streamed: bool) -> bytes:
    if isinstance(piece, bytes):
        return piece
    return f"data: {json.dumps(piece)}\n\n".encode() if streamed else json.dumps(piece).encode()
