"""Pages of ours and their files: types, a content security policy, a cache that asks whether they changed."""

import hashlib
from pathlib import Path

from flask import Response, request

STATIC = Path(__file__).resolve().parent.parent / "static"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
"""Not the machine's own table, which may call a script plain text; browsers then refuse it."""


def policy(**more: str) -> str:
    """A content security policy: scripts and styles from this server's files alone, requests to this server
    alone; `more` adds directives or replaces them, with _ for each -.
    """
    directives = {
        "default_src": "'none'",
        "script_src": "'self'",
        "style_src": "'self'",
        "img_src": "'self' data:",
        "connect_src": "'self'",
        "base_uri": "'none'",
        "form_action": "'none'",
        "frame_ancestors": "'none'",
    }
    return "; ".join(f"{name.replace('_', '-')} {value}" for name, value in (directives | more).items())


def send(content: bytes, suffix: str, rules: str, max_age: int = 0) -> Response:
    """A file under a policy. A browser may use it unasked for `max_age` seconds; after that it asks by the
    ETag and gets a 304 where nothing has changed.
    """
    response = Response(content, mimetype=TYPES[suffix])
    response.set_etag(hashlib.sha256(content).hexdigest()[:32])
    if max_age:
        response.cache_control.max_age = max_age
    else:
        response.cache_control.no_cache = True
    response.headers["Content-Security-Policy"] = rules
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.make_conditional(request)
    return response
