"""The playground: a chat page in plain files, of which only the first line knows anything of this server."""

import html

from flask import Blueprint, Response, current_app

from app.errors import NotFound
from app.routes import pages
from app.routes.describe import describe
from app.settings import VERSION

bp = Blueprint("playground", __name__)

FOLDER = pages.STATIC / "playground"
FILES = {
    path.name: path for path in FOLDER.iterdir() if path.suffix in pages.TYPES and path.suffix != ".html"
}
POLICY = pages.policy(
    img_src="'self' data: blob:",
    media_src="data: blob:",
    require_trusted_types_for="'script'",  # no text becomes markup or code, whoever asks for it
    trusted_types="'none'",
)


@bp.get("/")
@describe(media="text/html", example="<!doctype html>")
def playground() -> Response:
    """The playground: a chat page with pictures, video, streaming and thinking."""
    keys, settings = current_app.extensions["keys"], current_app.extensions["settings"]
    facts = {
        "version": VERSION,
        "key-header": keys.header,
        "key-prefix": keys.prefix,
        "key-required": str(keys.required).lower(),
        "max-body": settings.max_body_bytes,
    }
    told = " ".join(f'data-{name}="{html.escape(str(value))}"' for name, value in facts.items())
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    return pages.send(page.replace("<html", f"<html {told}", 1).encode(), ".html", POLICY)


@bp.get("/playground/<name>")
@describe(
    media="*/*",
    example="body { margin: 0 }",
    errors=(NotFound,),
    arguments={"name": {"enum": sorted(FILES)}},
)
def playground_file(name: str) -> Response:
    """A file of the playground."""
    if name not in FILES:
        raise NotFound("There is no such file.")
    path = FILES[name]
    return pages.send(path.read_bytes(), path.suffix, POLICY)
