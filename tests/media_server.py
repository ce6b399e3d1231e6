"""A hostile web server on loopback: redirects, drips, bombs and lies, and a record of who asked for what."""

import contextlib
import gzip
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes


@dataclass
class MediaServer:
    """What it serves: bytes by path, beside the paths that misbehave. `asked` are the paths in order."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: MediaServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner, path = self.owner, self.path
        owner.asked.append(path)
        owner.seen.append(dict(self.headers))
        name, _, rest = path[1:].partition("/")
        with contextlib.suppress(OSError):
            if path in owner.files:
                self._file(path)
            else:
                getattr(self, f"_{name.replace('-', '_')}", self._missing)(rest)
        self.close_connection = True

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _file(self, path: str) -> None:
        data, headers = self.owner.files[path], self.owner.headers.get(path, {})
        tag = headers.get("ETag")
        if tag and self.headers.get("If-None-Match") == tag:
            self._head(304, ETag=tag)
            return
        self._head(200, Content_Length=str(len(data)), **headers)
        self.wfile.write(data)

    def _missing(self, _: str) -> None:
        self._head(404, Content_Length="0")

    def _status(self, number: str) -> None:
        self._head(int(number), Content_Length="0")

    def _redirect(self, target: str) -> None:
        self._head(302, Location=target, Content_Length="0")

    def _raw_redirect(self, target: str) -> None:
        """To a place whose bytes stand in the header as they are."""
        self.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + unquote_to_bytes(target))
        self.wfile.write(b"\r\n\r\n")

    def _zipped_redirect(self, target: str) -> None:
        """A redirect with a body that nobody is to read: half a gigabyte of zeros, and then no end."""
        self._head(302, Location=target, Content_Encoding="gzip")
        self._much(gzip.compress(bytes(1 << 24)), 32)

    def _endless_redirect(self, target: str) -> None:
        self._head(302, Location=target)
        self._much(bytes(1 << 20), 512)

    def _endless_error(self, _: str) -> None:
        self._head(404)
        self._much(bytes(1 << 20), 512)

    def _much(self, block: bytes, times: int) -> None:
        for _ in range(times):
            self.wfile.write(block)
        self.owner.stopped.wait(60)

    def _loop(self, number: str) -> None:
        self._head(302, Location=f"/loop/{int(number or 0) + 1}", Content_Length="0")

    def _circle(self, _: str) -> None:
        self._head(302, Location="/circle", Content_Length="0")

    def _endless(self, _: str) -> None:
        self._head(200)
        while not self.owner.stopped.is_set():
            self.wfile.write(b"\x89PNG\r\n\x1a\n" * 8192)

    def _drip(self, _: str) -> None:
        self._head(200, Content_Length="1000000")
        self._slowly(b"\x89PNG\r\n\x1a\n" * 1000)

    def _drip_header(self, _: str) -> None:
        self._slowly(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000)

    def _drip_chunks(self, _: str) -> None:
        self._head(200, Transfer_Encoding="chunked")
        self._slowly(b"1\r\n\x89\r\n" * 1000)

    def _silent(self, _: str) -> None:
        self.owner.stopped.wait(60)

    def _slowly(self, data: bytes) -> None:
        for byte in data:
            if self.owner.stopped.wait(0.25):
                return
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()

    def _long(self, path: str) -> None:
        """More promised than sent."""
        data = self.owner.files[f"/{path}"]
        self._head(200, Content_Length=str(len(data) + 1000))
        self.wfile.write(data)

    def _short(self, path: str) -> None:
        """Less promised than sent."""
        data = self.owner.files[f"/{path}"]
        self._head(200, Content_Length=str(len(data) // 2))
        self.wfile.write(data)

    def _vast(self, _: str) -> None:
        self._head(200, Content_Length=str(10**12))

    def _gzip(self, _: str) -> None:
        data = gzip.compress(bytes(50_000_000))
        self._head(200, Content_Encoding="gzip", Content_Length=str(len(data)))
        self.wfile.write(data)

    def _headers(self, _: str) -> None:
        self._head(200, **{f"X_{number}": "y" * 1000 for number in range(500)})

    def _continue(self, _: str) -> None:
        while not self.owner.stopped.is_set():
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    def _nonsense(self, _: str) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    def _html(self, _: str) -> None:
        page = b"<!DOCTYPE html><html><body><img src='a.png'></body></html>"
        self._head(200, Content_Type="image/png", Content_Length=str(len(page)))
        self.wfile.write(page)


@contextlib.contextmanager
def serving() -> Iterator[MediaServer]:
    """A hostile server on a free port of 127.0.0.1, ended with the block."""
    owner = MediaServer()
    handler = type("Handler", (_Handler,), {"owner": owner})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        owner.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield owner
        finally:
            owner.stopped.set()
            server.shutdown()
            thread.join(10)
