"""The OpenAPI document: made from the very schemas that check the requests, and from what each route says.

apispec turns fields into JSON Schema; what it cannot know of our own fields, and of whole schemas, they say
by `json_schema`. It is imported when the document is made, not when the server starts.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marshmallow import Schema, fields

from app.errors import ApiError, BodyTooLarge, InvalidRequest, UnsupportedMediaType
from app.schemas.answers import ErrorSchema
from app.schemas.fields import SchemaOf
from app.settings import VERSION

JSON = "application/json"
EVENTS = "text/event-stream"
REQUEST_ID = {
    "description": "The request's id in the server's log: the client's own x-request-id, or a new one.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True)
class Guard:
    """How callers show who they are: the header and the word before the key in it, whether they must, the
    errors that they may get for it, and the tags of the operations that are open to all.
    """

    header: str = "Authorization"
    prefix: str = "Bearer"
    required: bool = False
    errors: tuple[type[ApiError], ...] = ()
    open_tags: frozenset[str] = frozenset()

    def scheme(self) -> dict[str, str]:
        """The Security Scheme Object."""
        text = "One of the server's keys, where it has any."
        if (self.header.lower(), self.prefix.lower()) == ("authorization", "bearer"):
            return {"type": "http", "scheme": "bearer", "description": text}
        if self.prefix:
            may = "must" if self.header.lower() == "authorization" else "may"
            text += f" Before it {may} be the word {self.prefix} and a blank."
        return {"type": "apiKey", "in": "header", "name": self.header, "description": text}


@dataclass(frozen=True)
class Description:
    """What a view takes and answers.

    `example` is one of the body, `answered` one of the answer to it; where there is no body, `example` is
    the answer's. `answer` is the schema of a 200 in JSON, None for a text of type `media`; `events` that
    of a stream's events; `others` those of statuses that are no errors of ours. `errors` are the
    exceptions that it may raise beside those that all raise, of which `failure` is the schema and which
    come with other `statuses` than their own. `query` is the schema of its query, `arguments` are the
    JSON Schemas of arguments in its path.
    """

    example: Any
    answered: Any = None
    answer: type[Schema] | None = None
    media: str = JSON
    body: type[Schema] | None = None
    body_media: str = JSON
    events: type[Schema] | None = None
    others: Mapping[int, type[Schema]] = field(default_factory=dict)
    errors: tuple[type[ApiError], ...] = ()
    failure: type[Schema] = ErrorSchema
    statuses: Mapping[int, int] = field(default_factory=dict)
    needs_body: bool = True
    query: type[Schema] | None = None
    arguments: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """A method of a path: where it is, what its docstring says, and its description."""

    path: str
    method: str
    tag: str
    text: str
    arguments: tuple[str, ...]
    description: Description


def document(operations: Iterable[Operation], guard: Guard = Guard()) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these operations."""
    from apispec import APISpec
    from apispec.ext.marshmallow import MarshmallowPlugin

    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    about = "An OpenAI-compatible server for vision-language and text models."
    spec = APISpec("vlserve", VERSION, "3.1.0", plugins=[plugin], info={"description": about})
    converter: Any = plugin.converter

    def own(_: Any, described: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        return _own_keywords(converter, described, ret)

    converter.add_attribute_function(own)
    spec.components.security_scheme("key", guard.scheme())
    spec.components.header("request-id", REQUEST_ID)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in operations:
        paths[operation.path][operation.method] = _operation(converter, operation, guard)
    for path, methods in paths.items():
        spec.path(path, operations=methods)
    _complete(converter, spec.components.schemas)
    result = spec.to_dict()
    result["security"] = [{"key": []}] if guard.required else [{}, {"key": []}]
    return result


def _complete(converter: Any, schemas: dict[str, dict[str, Any]]) -> None:
    """Add what the schema classes say of themselves to their components, and to those that come by this."""
    done: set[str] = set()
    while todo := [(key[0], name) for key, name in converter.refs.items() if name not in done]:
        for schema, name in todo:
            done.add(name)
            schemas[name]["description"] = inspect.cleandoc(schema.__doc__ or "")
            more = schema.json_schema(_teller(converter)) if hasattr(schema, "json_schema") else {}
            schemas[name]["properties"] |= more.pop("properties", {})
            schemas[name] |= more


def _operation(converter: Any, operation: Operation, guard: Guard) -> dict[str, Any]:
    """An Operation Object; the schemas that it names join the document's components."""
    about = operation.description
    is_open = operation.tag in guard.open_tags
    summary, _, details = inspect.cleandoc(operation.text).partition("\n\n")
    result: dict[str, Any] = {
        "operationId": operation.method + re.sub(r"\W+", "_", operation.path).rstrip("_"),
        "tags": [operation.tag],
        "summary": " ".join(summary.split()),
        "responses": _answers(converter, about)
        | _errors(converter, about, () if is_open and guard.required else guard.errors),
    }
    if is_open:
        result["security"] = []
    if details:
        result["description"] = details
    if parameters := _parameters(converter, operation):
        result["parameters"] = parameters
    if about.body is not None:
        content = {"schema": converter.resolve_nested_schema(about.body), "example": about.example}
        result["requestBody"] = {"required": about.needs_body, "content": {about.body_media: content}}
    return result


def _parameters(converter: Any, operation: Operation) -> list[dict[str, Any]]:
    """What stands in the path and in the query."""
    about = operation.description
    plain = {"type": "string", "minLength": 1}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": about.arguments.get(name, plain)}
        for name in operation.arguments
    ]
    if about.query is not None:
        for parameter in converter.schema2parameters(about.query(), location="query"):
            parameter["schema"]["type"] = "string"  # a query has no null
            found.append(parameter)
    return found


def _answers(converter: Any, about: Description) -> dict[str, Any]:
    """The responses that are no errors of ours, by status."""
    content: dict[str, Any] = {about.media: {"schema": {"type": "string"}}}
    if about.answer is not None:
        content = {JSON: {"schema": converter.resolve_nested_schema(about.answer)}}
    shown = about.example if about.body is None else about.answered
    content[about.media]["example"] = shown
    if about.events is not None:
        kinds = [converter.resolve_nested_schema(kind) for kind in (about.events, about.failure)]
        content[EVENTS] = {"schema": _event(kinds)}
    answers = {"200": _response("The answer.", content)}
    for status, schema in about.others.items():
        content = {JSON: {"schema": converter.resolve_nested_schema(schema)}}
        answers[str(status)] = _response("The answer.", content)
    return answers


def _event(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema of one server-sent event whose data is the JSON of one of these, or the end."""
    payload = {"contentMediaType": JSON, "contentSchema": {"anyOf": kinds}}
    return {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": ["message", "error"]},
            "data": {"type": "string", "anyOf": [payload, {"const": "[DONE]"}]},
        },
        "required": ["data"],
    }


def _errors(converter: Any, about: Description, more: tuple[type[ApiError], ...]) -> dict[str, Any]:
    """The errors that may come, by status."""
    kinds: tuple[type[ApiError], ...] = (*more, *about.errors, ApiError)
    if about.query is not None:
        kinds = (InvalidRequest, *kinds)
    if about.body is not None:
        kinds = (InvalidRequest, BodyTooLarge, UnsupportedMediaType, *kinds)
    by_status: dict[int, list[str]] = defaultdict(list)
    for kind in kinds:
        text = "The server failed; its log has the details." if kind is ApiError else inspect.getdoc(kind)
        by_status[about.statuses.get(kind.status, kind.status)].append(f"`{kind.code}`: {text}")
    errors = {}
    for status, texts in sorted(by_status.items()):
        content = {JSON: {"schema": converter.resolve_nested_schema(about.failure)}}
        errors[str(status)] = _response("\n\n".join(texts), content)
        if status in (408, 429, 503):
            wait = {"description": "Seconds after which to try again.", "schema": {"type": "string"}}
            errors[str(status)]["headers"]["Retry-After"] = wait
    return errors


def _response(text: str, content: dict[str, Any]) -> dict[str, Any]:
    headers = {"x-request-id": {"$ref": "#/components/headers/request-id"}}
    return {"description": text, "headers": headers, "content": content}


def _teller(converter: Any) -> SchemaOf:
    """Tells the JSON Schema of a field, or a reference to a schema, which joins the components."""

    def of(inner: fields.Field[Any] | Schema) -> dict[str, Any]:
        if isinstance(inner, Schema):
            return dict(converter.resolve_nested_schema(inner))
        return dict(converter.field2property(inner))

    return of


def _own_keywords(converter: Any, described: fields.Field[Any], known: dict[str, Any]) -> dict[str, Any]:
    """What a field of ours says of itself, where apispec's keywords are `known`."""
    make = getattr(described, "json_schema", None)
    if make is None:
        return {}
    keywords: dict[str, Any] = make(_teller(converter))
    if "anyOf" in keywords:
        for name in ("$ref", "type", "additionalProperties"):
            known.pop(name, None)
        if described.allow_none:  # apispec sees to the other forms
            keywords["anyOf"].append({"type": "null"})
    return keywords


def _name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.removesuffix("Schema")
