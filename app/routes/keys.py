"""Keys: who may call. They are read at the start, compared in constant time, and never shown.

Every address needs a key but those of the blueprints in OPEN, so that a new one is not open by accident.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g, request

from app import telemetry
from app.errors import Unauthorized
from app.settings import KEY, Settings, SettingsError

OPEN = {"health", "docs", "playground"}
"""Blueprints whose routes need no key; /health tells more to those who have one."""


class Keys:
    """The keys of a server, and where a request has its own; raises SettingsError as `read` does."""

    def __init__(self, settings: Settings) -> None:
        known = () if settings.disable_api_auth else read(settings)
        telemetry.hide(known)
        self._digests = [_digest(key) for key in known]
        self.prefix = "" if settings.api_prefix.lower() == "none" else settings.api_prefix
        self._bare = settings.api_header.lower() != "authorization" or not self.prefix
        self.header = settings.api_header
        self.required = bool(known)
        self.challenge = f'{self.prefix or "ApiKey"} realm="vlserve"'
        if self.header.lower() != "authorization":
            self.challenge = f'ApiKey realm="vlserve", header="{self.header}"'

    def owner(self, value: str | None) -> str | None:
        """Who sent this value of the header: a hash of his key, "" for everybody where no key is required,
        None if it is not right.
        """
        if not self.required:
            return ""
        given = _digest(self._key(value or ""))
        # All of them, whatever is found: the time tells nothing.
        found = [known for known in self._digests if hmac.compare_digest(given, known)]
        return found[0].hex()[:32] if found else None

    def is_one(self, text: str) -> bool:
        """Whether a text is one of the keys."""
        given = _digest(text)
        found = [known for known in self._digests if hmac.compare_digest(given, known)]
        return bool(found)

    def _key(self, value: str) -> str:
        word, _, rest = value.strip().partition(" ")
        if self.prefix and word.lower() == self.prefix.lower():
            return rest.strip()
        return value.strip() if self._bare else ""


def install(app: Flask, keys: Keys) -> None:
    """Ask for a key before every request."""
    app.extensions["keys"] = keys
    app.before_request(_check)


def owner() -> str:
    """Whose request this is, as Keys.owner names them; only where a key was asked for."""
    return str(g.owner)


def is_known() -> bool:
    """Whether the request has a right key, or none is required."""
    return g.owner is not None


def read(settings: Settings) -> tuple[str, ...]:
    """All keys of the settings and of the file that they name; raises SettingsError."""
    return settings.api_key + (_from_file(Path(settings.api_keys_file)) if settings.api_keys_file else ())


def secure(settings: Settings, addresses: Sequence[Any]) -> str:
    """What to tell at the start about who may call at these addresses, as gunicorn has them. If that would be
    everybody, a key is made and put into the environment, for the workers to come. Raises SettingsError.
    """
    if all(_is_local(address) for address in addresses):
        return ""
    if settings.disable_api_auth:
        return "vlserve: this address can be reached from outside, and requests need no key\n"
    if read(settings):
        return ""
    key = f"vl-{secrets.token_urlsafe(32)}"
    os.environ["VLSERVE_API_KEY"] = key
    return (
        "vlserve: this address can be reached from outside and no key was set; one was made for this run "
        "(with it the conversations of /chat, which belong to a key):\n"
        f"vlserve: {key}\n"
    )


def told(settings: Settings) -> str:
    """Who may call, in a few words without a key; raises SettingsError as `read` does."""
    if settings.disable_api_auth:
        return "none asked for (--disable-api-auth)"
    if count := len(read(settings)):
        word = "" if settings.api_prefix.lower() == "none" else f"{settings.api_prefix} "
        return f"{count} known, sent as {settings.api_header}: {word}KEY"
    if _is_local((settings.host, settings.port)):
        return "none asked for: only this machine can call"
    return "none set: one is made, and printed below"


def _check() -> None:
    keys: Keys = current_app.extensions["keys"]
    value = request.headers.get(keys.header)
    g.owner = keys.owner(value)
    if g.owner is None and request.blueprint not in OPEN:
        problem = "The key is wrong." if value else f"A key is missing: send it in the header {keys.header}."
        raise Unauthorized(problem)


def _digest(key: str) -> bytes:
    """Of one length for all keys, and of bytes for what is no ASCII."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"--api-keys-file {path}: {reason}") from None
    found = tuple(_keys(path, lines))
    if not found:
        raise SettingsError(f"--api-keys-file {path}: there is no key in it")
    return found


def _keys(path: Path, lines: Iterable[str]) -> Iterable[str]:
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not re.fullmatch(KEY, key):
            raise SettingsError(
                f"--api-keys-file {path}, line {number}: "
                "a key is of visible ASCII but commas, quotes and backslashes, 4 to 512 characters; "
                "a comment has a line of its own"
            )
        yield key


def _is_local(address: Any) -> bool:
    """Whether only this machine can reach an address of gunicorn's: (host, port), or a socket's path."""
    if isinstance(address, str):
        return True
    host = address[0] if isinstance(address, tuple) else ""
    try:  # as binding does: 127.1 and localhost too
        found = {str(info[4][0]) for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # noqa: S104
        return all(_is_loopback(ipaddress.ip_address(one)) for one in found)
    except (OSError, ValueError):
        return False


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
