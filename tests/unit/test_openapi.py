"""The OpenAPI document: valid, complete, and in one mind with the schemas that check the requests."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jsonschema_rs
import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from marshmallow import Schema, fields, validate
from openapi_spec_validator import validate as check_document

from app import create_app
from app.engine.types import Finish, Logprobs, Token
from app.errors import InvalidRequest, Overloaded
from app.routes.describe import describe, operations, template
from app.schemas import chat, sampling, simple, text
from app.schemas.answers import ErrorSchema, ModelSchema
from app.schemas.content import ROLES
from app.schemas.fields import Body, Flag, Integer, Items, Mapping, Number, Text
from app.schemas.openapi import Description, Guard, Operation, document
from app.settings import Settings
from tests.unit.conftest import HELLO, says
from tests.unit.test_sse import read

APP = create_app(Settings())
DOCUMENT: dict[str, Any] = APP.test_client().get("/openapi.json").get_json()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def valid(schema: dict[str, Any], value: Any, within: dict[str, Any] = DOCUMENT) -> bool:
    """Whether the document allows a value where this schema stands."""
    known = _known(json.dumps(schema)) if within is DOCUMENT else _validator(schema, within)
    return known.is_valid(value)


def _validator(schema: dict[str, Any], within: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema | {"components": within["components"]})


@cache
def _known(schema: str) -> jsonschema_rs.Draft202012Validator:
    """Making one takes milliseconds, and thousands of values are asked about."""
    return _validator(json.loads(schema), DOCUMENT)


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where this is a reference to it."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def test_the_document_is_valid() -> None:
    check_document(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_the_document_with_every_method() -> None:
    served = {
        f"{method} {template(rule)}"
        for rule in APP.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == set(OPERATIONS)


def test_a_route_that_says_nothing_is_an_error() -> None:
    app = Flask("test")
    app.add_url_rule("/silent", view_func=lambda: "", endpoint="silent")
    with pytest.raises(LookupError, match="/silent has no description"):
        list(operations(app))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_says_what_it_is_and_shows_an_example(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["tags"]
    for part in (operation.get("requestBody"), operation["responses"]["200"]):
        if part is None:
            continue
        examples = [content for content in part["content"].values() if "example" in content]
        assert examples
        for content in examples:
            assert valid(content["schema"], content["example"])


def test_operations_have_ids_of_their_own() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_has_a_body_and_a_request_id(name: str) -> None:
    for status, response in OPERATIONS[name]["responses"].items():
        assert response["description"]
        assert response["headers"]["x-request-id"] == {"$ref": "#/components/headers/request-id"}
        assert response["content"]
        if int(status) in (400, 404, 413, 415, 429, 500):
            shape = "PlainError" if OPERATIONS[name]["tags"] == ["legacy"] else "Error"
            assert response["content"] == {"application/json": {"schema": ref(shape)}}


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "requestBody" in OPERATIONS[name]])
def test_what_can_go_wrong_with_a_body_is_told(name: str) -> None:
    wanted = {"400", "413", "500"} if OPERATIONS[name]["tags"] == ["legacy"] else {"400", "413", "415", "500"}
    assert wanted <= OPERATIONS[name]["responses"].keys()


def test_the_key_is_a_bearer_key() -> None:
    key = DOCUMENT["components"]["securitySchemes"]["key"]
    assert (key["type"], key["scheme"]) == ("http", "bearer")
    assert DOCUMENT["security"] == [{}, {"key": []}]
    assert OPERATIONS["GET /health"]["security"] == []
    assert "security" not in OPERATIONS["GET /v1/models"]


@pytest.mark.parametrize(
    ("header", "prefix", "scheme"),
    [
        ("authorization", "bearer", {"type": "http", "scheme": "bearer"}),
        ("X-Key", "", {"type": "apiKey", "in": "header", "name": "X-Key"}),
        ("Authorization", "Token", {"type": "apiKey", "in": "header", "name": "Authorization"}),
    ],
)
def test_a_server_that_wants_a_key_says_where(header: str, prefix: str, scheme: dict[str, str]) -> None:
    guard = Guard(header, prefix, required=True, errors=(Overloaded,), open_tags=frozenset(("docs",)))
    made = document(operations(APP), guard)
    check_document(made)
    assert made["security"] == [{"key": []}]
    found = made["components"]["securitySchemes"]["key"]
    assert scheme.items() <= found.items()
    assert ("word Token" in found["description"]) is (prefix == "Token")
    assert made["paths"]["/docs"]["get"]["security"] == []
    assert "429" not in made["paths"]["/docs"]["get"]["responses"]
    assert "429" in made["paths"]["/v1/models"]["get"]["responses"]


def properties() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for place, about in schema["properties"].items():
            yield f"{name}.{place}", about


def test_every_property_has_a_type() -> None:
    found = dict(properties())
    assert len(found) > 50
    for place, about in found.items():
        assert about.keys() & {"type", "enum", "anyOf", "$ref"}, f"give the field {place} a json_schema()"


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "requestBody" in OPERATIONS[name]])
def test_every_field_of_a_body_has_a_description(name: str) -> None:
    (content,) = OPERATIONS[name]["requestBody"]["content"].values()
    for place, about in resolved(content["schema"])["properties"].items():
        assert about.get("description"), place


class InnerSchema(Body):
    """An inner object."""

    word = Text(required=True, validate=validate.OneOf(("a", "b")))


class SampleSchema(Body):
    """One field of each kind."""

    text = Text(least=1, most=9, required=True, metadata={"description": "a text"})
    free = Text(most=5)
    choice = Text(most=5, validate=validate.OneOf(("x", "y")), allow_none=True)
    number = Number(low=-1.5, high=2, allow_none=True)
    share = Number(above=0, high=1)
    open_ended = Number(low=0)
    count = Integer(low=1, high=128)
    flag = Flag(allow_none=True)
    anything = Mapping()
    several = Items(Text(most=3), least=1, most=4)
    inner = fields.Nested(InnerSchema, allow_none=True)
    stop = sampling.Stop(allow_none=True)


def sample(**about: Any) -> dict[str, Any]:
    """The document of one operation with the sample as its body."""
    return document(
        [
            Operation(
                "/sample/{id}", "post", "tests", "Do it.\n\nIn detail.", ("id",),
                Description(body=SampleSchema, example={"text": "a"}, answer=ModelSchema, **about),
            )
        ]
    )  # fmt: skip


def test_types_bounds_and_choices_come_from_the_fields() -> None:
    schemas = sample()["components"]["schemas"]
    assert schemas["Sample"]["required"] == ["text"]
    assert schemas["Sample"]["description"] == "One field of each kind."
    assert schemas["Inner"]["properties"]["word"]["enum"] == ["a", "b"]
    assert schemas["Sample"]["properties"] == {
        "text": {"type": "string", "minLength": 1, "maxLength": 9, "description": "a text"},
        "free": {"type": "string", "maxLength": 5},
        "choice": {"type": ["string", "null"], "maxLength": 5, "enum": ["x", "y", None]},
        "number": {"type": ["number", "null"], "minimum": -1.5, "maximum": 2},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "open_ended": {"type": "number", "minimum": 0},
        "count": {"type": "integer", "minimum": 1, "maximum": 128},
        "flag": {"type": ["boolean", "null"]},
        "anything": {"type": "object", "additionalProperties": {}},
        "several": {
            "type": "array",
            "items": {"type": "string", "maxLength": 3},
            "minItems": 1,
            "maxItems": 4,
        },
        "inner": {"anyOf": [ref("Inner"), {"type": "null"}]},
        "stop": {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": 500},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 500},
                    "minItems": 0,
                    "maxItems": 16,
                },
                {"type": "null"},
            ]
        },
    }


def test_an_operation_has_its_text_its_arguments_and_its_errors() -> None:
    made = sample(errors=(Overloaded,), arguments={"id": {"enum": ["a"]}}, others={202: ErrorSchema})
    check_document(made)
    operation = made["paths"]["/sample/{id}"]["post"]
    assert (operation["summary"], operation["description"]) == ("Do it.", "In detail.")
    assert operation["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"enum": ["a"]}}
    ]
    assert list(operation["responses"]) == ["200", "202", "400", "413", "415", "429", "500"]
    assert "`overloaded`: As many" in operation["responses"]["429"]["description"]
    assert "Retry-After" in operation["responses"]["429"]["headers"]


def test_a_described_view_is_left_as_it_is() -> None:
    bp = Blueprint("b", __name__)

    @bp.get("/x/<path:name>")
    @describe(media="text/plain", example="x")
    def view(name: str) -> str:
        """Says its name."""
        return name

    app = Flask("test", static_folder=None)
    app.register_blueprint(bp)
    (operation,) = [one for one in operations(app) if one.tag == "b"]
    assert (operation.path, operation.method, operation.arguments) == ("/x/{name}", "get", ("name",))
    assert app.test_client().get("/x/a/b").text == "a/b"


ODD: list[Any] = [
    None, True, False, 0, 1, 1.0, -1, 0.5, 1.5, 2, 3, 128, 129, -2, 10**9, 10**9 + 1, 2**63, -(2**63), 1e300,
    "", "a", "auto", "none", "a" * 257, "a" * 501, "a" * 1001,
    [], [1], ["a"], ["a"] * 17, [""], [[]], [None], {}, {"a": 1}, {"type": "text"}, {"include_usage": True},
    {"include_usage": 1}, {"include_usage": None},
]  # fmt: skip


def verdict(load: Callable[[Any], Any], body: Any) -> str:
    """The code with which a body is refused; "" if it is not."""
    try:
        load(body)
    except InvalidRequest as refused:
        return refused.code
    return ""


def disagreements(load: Callable[[Any], Any], name: str, bodies: list[Any]) -> list[Any]:
    """Bodies of which the document and the check say different things: `invalid_value` is for what the
    document forbids, other codes are for what it cannot say.
    """
    found = []
    for body in bodies:
        code, allowed = verdict(load, body), valid(ref(name), body)
        if code == "invalid_value" if allowed else not code:
            found.append((body, code))
    return found


BODIES: dict[str, tuple[Callable[[Any], Any], Schema, dict[str, Any], list[dict[str, Any]]]] = {
    "Chat": (
        chat.load,
        chat.ChatSchema(),
        HELLO,
        [
            {},
            {"stream": True},
            {"max_tokens": 1},
            {"max_tokens": None},
            {"logprobs": True},
            {"tools": [TOOL]},
        ],
    ),
    "Completion": (
        text.load,
        text.CompletionSchema(),
        {"prompt": "a"},
        [{}, {"stream": True}, {"echo": True}, {"n": 3}, {"max_tokens": 0}],
    ),
    "Tokenize": (text.load_tokenize, text.TokenizeSchema(), {}, [{}, {"prompt": "a"}, HELLO]),
    "SimpleChat": (simple.load, simple.SimpleChatSchema(), {"message": "a"}, [{}, {"stream": True}]),
    "Session": (simple.session_name, simple.SessionSchema(), {}, [{}]),
    "Detokenize": (text.load_detokenize, text.DetokenizeSchema(), {"tokens": [1]}, [{}]),
}
"""Of each body in the document: its check, its schema, what it needs, and what may stand beside a field."""
FIELDS = [
    (name, place)
    for name, (_, schema, _, _) in BODIES.items()
    for place in [*schema.fields, *(chat.NOT_YET if name == "Chat" else ()), "suffix", "new"]
]


def test_every_body_of_the_document_is_tried() -> None:
    bodies = [one["requestBody"]["content"] for one in OPERATIONS.values() if "requestBody" in one]
    bodies = [content for content in bodies if "application/json" in content]  # a form is of texts
    assert {content["application/json"]["schema"]["$ref"].rpartition("/")[2] for content in bodies} == set(
        BODIES
    )


@pytest.mark.parametrize(("name", "place"), FIELDS)
def test_the_document_allows_what_the_check_allows(name: str, place: str) -> None:
    load, _, needed, beside = BODIES[name]
    bodies = [needed | more | {place: value} for value in ODD for more in beside]
    if place != "messages":
        assert any(not verdict(load, body) for body in bodies)
    assert disagreements(load, name, bodies) == []


@pytest.mark.parametrize("role", [*ROLES, "robot", None, 3])
def test_the_document_allows_the_messages_that_the_check_allows(role: Any) -> None:
    kinds = ("text", "refusal", "image", "image_url", "video", "video_url", "audio")
    parts: list[Any] = [{"type": kind, kind: "a"} for kind in kinds]
    parts += [
        {"type": "image_url", "image_url": {"url": "a", "detail": detail}} for detail in ("low", "x", None)
    ]
    parts += [{"type": "image_url"}, {"type": "text", "text": 3}, {"text": "a"}, "a", None]
    contents = [*ODD, *([part] for part in parts), parts[:4]]
    make: Callable[..., dict[str, Any]] = partial(dict, role=role)
    messages = [
        make(content=content, **more)
        for content in contents
        for more in ({}, {"tool_call_id": "a"}, {"tool_call_id": ""}, {"tool_call_id": None}, {"name": 3})
    ]
    messages += [make(), make(tool_call_id="a"), {"content": "a"}]
    calls: list[Any] = [*ODD, *([call] for call in ODD)]
    calls += [[{"id": "a", "function": {"name": "f", "arguments": odd}}] for odd in [*ODD, "{}", "[]"]]
    calls += [[{"id": odd, "type": "function", "function": {"name": odd, "arguments": ""}}] for odd in ODD]
    messages += [make(content="a", tool_call_id="a", tool_calls=call) for call in calls]
    assert disagreements(chat.load, "Chat", [{"messages": [message]} for message in messages]) == []


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_the_document_allows_the_tools_and_variables_that_the_check_allows(odd: Any) -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    tools = [{"type": odd, "function": function}, {"type": "function", "function": odd}]
    tools += [{"type": "function", "function": function | {name: odd}} for name in (*function, "strict")]
    tools += [
        {"type": "function", "function": {"name": name}} for name in ("a b", "x" * 65, "é", "a-Z_0", "a\n")
    ]
    bodies = [HELLO | {"tools": [tool]} for tool in tools]
    bodies += [
        HELLO | {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": odd}}},
        HELLO | {"tools": [TOOL], "tool_choice": odd},
    ]
    names = ("enable_thinking", "a", "a b", "_", "é", "chat_template", "tokenize", "1a", "a\n")
    bodies += [HELLO | {"chat_template_kwargs": {name: odd}} for name in names]
    bodies += [HELLO | {"logit_bias": {name: odd}} for name in ("5", "05", "a", "-1", "1" * 11, "", "5\n")]
    assert disagreements(chat.load, "Chat", bodies) == []


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_the_document_allows_the_prompts_and_tokens_that_the_check_allows(odd: Any) -> None:
    prompts = [odd, [odd], [odd, odd], [odd, 1], [odd, "a"], [[odd]], [[1], odd], [[1], [odd]], [odd] * 129]
    assert disagreements(text.load, "Completion", [{"prompt": prompt} for prompt in prompts]) == []
    tokens = [odd, [odd], [1, odd]]
    assert disagreements(text.load_detokenize, "Detokenize", [{"tokens": some} for some in tokens]) == []


def undocumented(value: Any, schema: dict[str, Any], place: str = "") -> Iterator[str]:
    """The places of fields in an answer that the document does not know."""
    schema = resolved(schema)
    for kind in schema.get("anyOf", []):
        if resolved(kind).get("type") != "null" and value is not None:
            yield from undocumented(value, kind, place)
    if isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if name not in schema["properties"]:
                yield f"{place}.{name}"
            else:
                yield from undocumented(inner, schema["properties"][name], f"{place}.{name}")
    if isinstance(value, list):
        for item in value:
            yield from undocumented(item, schema.get("items", {}), f"{place}[]")


def assert_described(value: Any, schema: dict[str, Any]) -> None:
    assert valid(schema, value)
    assert list(undocumented(value, schema)) == []


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/second", "/health", "/health/ready", "/openapi.json"]
)
@pytest.mark.parametrize("loaded", [False, True])
def test_answers_are_as_the_document_says(client: FlaskClient, path: str, loaded: bool) -> None:
    if loaded:
        client.post("/v1/chat/completions", json=HELLO)
    response = client.get(path)
    described = OPERATIONS[f"GET {path.replace('second', '{name}')}"]["responses"]["200"]["content"]
    assert_described(response.get_json(), described["application/json"]["schema"])


def test_a_whole_answer_is_as_the_document_says(client: FlaskClient) -> None:
    assert_described(client.post("/v1/chat/completions", json=HELLO).get_json(), ref("ChatCompletion"))


LOGPROBS = Logprobs(-0.5, ((1, -0.5), (2, -1.5)))
SCRIPT = [Token(72, "<think>H</think>", LOGPROBS), Token(73, "I", LOGPROBS), Token(74, "J", LOGPROBS)]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO | {"logprobs": True, "top_logprobs": 2},
    "/v1/completions": {"prompt": "a", "logprobs": 2, "echo": True},
}


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_with_everything_is_as_the_document_says(client: FlaskClient, path: str) -> None:
    client.application.extensions["house"].engine.script = [*SCRIPT, Finish("length")]
    content = OPERATIONS[f"POST {path}"]["responses"]["200"]["content"]
    whole = client.post(path, json=ASKED[path]).get_json()
    assert whole["choices"][0]["logprobs"]
    assert_described(whole, content["application/json"]["schema"])
    body = ASKED[path] | {"stream": True, "stream_options": {"include_usage": True}}
    events = read(client.post(path, json=body).data)
    assert len(events) > 3
    payload = content["text/event-stream"]["schema"]["properties"]["data"]["anyOf"][0]
    for _, data in events[:-1]:
        assert_described(data, payload["contentSchema"]["anyOf"][0])


def test_tool_calls_are_as_the_document_says(client: FlaskClient) -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    engine = client.application.extensions["house"].engine
    engine.info = replace(engine.info, tool_format="hermes")
    engine.script = says(call)
    body = HELLO | {"tools": [TOOL]}
    whole = client.post("/v1/chat/completions", json=body).get_json()
    assert whole["choices"][0]["message"]["tool_calls"]
    assert_described(whole, ref("ChatCompletion"))
    events = read(client.post("/v1/chat/completions", json=body | {"stream": True}).data)
    assert any(data["choices"][0]["delta"].get("tool_calls") for _, data in events[:-1])
    for _, data in events[:-1]:
        assert_described(data, ref("ChatChunk"))


@pytest.mark.parametrize("more", [{}, {"return_token_strs": True}])
def test_tokens_and_texts_are_as_the_document_says(client: FlaskClient, more: dict[str, Any]) -> None:
    tokens = client.post("/v1/tokenize", json={"prompt": "Hello"} | more).get_json()
    assert_described(tokens, ref("Tokens"))
    assert_described(client.post("/v1/detokenize", json={"tokens": [72]}).get_json(), ref("Detokenized"))


def test_an_error_is_as_the_document_says(client: FlaskClient) -> None:
    for response in (client.get("/nothing"), client.post("/v1/chat/completions", json={})):
        assert_described(response.get_json(), ref("Error"))


def test_the_document_is_made_once(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get("/openapi.json")
    assert first.get_json() == DOCUMENT
    monkeypatch.setattr("app.routes.docs.document", None)
    assert client.get("/openapi.json").data == first.data
