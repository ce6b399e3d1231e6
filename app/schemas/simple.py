"""The simple API: what may come in to /chat and /reset, and the session's name and the request it becomes."""

from typing import Any

from marshmallow import post_load

from app.engine.media_types import ImagePart
from app.engine.types import ChatRequest, Message, TextPart
from app.schemas.content import MAX_PARTS, MOST
from app.schemas.fields import Body, Flag, Integer, Items, Matching, Number, Text, checked
from app.schemas.sampling import about

DEFAULT_SESSION = "default"
TEMPERATURE = 0.7
NAME = "[A-Za-z0-9_][A-Za-z0-9_.:@~+=-]{0,127}"
"""Of a session: it must fit into an address."""


class SessionSchema(Body):
    """{"session_id": …}, the body of /reset and the query of /status."""

    session_id = Matching(
        NAME,
        "must be 1 to 128 letters, digits and _ . : @ ~ + = - (not first)",
        **about("the conversation; else the one called default"),
    )


class SimpleChatSchema(SessionSchema):
    """The body of /chat."""

    message = Text(required=True, least=1, metadata={"description": "what is said"})
    max_tokens = Integer(low=1, high=10**9, **about("at most so many; else 512, or what still fits"))
    temperature = Number(low=0, high=2, **about("else 0.7; 0 is greedy"))
    images = Items(Text(least=1, most=MOST), most=MAX_PARTS, **about("pictures, as in image_url"))
    stream = Flag(**about("answer in server-sent events"))

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
            temperature=given.get("temperature"),
            usual_temperature=TEMPERATURE,
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
