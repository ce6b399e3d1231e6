"""What a route says of itself, in one decorator beside it, for /openapi.json and its test."""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flask import Flask

from app.errors import (
    Draining,
    GenerationFailed,
    ModelLoadFailed,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    RequestTimeout,
)
from app.schemas.openapi import Description, Operation

View = TypeVar("View", bound=Callable[..., Any])

GENERATION = (
    ModelNotFound,
    RequestTimeout,
    Overloaded,
    GenerationFailed,
    ModelLoadFailed,
    OutOfMemory,
    Draining,
)
"""What can go wrong wherever a model is asked."""


def describe(**about: Any) -> Callable[[View], View]:
    """A decorator for a view: `about` are the fields of a Description; its docstring is the rest."""

    def mark(view: View) -> View:
        view.description = Description(**about)  # type: ignore[attr-defined]  # read back by operations()
        return view

    return mark


def template(rule: object) -> str:
    """A URL rule as OpenAPI writes it: /v1/models/{name}."""
    return re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", str(rule))


def operations(app: Flask) -> Iterator[Operation]:
    """Each method of each rule that the app serves, the API's first; raises LookupError for a view that says
    nothing.
    """
    for rule in sorted(
        app.url_map.iter_rules(), key=lambda rule: (not str(rule).startswith("/v1"), str(rule))
    ):
        view = app.view_functions[rule.endpoint]
        description = getattr(view, "description", None)
        if description is None:
            raise LookupError(f"{rule} has no description: put @describe(…) on its view")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield Operation(
                template(rule),
                method.lower(),
                rule.endpoint.partition(".")[0],
                view.__doc__ or "",
                tuple(sorted(rule.arguments)),
                description,
            )
