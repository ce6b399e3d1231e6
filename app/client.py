"""The client's end of the API, for the terminal and the load tester: addresses, keys, answers, streams."""

import argparse
import contextlib
import http.client
import json
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.flags import SettingsError
from app.settings import KEY_CHARACTER

CLEARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tabs and line ends: what a server says must not steer a terminal."""


class CallError(Exception):
    """A request that got no good answer; `kind` is short and the same for all of its kind, for counting."""

    def __init__(self, kind: str, message: str, *, code: str = "", connected: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.connected = connected
        """Whether a server was reached at all."""


@dataclass(frozen=True)
class Remote:
    """A running server; `timeout` is in seconds, for the connection and for each wait for the next byte."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 600.0

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; raises CallError."""
        with self._open(method, path, body) as response, _failures():
            return json.loads(response.read())

    def events(self, path: str, body: Any) -> Generator[dict[str, Any], None, None]:
        """The objects of a stream, as they come; raises CallError, also for a stream that ends too early.

        Closing this iterator closes the connection, which cancels the request at the server.
        """
        with self._open("POST", path, body) as response, _failures():
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                event = json.loads(data)
                if isinstance(event, dict):
                    if event.get("error"):
                        raise _refusal(200, event)
                    yield event
            raise CallError("stream cut", "the stream ended before its end")

    @contextlib.contextmanager
    def _open(self, method: str, path: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        headers = dict(self.headers) | {"Accept": "application/json, text/event-stream"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with _failures():
                try:
                    connection.connect()
                except OSError as error:
                    raise self._unreachable(error) from None
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    # A server that refuses a body may answer before it has read all of it.
                    connection.request(method, parts.path.rstrip("/") + path, data, headers)
                response = connection.getresponse()
            with response:
                if response.status >= 400:
                    with _failures():
                        said = response.read(1 << 20)
                    raise _refusal(response.status, _json(said))
                yield response
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> CallError:
        timed_out = isinstance(error, TimeoutError)
        reason = "no answer in time" if timed_out else error.strerror or str(error)
        kind = "timed out" if timed_out else "no connection"
        return CallError(kind, f"no server answers at {self.url} ({reason})", connected=False)


def shown(text: str) -> str:
    """A server's text without what would steer a terminal."""
    return CLEARS.sub("", text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the server is and which key it gets."""
    group = parser.add_argument_group("the server")
    group.add_argument("-u", "--url", metavar="URL", help="its address (default: http://127.0.0.1:8000)")
    group.add_argument("--api-key", metavar="KEY", help="one of its keys")
    group.add_argument("--api-header", metavar="NAME", help="the header for keys (default: Authorization)")
    group.add_argument(
        "--api-prefix", metavar="WORD", help="the word before the key; none: no word (default: Bearer)"
    )
    parser.epilog = (
        "Where a flag is missing, VLSERVE_URL, VLSERVE_API_KEY, VLSERVE_API_HEADER and VLSERVE_API_PREFIX "
        "are read; without VLSERVE_URL, VLSERVE_HOST and VLSERVE_PORT."
    )


def remote(given: argparse.Namespace, timeout: float = 600.0) -> Remote:
    """The server of the flags of `add_flags`, then of the environment; raises SettingsError."""
    environ = os.environ
    keys = re.split(r"[\s,]+", environ.get("VLSERVE_API_KEY", "").strip())
    key = keys[0] if given.api_key is None else given.api_key.strip()
    if key and not re.fullmatch(KEY_CHARACTER + "+", key):
        raise SettingsError("--api-key: expected visible ASCII but commas, quotes and backslashes")
    header = given.api_header or environ.get("VLSERVE_API_HEADER") or "Authorization"
    if not re.fullmatch("[A-Za-z][A-Za-z0-9-]*", header):
        raise SettingsError(f"--api-header {header}: expected letters, digits and dashes")
    # Headers made for keys take them bare; a word that is asked for is sent with any of them.
    usual = "Bearer" if header.lower() == "authorization" else ""
    prefix = environ.get("VLSERVE_API_PREFIX", usual) if given.api_prefix is None else given.api_prefix
    word = "" if prefix.lower() == "none" else prefix.strip()
    return Remote(_url(given.url), ((header, f"{word} {key}".strip()),) if key else (), timeout)


def _url(given: str | None) -> str:
    host = os.environ.get("VLSERVE_HOST") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a server's, not to bind here
    usual = f"http://{f'[{host}]' if ':' in host else host}:{os.environ.get('VLSERVE_PORT') or 8000}"
    text = (given if given is not None else os.environ.get("VLSERVE_URL") or usual).strip()
    whole = (text if "://" in text else f"http://{text}").rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(whole)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.username or re.search(r"\s", whole):
        raise SettingsError(f"--url {text}: expected an address as http://127.0.0.1:8000")
    return whole


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What goes wrong on the way, as CallError."""
    try:
        yield
    except TimeoutError:
        raise CallError("timed out", "the server did not answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CallError("connection lost", f"the connection was lost ({reason})") from None
    except ValueError:
        raise CallError(
            "not JSON", "the server's answer is not JSON: is this a server with OpenAI's API?"
        ) from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace").strip()[:200]


def _refusal(status: int, answer: Any) -> CallError:
    """An error object, in OpenAI's form or as a text, with what to do about it."""
    error = answer.get("error") if isinstance(answer, dict) else answer
    code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    message = str(error.get("message") if isinstance(error, dict) else error or f"status {status}")
    if status == 401:
        message += " The flags --api-key, --api-header and --api-prefix say which key is sent, and how."
    kind = f"{status} {code}".strip() if status >= 400 else f"in a stream: {code or 'error'}"
    return CallError(kind, shown(message), code=code)
