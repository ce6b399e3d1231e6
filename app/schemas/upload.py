"""POST /v1/media/describe: a form with a file and a question, and the ChatRequest that it becomes."""

import re
from collections.abc import Mapping
from typing import IO, Any

from marshmallow import fields, post_load, pre_load

from app.engine.media_types import ImagePart, VideoPart
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
    return_media_info = Flag(**about("tell in the usage, of a stream too, what was made of the file"))
    as_video = Flag(**about("see all of an animated GIF or WEBP, not its first frame"))

    @pre_load
    def read_texts(self, data: Any, **_: Any) -> Any:
        """What forms have as text becomes what it means; empty fields are as if they were not there."""
        none = {name for name, value in data.items() if value == "" or (value == "null" and name != "prompt")}
        given = {name: value for name, value in data.items() if name not in none}
        for name in ("max_tokens", "temperature"):
            if re.fullmatch(r"-?\d{1,15}(\.\d{1,99})?([eE][+-]?\d{1,3})?", str(given.get(name, ""))):
                number = float(given[name])
                given[name] = int(number) if number.is_integer() else number
        for name in ("stream", "return_media_info", "as_video"):
            if name in given:
                given[name] = WORDS.get(str(given[name]).lower(), given[name])
        return given

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ChatRequest:
        given = {name: value for name, value in data.items() if value is not None}
        part = (VideoPart if given.get("as_video") else ImagePart)(given["file"], "file")
        message = Message("user", (part, TextPart(given["prompt"])))
        return ChatRequest(
            messages=(message,),
            model=given.get("model"),
            max_tokens=given.get("max_tokens"),
            temperature=given.get("temperature"),
            stream=given.get("stream", False),
            media_info=given.get("return_media_info", False),
            include_usage=given.get("return_media_info", False),
        )


def load(form: Mapping[str, list[str]], files: Mapping[str, list[IO[bytes]]]) -> ChatRequest:
    """The request of a parsed form, all parts of each name; raises InvalidRequest.

    Parts of names that the schema does not have are passed over, however many.
    """
    if "file" in form:
        raise InvalidRequest("file is a text, where an upload with a filename is expected.", param="file")
    data: dict[str, Any] = {}
    for name in UploadSchema().fields:
        if name != "file" and name in files:
            raise InvalidRequest(
                f"{name} is a file, where a text without a filename is expected.", param=name
            )
        parts = files.get(name, []) if name == "file" else form.get(name, [])
        if len(parts) > 1:
            raise InvalidRequest(f"The form has {len(parts)} parts of this name.", param=name)
        if parts:
            data[name] = parts[0]
    found: ChatRequest = checked(UploadSchema(), data)
    return found
