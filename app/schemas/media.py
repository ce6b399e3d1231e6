"""How pictures and videos are to be prepared: mm_processor_kwargs, of a request or of a single part."""

from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load

from app.engine.media_types import MediaOptions
from app.schemas.fields import Body, Integer, Number, Problem, SchemaOf
from app.schemas.sampling import about

HIGH = 10**9
SLOWEST = 0.001
"""Frames per second: a list's times are numbers over this one, and stay numbers."""
TAKEN = ("min_pixels", "max_pixels", "fps", "num_frames")


class MediaOptionsSchema(Body):
    """What the model's processor is told, within the server's ceilings."""

    min_pixels = Integer(low=1, high=HIGH, **about("a picture, or a frame, is resized to so many at least"))
    max_pixels = Integer(low=1, high=HIGH, **about("and to so many at most; never above --max-pixels"))
    fps = Number(
        low=SLOWEST,
        high=HIGH,
        **about("frames per second taken of a video, --video-fps at most; those of a list"),
    )
    num_frames = Integer(
        low=1, high=HIGH, **about("so many frames of a video, not of a list; never above --max-frames")
    )

    @classmethod
    def json_schema(cls, of: SchemaOf) -> dict[str, Any]:
        """That there is nothing else, for the document."""
        return {"propertyNames": {"enum": list(TAKEN)}}

    @pre_load
    def refuse_what_is_not_taken(self, data: Any, **_: Any) -> Any:
        if isinstance(data, dict) and (odd := sorted(str(name)[:50] for name in data if name not in TAKEN)):
            raise ValidationError({odd[0] or '""': [f"is not taken here; {', '.join(TAKEN)} are"]})
        return data

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> MediaOptions:
        given = {name: value for name, value in data.items() if value is not None}
        if given.get("min_pixels", 0) > given.get("max_pixels", HIGH):
            raise ValidationError({"min_pixels": [Problem("is more than max_pixels")]})
        if "fps" in given and "num_frames" in given:
            raise ValidationError({"num_frames": [Problem("and fps say the same; send one of them")]})
        return MediaOptions(**given)


class MediaPartSchema(Body):
    """What parts with pictures and videos have in common."""

    mm_processor_kwargs = fields.Nested(
        MediaOptionsSchema, **about("how this one is prepared, before what the request says")
    )


def media_options(loaded: MediaOptions | None) -> MediaOptions:
    """The options of a loaded field, which may be absent."""
    return loaded or MediaOptions()


def merged(own: MediaOptions, request: MediaOptions) -> MediaOptions:
    """A part's own options, and the request's for what it does not say."""
    timed = own.fps is not None or own.num_frames is not None
    return MediaOptions(
        request.min_pixels if own.min_pixels is None else own.min_pixels,
        request.max_pixels if own.max_pixels is None else own.max_pixels,
        own.fps if timed else request.fps,
        own.num_frames if timed else request.num_frames,
        most_pixels=own.most_pixels,
    )
