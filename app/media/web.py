"""Downloading a medium: by HTTP, redirects followed by hand, bytes counted as they come, no ambient secrets.

requests is told nothing by the environment: no proxy, no netrc, no cookies. Only the last answer's body is
read. A server that drips is stopped
from outside (`Lines.cut`), since a limit on a single read never ends a header that comes byte by byte.
"""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from app.errors import InvalidRequest
from app.media import guard
from app.media.body import Body, Budget
from app.media.kept import Kept

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
BLOCK = 1 << 16
URL_LENGTH = 8192
HEADERS = {"User-Agent": "vlserve", "Accept": "image/*, video/*", "Accept-Encoding": "identity"}
LONGEST_FRESH = 3600
"""Seconds for which a server's max-age is believed at most."""
TAG_LENGTH = 256
"""Characters of what a server wants to be asked with; a longer one is not kept."""


class Lines:
    """The open connections of a request, which can be cut from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False

    @contextlib.contextmanager
    def known(self) -> Iterator[Callable[[socket.socket], None]]:
        """What is to be told of each connection that is made within the block, before it connects, and
        raises OSError if all are cut.
        """
        mine: set[socket.socket] = set()

        def add(line: socket.socket) -> None:
            with self._lock:
                self.check()
                copy = line.dup()  # TLS takes the socket itself over
                mine.add(copy)
                self._open.add(copy)

        try:
            yield add
        finally:
            with self._lock:
                self._open -= mine
            for copy in mine:
                copy.close()

    def check(self) -> None:
        """Raise OSError if all are cut."""
        if self._is_cut:
            raise OSError("nobody waits for this any more")

    def cut(self) -> None:
        """End all connections, now and from now on: whoever reads from one gets an error."""
        with self._lock:
            self._is_cut = True
            for line in self._open:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Stored:
    """A medium as a server gave it: until when it is good, and how to ask whether it still is."""

    data: bytes
    fresh_until: float
    asks: Mapping[str, str]


@dataclass
class Web:
    """Downloads over HTTP. `domains` may be internal: hosts, or host:port."""

    domains: frozenset[str] = frozenset()
    redirects: int = 5
    resolve: guard.Resolver = socket.getaddrinfo
    stored: Kept[str, Stored] = field(
        default_factory=lambda: Kept(64 * 2**20, lambda one: len(one.data) + URL_LENGTH)
    )

    def download(self, url: str, param: str, budget: Budget, lines: Lines) -> Body:
        """What a URL gives; raises InvalidRequest that says why it cannot be had."""
        import requests
        import urllib3

        try:
            return self._follow(url, param, budget, lines)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            cut = "ended too early" if "IncompleteRead" in str(error) else "could not be made or broke"
            raise InvalidRequest(f"The download {cut}.", param=param, code="media_download_failed") from None

    def _follow(self, url: str, param: str, budget: Budget, lines: Lines) -> Body:
        for _ in range(self.redirects + 1):
            known = self.stored.get(url)
            if known is not None and time.monotonic() < known.fresh_until:
                return Body.of(known.data, param, budget)
            with self._got(url, param, lines, known.asks if known is not None else {}) as answer:
                if answer.status_code == 304 and known is not None and known.asks:
                    self._store(url, known.data, answer.headers, known)
                    return Body.of(known.data, param, budget)
                if answer.status_code in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    # Headers are read as Latin-1, and servers write UTF-8.
                    url = urljoin(url, answer.headers["Location"].encode("latin-1").decode())
                    continue
                body = _read(answer, param, budget)
                if (data := body.in_memory()) is not None:
                    self._store(url, data, answer.headers, None)
                return body
        raise InvalidRequest(
            f"The URL redirects more than {self.redirects} times.", param=param, code="media_download_failed"
        )

    def _store(self, url: str, data: bytes, headers: Mapping[str, str], before: Stored | None) -> None:
        """Keep an answer: asked about each time, unless its server says how long it is good."""
        names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
        asks = {
            ask: headers[name] for name, ask in names.items() if 0 < len(headers.get(name, "")) <= TAG_LENGTH
        }
        control = headers.get("Cache-Control", "").lower()
        if "no-store" in control or headers.get("Vary") == "*":
            return
        age = re.search(r"\bmax-age=(\d{1,9})", control)
        fresh = 0 if age is None or "no-cache" in control else min(int(age[1]), LONGEST_FRESH)
        if fresh or asks or before:
            asks = asks or dict(before.asks if before else {})
            self.stored.put(url, Stored(data, time.monotonic() + fresh, asks))

    @contextlib.contextmanager
    def _got(self, url: str, param: str, lines: Lines, asks: Mapping[str, str]) -> Iterator[Any]:
        """The answer to a GET, its body not read yet."""
        import requests

        check_url(url, param)
        asked = requests.Request("GET", url, headers=HEADERS | dict(asks)).prepare()
        # No Session: it reads a redirect's body whole, unzipped, also when it is not to follow.
        with (
            lines.known() as know,
            contextlib.closing(self._adapter(param, lines, know)) as adapter,
            adapter.send(asked, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer,
        ):
            yield answer

    def _adapter(self, param: str, lines: Lines, know: Callable[[socket.socket], None]) -> Any:
        """What connects for requests, and only where the guard lets it."""
        from requests.adapters import HTTPAdapter
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
        from urllib3.exceptions import NewConnectionError

        web = self

        class Guarded:
            def _new_conn(self: Any) -> socket.socket:
                # The host as it will be connected to: no other parser's opinion of the URL counts.
                host = self.host.strip("[]").lower()
                try:
                    line = guard.connect(
                        self._dns_host.strip("[]"),
                        self.port,
                        CONNECT_SECONDS,
                        param,
                        internal=bool(web.domains & {host, f"{host}:{self.port}"}),
                        resolve=web.resolve,
                        know=know,
                    )
                    try:
                        lines.check()  # cut after it was known and before it connected, it would go on
                    except OSError:
                        line.close()
                        raise
                except OSError as error:  # as it is, urllib3 passes over some and goes on without a socket
                    raise NewConnectionError(self, str(error)) from error
                line.settimeout(READ_SECONDS)
                return line

        plain = type("Plain", (Guarded, HTTPConnection), {})
        secure = type("Secure", (Guarded, HTTPSConnection), {})
        adapter = HTTPAdapter(max_retries=0)
        adapter.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        return adapter


def check_url(url: str, param: str) -> None:
    """Raise InvalidRequest for a URL that is not plainly http or https to a host."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and parts.username is None and parts.password is None
    except ValueError:
        good = False
    # Parsers differ on these characters: what one takes for the host is a path for another.
    if not good or len(url) > URL_LENGTH or re.search(r"[\x00-\x20\x7f\\]", url):
        raise InvalidRequest(
            "The URL, or one that it redirects to, is no plain http or https URL without user and password.",
            param=param,
            code="invalid_media_url",
        )


def _read(answer: Any, param: str, budget: Budget) -> Body:
    if answer.status_code != 200:
        raise InvalidRequest(
            f"The URL's server answered {answer.status_code}.", param=param, code="media_download_failed"
        )
    if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise InvalidRequest(
            "The URL's server sent a compressed body, which was not asked for.",
            param=param,
            code="media_download_failed",
        )
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal():
        budget.check(int(length[:20]), param)  # early; what counts is what comes
    with contextlib.ExitStack() as held:
        body = held.enter_context(contextlib.closing(Body(param, budget)))
        while block := answer.raw.read(BLOCK, decode_content=False):
            body.write(block)
        held.pop_all()
        return body
