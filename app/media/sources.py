"""Where a medium comes from: data: URLs, the web, files, uploads. One place decides, for every endpoint."""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from app.errors import InvalidRequest
from app.media import guard
from app.media.body import Body, Budget
from app.media.web import Lines, Web

DATA_URL = re.compile(
    r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*(?P<base64>;base64)?,", re.IGNORECASE
)
BLANKS = b" \t\r\n\f\v"
ESCAPES = [
    (code, bytes([byte]))
    for byte in b"+/= \t\r\n"
    for code in dict.fromkeys((b"%%%02X" % byte, b"%%%02x" % byte))
]
"""What is escaped of base64, and its line ends; letters and digits never are."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
PATH_LENGTH = 4096


@dataclass(frozen=True)
class Sources:
    """All that may be read: by `web`, and files below `paths`."""

    web: Web
    paths: tuple[str, ...] = ()

    def read(self, source: str | BinaryIO, param: str, budget: Budget, lines: Lines) -> Body:
        """The bytes of a medium; raises InvalidRequest or BodyTooLarge that names `param`."""
        if not isinstance(source, str):
            return Body.of_file(source, param, budget)
        scheme = SCHEME.match(source)
        name = scheme[1].lower() if scheme else ""
        if name == "data":
            return Body.of(data_url_bytes(source, param, budget), param, budget)
        if name in ("http", "https"):
            return self.web.download(source, param, budget, lines)
        if name not in ("", "file") or len(source) > PATH_LENGTH:
            raise InvalidRequest(
                "Media come as data:, http:, https: or file: URLs, or as paths; this is neither.",
                param=param,
                code="invalid_media_url",
            )
        path = source if not name else _path(source, param)
        return Body.of_file(guard.open_file(path, self.paths, param), param, budget)


def _path(url: str, param: str) -> str:
    """The path of a file: URL, which may name no other machine."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.netloc.lower() not in ("", "localhost")
        or not os.path.isabs(path)
        or parts.query
        or parts.fragment
    ):
        raise InvalidRequest(
            "The file: URL is none of this machine's, as file:///folder/file is.",
            param=param,
            code="invalid_media_url",
        )
    return path


def data_url_bytes(url: str, param: str, budget: Budget | None = None) -> bytes:
    """The bytes that a data: URL carries; raises InvalidRequest, BodyTooLarge."""
    head = DATA_URL.match(url[:1024])
    if head is None:
        raise InvalidRequest("This is not a valid data: URL.", param=param, code="invalid_media_url")
    if not head["base64"]:
        raise InvalidRequest("The data: URL is not in base64.", param=param, code="invalid_media_url")
    if budget is not None:  # before it is decoded: four characters are three bytes, or fewer
        budget.check((len(url) - head.end()) // 12 * 3, param)
    try:
        encoded = url[head.end() :].encode("ascii")
        for code, plain in ESCAPES:  # one step of C each, as nothing else runs in Python meanwhile
            encoded = encoded.replace(code, plain)
        return base64.b64decode(encoded.translate(None, BLANKS), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            "The data: URL's base64 is broken.", param=param, code="invalid_base64"
        ) from None
