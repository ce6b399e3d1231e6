"""What was made of each picture and clip of a request, as a client is told with return_media_info."""

from collections.abc import Sequence
from typing import Any

from app.engine.media_types import ImagePart, VideoPart
from app.engine.types import PromptInfo
from app.services.media import Prepared


def told(prepared: Sequence[Prepared], prompt: PromptInfo) -> list[dict[str, Any]]:
    """One for each, in the request's order; each has the share of its tokens of the time to encode all."""
    pictures = [one for one in prepared if isinstance(one.part, ImagePart)]
    clips = [one for one in prepared if isinstance(one.part, VideoPart)]
    known = len(prompt.media_tokens) == len(prepared)  # else two of them stand side by side
    counts = {
        id(one): count for one, count in zip([*pictures, *clips], prompt.media_tokens, strict=False) if known
    }
    whole = prompt.encoded if known else None
    share = None if whole is None else whole / max(1, sum(prompt.media_tokens))
    return [_one(one, counts.get(id(one)), share) for one in prepared]


def _one(made: Prepared, tokens: int | None, encoded: float | None) -> dict[str, Any]:
    part = made.part
    body: dict[str, Any] = {
        "param": part.param,
        "type": "image" if isinstance(part, ImagePart) else "video",
        "original": _size(*made.size),
        "resized": _size(*_resized(part)),
        "tokens": tokens,
        "cache_hit": made.is_known,
        "fetch_ms": _milliseconds(made.fetched),
        "decode_ms": _milliseconds(made.decoded),
        "encode_ms": None if encoded is None else _milliseconds(encoded * (tokens or 0)),
    }
    if isinstance(part, VideoPart) and part.clip is not None:
        clip = part.clip
        body |= {
            "fps": round(clip.fps, 6),
            "duration": round(clip.total / clip.fps, 3),
            "total_frames": clip.total,
            "frames": [{"index": index, "time": round(index / clip.fps, 3)} for index in clip.indices],
        }
    return body


def _resized(part: ImagePart | VideoPart) -> tuple[int, int]:
    if isinstance(part, ImagePart):
        return part.image.width, part.image.height
    height, width = part.clip.frames.shape[1:3] if part.clip is not None else (0, 0)
    return int(width), int(height)


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
