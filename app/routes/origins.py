"""Pages of other sites: those of named origins may call (CORS), others cannot drive a server without keys.

A browser reaches a server on its own machine for any page that it shows. A key stops such a page. Where none
is required, two headers do that a page cannot forge: Origin; and Host, for a name that a stranger has pointed
at this machine (DNS rebinding), whose pages count as the server's own. A third, X-Forwarded-For, tells
that a proxy on this machine passes calls of other machines on.
"""

import ipaddress
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request

from app.errors import Forbidden
from app.settings import Settings

LOCAL_NAMES = {"localhost", "local", "internal"}
"""Last labels of names that nobody can point at this machine from the internet."""
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
PREFLIGHT_SECONDS = "600"


class Origins:
    """The origins whose pages may call."""

    def __init__(self, settings: Settings) -> None:
        self.named = frozenset(origin.lower() for origin in settings.cors_origin)
        self.all = "*" in self.named
        self.hosts = frozenset(_hostname(origin.partition("://")[2]) for origin in self.named)
        self.disabled = settings.disable_api_auth

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this origin may call."""
        return origin is not None and (self.all or origin.lower() in self.named)


def install(app: Flask, settings: Settings) -> None:
    """Answer preflights, refuse foreign pages, and give every answer its CORS headers."""
    app.extensions["origins"] = Origins(settings)
    app.before_request(_before)
    app.after_request(_after)


def is_foreign() -> bool:
    """Whether the request came by a name that a stranger may have pointed here, or from another machine, to a
    server without keys.
    """
    return bool(g.get("foreign", False))


def _before() -> Response | None:
    origins: Origins = current_app.extensions["origins"]
    origin = request.headers.get("Origin")
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        if origins.allows(origin):
            return Response(status=204)
    elif not (origins.disabled or origins.all or current_app.extensions["keys"].required):
        _refuse_foreign(origins, origin)
    return None


def _refuse_foreign(origins: Origins, origin: str | None) -> None:
    host = _hostname(request.headers.get("Host", ""))
    others = [caller for caller in _forwarded_for() if not _is_loopback(caller)]
    g.foreign = bool(others) or not (_is_of_this_machine(host) or host in origins.hosts)
    if g.foreign and request.blueprint != "health":  # load balancers call by any name; they are told little
        kind, wrong = ("calls", others[0]) if others else ("names", host)
        raise Forbidden(
            f"This server asks for no key and answers to {kind} of this machine only, not {wrong[:100]!r}. "
            "Set --api-key, or --disable-api-auth behind a proxy that asks for one."
        )
    if request.method in SAFE_METHODS or origin is None or origins.allows(origin):
        return
    if origin == "null" or (
        origin.startswith(("http://", "https://"))
        and origin.partition("://")[2] != request.headers.get("Host")
    ):
        raise Forbidden(
            "This server asks for no key, and pages of other sites may not call it: --cors-origin."
        )


def _hostname(place: str) -> str:
    """The name or address in a Host header or behind an origin's scheme."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return f"{place}.invalid"  # a bracket that nothing closes: no name of ours


def _forwarded_for() -> list[str]:
    """For whom proxies passed the request on, as they say."""
    callers = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
    return [caller.strip() for caller in callers if caller.strip()]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_of_this_machine(host: str) -> bool:
    """Whether a name, or an address, is none that a stranger could have pointed here."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        last = name.rpartition(".")[2]
        return "." not in name or last in LOCAL_NAMES or last.isdecimal()  # 127.1: an address, never a name
    return True


def _after(response: Response) -> Response:
    origins: Origins = current_app.extensions["origins"]
    if not origins.named:
        return response
    headers = response.headers
    if not origins.all:
        response.vary.add("Origin")  # caches must not give one site's answer to another
    origin = request.headers.get("Origin")
    if origin is None or not origins.allows(origin):
        return response
    headers["Access-Control-Allow-Origin"] = "*" if origins.all else origin
    if not origins.all:
        headers["Access-Control-Allow-Credentials"] = "true"
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE, OPTIONS"
        # Whatever is asked for: clients send headers of their own, and * would not stand for Authorization.
        if asked := request.headers.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = asked
            response.vary.add("Access-Control-Request-Headers")
        headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
    else:
        headers["Access-Control-Expose-Headers"] = "x-request-id, Retry-After, WWW-Authenticate"
    return response
