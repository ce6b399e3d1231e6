"""The simple API: what may come in to /chat and /reset, and the session's name and the request it becomes."""

import re
from typing import Any

from marshmallow import ValidationError, post_load

from app.engine.types import ChatRequest, ImagePart, Message, TextPart
from app.schemas.content import MAX_PARTS
from app.schemas.fields import Body, Flag, Integer, Items, Number, Text, checked

DEFAULT_SESSION = "default"
TEMPERATURE = 0.7
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@~+=-]{0,127}")


class SessionName(Text):
    """A session's name: it must fit into an address."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        name = super()._deserialize(value, attr, data, **options)
        if not NAME.fullmatch(name):
            raise ValidationError("must be 1 to 128 letters, digits and _ . : @ ~ + = - (not first)")
        return name


class SessionSchema(Body):
    """{"session_id": …}, the body of /reset and the query of /status."""

    session_id = SessionName(allow_none=True)


class SimpleChatSchema(SessionSchema):
    """The body of /chat."""

    message = Text(required=True, least=1)
    max_tokens = Integer(low=1, high=10**9, allow_none=True)
    temperature = Number(low=0, high=2, allow_none=True)
    images = Items(Text(least=1), most=MAX_PARTS, allow_none=True)
    stream = Flag(allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> tuple[str, ChatRequest]:
        given = {name: value for name, value in data.items() if value is not None}
        pictures = [
            ImagePart(source, f"images[{index}]") for index, source in enumerate(given.get("images", ()))
        ]
        message = Message("user", (*pictures, TextPart(given["message"])))
        request = ChatRequest(
            messages=(message,),
            max_tokens=given.get("max_tokens"),
            temperature=given.get("temperature", TEMPERATURE),
            stream=given.get("stream", False),
        )
        return given.get("session_id", DEFAULT_SESSION), request


def load(body: Any) -> tuple[str, ChatRequest]:
    """The session's name and the request of a parsed body of /chat; raises InvalidRequest."""
    found: tuple[str, ChatRequest] = checked(SimpleChatSchema(), body)
    return found


def session_name(body: Any) -> str:
    """The session that a body or a query names, else the default one; raises InvalidRequest."""
    return checked(SessionSchema(), body).get("session_id") or DEFAULT_SESSION
