"""The OpenAPI document, and Swagger UI over it from files of this machine alone."""

import importlib.util
from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, request

from app.errors import Forbidden, NotFound, Unauthorized
from app.routes import keys, pages
from app.routes.describe import describe, operations
from app.routes.hooks import json_response
from app.schemas.answers import DocumentSchema
from app.schemas.openapi import Guard, document

bp = Blueprint("docs", __name__)

SWAGGER = Path(str(getattr(importlib.util.find_spec("flask_swagger_ui"), "origin", ""))).parent / "dist"
"""The files of Swagger UI; nothing else of that package is used, nor is it imported."""
FILES = {
    "docs.js": pages.STATIC / "docs.js",
    "swagger-ui.css": SWAGGER / "swagger-ui.css",
    "swagger-ui-bundle.js": SWAGGER / "swagger-ui-bundle.js",
    "favicon-32x32.png": SWAGGER / "favicon-32x32.png",
}
POLICY = pages.policy()


@bp.get("/openapi.json")
@describe(
    answer=DocumentSchema,
    example={"openapi": "3.1.0", "info": {}, "paths": {}, "components": {}, "security": []},
)
def openapi() -> Response:
    """The OpenAPI 3.1 document of this server."""
    extensions = current_app.extensions
    if "openapi" not in extensions:
        found = current_app.extensions["keys"]
        guard = Guard(
            found.header,
            found.prefix,
            required=found.required,
            errors=(Unauthorized,) if found.required else (Forbidden,),
            open_tags=frozenset(keys.OPEN),
        )
        extensions["openapi"] = document(operations(current_app), guard)
    return json_response(extensions["openapi"])


@bp.get("/docs", strict_slashes=False)
@describe(media="text/html", example="<!doctype html>")
def docs() -> Response:
    """Swagger UI: the document to read, and every call to try."""
    if request.path.endswith("/"):
        return redirect("../docs", 308)  # type: ignore[return-value]  # its files are beside /docs
    return _file(pages.STATIC / "docs.html", max_age=0)


@bp.get("/docs/<name>")
@describe(
    media="*/*",
    example="body { margin: 0 }",
    errors=(NotFound,),
    arguments={"name": {"enum": sorted(FILES)}},
)
def docs_file(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in FILES:
        raise NotFound("There is no such file.")
    return _file(FILES[name], max_age=86400)


def _file(path: Path, max_age: int) -> Response:
    return pages.send(path.read_bytes(), path.suffix, POLICY, max_age)
