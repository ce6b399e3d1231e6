"""Tools: the functions that a model may call, which of them it must, and the calls of earlier turns."""

from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from app.engine.types import Function, Message, ToolCall, Tools
from app.schemas.fields import Body, Flag, Matching, Problem, SchemaOf, Text
from app.schemas.json_schema import JsonSchemaField, check_promise

MAX_TOOLS = 128
NAME = "[a-zA-Z0-9_-]{1,64}"
CHOICES = ("none", "auto", "required")

_one_kind = validate.OneOf(("function",), error="must be function: there are no other tools here")


class Parameters(JsonSchemaField):
    """A JSON schema of an object."""

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """What is asked of the schema, for the document."""
        return {"properties": {"type": {"const": "object"}}}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super()._deserialize(value, attr, data, **options)
        if schema.get("type", "object") != "object":
            raise ValidationError("must be the schema of an object")
        return schema


class FunctionSchema(Body):
    """{"name": …, "description": …, "parameters": JSON schema, "strict": false}"""

    name = Matching(NAME, "must be 1 to 64 letters, digits, _ or -", required=True)
    description = Text(allow_none=True)
    parameters = Parameters(allow_none=True, metadata={"description": "the JSON schema of the arguments"})
    strict = Flag(allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Function:
        strict, parameters = bool(data.get("strict")), data.get("parameters") or {}
        if strict:
            check_promise(parameters, "parameters")
        return Function(data["name"], parameters, data.get("description"), strict)


class ToolSchema(Body):
    """{"type": "function", "function": {…}}"""

    type = Text(required=True, validate=_one_kind)
    function = fields.Nested(FunctionSchema, required=True)


class NamedFunctionSchema(Body):
    """{"name": …}"""

    name = Text(required=True)


class NamedToolSchema(Body):
    """{"type": "function", "function": {"name": …}}"""

    type = Text(required=True, validate=_one_kind)
    function = fields.Nested(NamedFunctionSchema, required=True)


class ToolChoice(fields.Field[str | dict[str, Any]]):
    """none, auto, required, or a function by its name."""

    named = NamedToolSchema()

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """Either form, for the document."""
        return {"anyOf": [{"type": "string", "enum": list(CHOICES)}, of(self.named)]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> str | dict[str, Any]:
        if isinstance(value, dict):
            loaded: dict[str, Any] = self.named.load(value)
            return loaded
        if value not in CHOICES:
            raise ValidationError(f"must be one of {', '.join(CHOICES)}, or name a function")
        return str(value)


class CalledFunctionSchema(Body):
    """{"name": …, "arguments": the text of a JSON object, or what a model wrote for one}"""

    name = Text(required=True, most=256)
    arguments = Text(
        required=True, metadata={"description": "the text of a JSON object, or what was written for one"}
    )


class ToolCallSchema(Body):
    """A call of an earlier turn."""

    id = Text(required=True, most=256)
    type = Text(validate=_one_kind)
    function = fields.Nested(CalledFunctionSchema, required=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ToolCall:
        called = data["function"]
        return ToolCall(data["id"], called["name"], called["arguments"] or "{}")


def tools(given: dict[str, Any]) -> Tools | None:
    """What may be called, of a checked body; raises ValidationError for a choice that cannot be."""
    functions = tuple(tool["function"] for tool in given.get("tools", ()))
    choice = given.get("tool_choice", "auto")
    if not functions:
        if "tools" in given and choice == "auto":
            return None  # a list that turned out to be empty
        for name in ("tool_choice", "parallel_tool_calls"):
            if given.get(name) not in (None, "none"):
                raise ValidationError({name: [Problem("needs tools, and there are none")]})
        return None
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            problem = Problem(f"is there twice: {name}")
            raise ValidationError({"tools": {index: {"function": {"name": [problem]}}}})
    parallel = given.get("parallel_tool_calls", True)
    if isinstance(choice, str):
        return Tools(functions, choice, parallel=parallel)  # type: ignore[arg-type]  # one of CHOICES
    named = choice["function"]["name"]
    if named not in names:
        raise ValidationError({"tool_choice": [Problem(f"names {named[:64]!r}, which is none of the tools")]})
    return Tools(functions, "required", named, parallel=False)


def check_answers(messages: tuple[Message, ...]) -> None:
    """Raise ValidationError unless each message with calls is followed by the tools' messages that answer all
    of them, and by no others.
    """
    caller, called, waiting = 0, set[str](), set[str]()
    for index, message in enumerate(messages):
        if message.tool_call_id is not None:
            if message.tool_call_id not in called:
                problem = (
                    f"is {message.tool_call_id[:64]!r}, and no message just before has a call with this id"
                )
                raise ValidationError({"messages": {index: {"tool_call_id": [Problem(problem)]}}})
            waiting.discard(message.tool_call_id)
        elif waiting:
            break
        else:
            caller, called = index, {call.id for call in message.tool_calls}
            waiting = set(called)
    if waiting:
        problem = f"must be followed by a message of role tool for each; none answers {min(waiting)[:64]!r}"
        raise ValidationError({"messages": {caller: {"tool_calls": [Problem(problem)]}}})
