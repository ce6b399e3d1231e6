"""POST /v1/media/describe: a form with a file and a question, and the ChatRequest that it becomes."""

import re
from collections.abc import Mapping
from typing import IO, Any

from marshmallow import fields, post_load, pre_load

from app.engine.media_types import ImagePart
from app.engine.types import ChatRequest, Message, TextPart
from app.errors import InvalidRequest
from app.schemas.fields import Body, Flag, Integer, Number, SchemaOf, Text, checked
from app.schemas.sampling import MODEL, about

WORDS = {"true": True, "1": True, "false": False, "0": False}


class File(fields.Field[Any]):
    """The bytes of an uploaded file."""

    def json_schema(self, of: SchemaOf) -> dict[str, Any]:
        """As OpenAPI has it."""
        return {"type": "string", "format": "binary"}


class UploadSchema(Body):
    """The form of /v1/media/describe."""

    file = File(required=True, metadata={"description": "a picture or a video"})
    prompt = Text(required=True, least=1, metadata={"description": "what is asked about it"})
    model = Text(**MODEL)
    max_tokens = Integer(low=1, high=10**9, **about("at most so many"))
    temperature = Number(low=0, high=2, **about("0 is greedy; else the model's"))
    stream = Flag(**about("answer in server-sent events"))

    @pre_load
    def read_texts(self, data: Any, **_: Any) -> Any:
        """What forms have as text becomes what it means; empty fields are as if they were not there."""
        none = {name for name, value in data.items() if value == "" or (value == "null" and name != "prompt")}
        given = {name: value for name, value in data.items() if name not in none}
        for name in ("max_tokens", "temperature"):
            if re.fullmatch(r"-?\d{1,15}(\.\d{1,99})?([eE][+-]?\d{1,3})?", str(given.get(name, ""))):
                number = float(given[name])
                given[name] = int(number) if number.is_integer() else number
        if "stream" in given:
            given["stream"] = WORDS.get(str(given["stream"]).lower(), given["stream"])
        return given

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ChatRequest:
        given = {name: value for name, value in data.items() if value is not None}
        message = Message("user", (ImagePart(given["file"], "file"), TextPart(given["prompt"])))
        return ChatRequest(
            messages=(message,),
            model=given.get("model"),
            max_tokens=given.get("max_tokens"),
            temperature=given.get("temperature"),
            stream=given.get("stream", False),
        )


def load(form: Mapping[str, str], files: Mapping[str, IO[bytes]]) -> ChatRequest:
    """The request of a parsed form; raises InvalidRequest."""
    if "file" in form:
        raise InvalidRequest("file is a text, where an upload with a filename is expected.", param="file")
    for name in files:
        if name != "file" and name in UploadSchema().fields:
            raise InvalidRequest(
                f"{name} is a file, where a text without a filename is expected.", param=name
            )
    found: ChatRequest = checked(UploadSchema(), {**form, **files})
    return found
