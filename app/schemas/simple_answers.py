"""What the simple API answers, described for /openapi.json."""

from typing import Any

from marshmallow import fields, validate

from app.schemas.fields import Body, SchemaOf, always


class PlainErrorSchema(Body):
    """Every error of the simple API."""

    error = fields.String(required=True, metadata={"description": "a sentence for people"})


class TurnSchema(Body):
    """An answer of the simple API."""

    message = fields.String(required=True, metadata={"description": "what was asked"})
    response = fields.String(required=True)
    status = always("success")
    session_id = fields.String(required=True)
    finish_reason = fields.String(required=True, validate=validate.OneOf(("stop", "length")))


class TurnPieceSchema(Body):
    """A piece of a streamed answer; the last event is the whole of it."""

    delta = fields.String(required=True)
    session_id = fields.String(metadata={"description": "in the first"})


class TurnEventSchema(Body):
    """One event of a streamed answer: a piece, or at the end the whole."""

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """Either kind, for the document."""
        return {"anyOf": [of(TurnPieceSchema()), of(TurnSchema())]}


class DoneSchema(Body):
    """That it was done."""

    status = always("success")
    message = fields.String()
    session_id = fields.String()
    deleted = fields.Integer(metadata={"description": "how many conversations were forgotten"})


class StatusSchema(Body):
    """What the server does."""

    model_name = fields.String(required=True)
    device = fields.String(required=True)
    conversation_length = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "in messages; null where the file of conversations cannot be read"},
    )
    memory_allocated = fields.Integer(required=True, metadata={"description": "bytes of loaded weights"})
    running = fields.Integer(required=True)
    waiting = fields.Integer(required=True)


class SessionSummarySchema(Body):
    """A stored conversation; times are in seconds since 1970."""

    session_id = fields.String(required=True)
    rounds = fields.Integer(required=True)
    created = fields.Integer(required=True)
    updated = fields.Integer(required=True)


class SessionListSchema(Body):
    """The caller's conversations, the last used first."""

    sessions = fields.List(fields.Nested(SessionSummarySchema), required=True)


class SessionMessageSchema(Body):
    """A message of a stored conversation."""

    role = fields.String(required=True, validate=validate.OneOf(("user", "assistant")))
    content = fields.String(required=True)
    images = fields.Integer(metadata={"description": "how many pictures came with it"})


class StoredSessionSchema(SessionSummarySchema):
    """A stored conversation with its messages, the oldest first."""

    messages = fields.List(fields.Nested(SessionMessageSchema), required=True)
