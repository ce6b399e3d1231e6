"""The simple API for scripts: /chat keeps the conversation, /reset forgets it, /sessions shows them."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, current_app, request

from app.errors import InvalidRequest, Overloaded, RequestTimeout, SessionNotFound, Unavailable
from app.routes import keys
from app.routes.describe import GENERATION, describe
from app.routes.hooks import SIMPLE_STATUS, client_left, has_body, json_body, json_response
from app.routes.sse import stream
from app.schemas import simple
from app.schemas import simple_answers as answers
from app.services.conversations import Session

bp = Blueprint("legacy", __name__)
PLAIN: dict[str, Any] = {"failure": answers.PlainErrorSchema, "statuses": SIMPLE_STATUS}
FORGETTING = (RequestTimeout, Overloaded, Unavailable)
"""What can go wrong where a turn may have to end first."""
SUMMARY = {"session_id": "default", "rounds": 1, "created": 1763700000, "updated": 1763700060}
ROUND = [{"role": "user", "content": "Hello!", "images": 0}, {"role": "assistant", "content": "Hello!"}]
STATUS = {
    "model_name": "demo",
    "device": "cpu",
    "conversation_length": 2,
    "memory_allocated": 26018048,
    "running": 0,
    "waiting": 0,
}


@bp.post("/chat")
@describe(
    body=simple.SimpleChatSchema,
    example={"message": "Hello! What can you do?"},
    answered={
        "message": "Hello! What can you do?",
        "response": "I can describe one to four simple shapes.",
        "status": "success",
        "session_id": "default",
        "finish_reason": "stop",
    },
    answer=answers.TurnSchema,
    events=answers.TurnEventSchema,
    errors=(*GENERATION, Unavailable),
    **PLAIN,
)
def chat() -> Response:
    """The answer to a message, after what was said before; whole or streamed."""
    name, asked = simple.load(json_body())
    turn = current_app.extensions["turns"].start(_session(name), asked, client_left(request))
    return stream(turn) if asked.stream else json_response(turn.collect())


@bp.post("/reset")
@describe(
    body=simple.SessionSchema,
    needs_body=False,
    example={"session_id": "default"},
    answered={"status": "success", "session_id": "default"},
    answer=answers.DoneSchema,
    errors=FORGETTING,
    **PLAIN,
)
def reset() -> Response:
    """Forget a conversation, there or not."""
    name = simple.session_name(json_body() if has_body() else {})
    current_app.extensions["turns"].forget(_session(name), client_left(request))
    return json_response(
        {"status": "success", "message": "The conversation was forgotten.", "session_id": name}
    )


@bp.get("/status")
@describe(query=simple.SessionSchema, answer=answers.StatusSchema, example=STATUS, **PLAIN)
def status() -> Response:
    """The default model, the length of a conversation in messages (null where none can be read), and what is
    loaded and running.
    """
    session = _session(simple.session_name(request.args.to_dict()))
    registry = current_app.extensions["registry"]
    spec = registry.catalog.resolve(None)
    engines = registry.engines()
    running, waiting = current_app.extensions["completions"].busy()
    return json_response(
        {
            "model_name": spec.id,
            "device": next((engine.device for engine in engines if engine.spec.id == spec.id), spec.device),
            "conversation_length": _messages(session),
            "memory_allocated": sum(engine.memory_bytes() for engine in engines),
            "running": running,
            "waiting": waiting,
        }
    )


@bp.get("/sessions")
@describe(answer=answers.SessionListSchema, example={"sessions": [SUMMARY]}, errors=(Unavailable,), **PLAIN)
def list_sessions() -> Response:
    """The caller's conversations, the last used first."""
    found = current_app.extensions["conversations"].list(keys.owner())
    return json_response({"sessions": [asdict(summary) for summary in found]})


@bp.delete("/sessions")
@describe(answer=answers.DoneSchema, example={"status": "success", "deleted": 1}, errors=FORGETTING, **PLAIN)
def forget_all_sessions() -> Response:
    """Forget all of the caller's conversations."""
    owner, turns = keys.owner(), current_app.extensions["turns"]
    names = [summary.session_id for summary in current_app.extensions["conversations"].list(owner)]
    gone = [name for name in names if turns.forget(Session(owner, name), client_left(request))]
    return json_response({"status": "success", "deleted": len(gone)})


@bp.get("/sessions/<name>")
@describe(
    answer=answers.StoredSessionSchema,
    example=SUMMARY | {"messages": ROUND},
    errors=(InvalidRequest, SessionNotFound, Unavailable),
    **PLAIN,
)
def read_session(name: str) -> Response:
    """One conversation; of its pictures only how many."""
    conversations, session = current_app.extensions["conversations"], _session(name)
    body = asdict(conversations.summary(session))
    messages = []
    for one in conversations.rounds(session):
        messages.append({"role": "user", "content": one.message, "images": len(one.pictures)})
        messages.append({"role": "assistant", "content": one.response})
    return json_response(body | {"messages": messages})


@bp.delete("/sessions/<name>")
@describe(
    answer=answers.DoneSchema,
    example={"status": "success", "session_id": "default"},
    errors=(InvalidRequest, SessionNotFound, *FORGETTING),
    **PLAIN,
)
def forget_session(name: str) -> Response:
    """Forget one conversation."""
    session = _session(name)
    current_app.extensions["conversations"].summary(session)  # a 404 does not wait
    current_app.extensions["turns"].forget(session, client_left(request))
    return json_response({"status": "success", "session_id": name})


def _session(name: str) -> Session:
    """The caller's session of that name; raises InvalidRequest for a key, which is to be stored nowhere."""
    if current_app.extensions["keys"].is_one(name):
        raise InvalidRequest("session_id must not be a key.", param="session_id")
    return Session(keys.owner(), name)


def _messages(session: Session) -> int | None:
    """The length of a conversation; None where the file cannot be read now, as the log says."""
    try:
        return 2 * int(current_app.extensions["conversations"].length(session))
    except Unavailable:
        return None
