"""What schemathesis is told beside the document: which model there is, pictures that are some, and what no
document can promise.
"""

from typing import Any

import schemathesis
from PIL import Image
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from tests.conftest import data_url

PICTURE = data_url(Image.new("RGB", (8, 8), "red"))
OF_THE_DOCUMENT = {"invalid_value", "invalid_json", "incomplete_body"}
"""Codes of the 400s that a body which the document allows must not get; others say what no document can."""


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Bodies that get further: random names of models are none, random texts no pictures."""
    return _with_model(_with_pictures(body)) if isinstance(body, dict) else body


@schemathesis.hook
def filter_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> bool:
    """Values that stay one piece of an address."""
    return not any("/" in str(value) for value in (path_parameters or {}).values())


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Whether it is one: not if no document could say it, or a body was too large to be looked at."""
    if response.status_code == 413:
        return not isinstance(failure, AcceptedNegativeData)
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    error = response.json()["error"]
    return isinstance(error, dict) and error["code"] in OF_THE_DOCUMENT  # the simple API has no codes


def _with_model(body: dict[str, Any]) -> dict[str, Any]:
    model = body.get("model")
    return body | {"model": "demo"} if isinstance(model, str) and 0 < len(model) <= 1000 else body


def _with_pictures(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_pictures(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: _with_pictures(item) for name, item in value.items()}
    for name in ("url", "image", "image_url"):
        if isinstance(found.get(name), str) and found[name]:
            found[name] = PICTURE
    return found
