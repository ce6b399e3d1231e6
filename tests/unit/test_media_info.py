"""What is told of each medium: its tokens and its share of the time, or that nobody knows."""

import numpy as np
from PIL import Image

from app.engine.media_types import Clip, ImagePart, VideoPart
from app.engine.types import PromptInfo
from app.services.media import Prepared
from app.services.media_info import told

PICTURE = Prepared(ImagePart("", "first", Image.new("RGB", (32, 64))), (320, 640), 0.001, 0.002, False)
CLIP = Prepared(
    VideoPart("", "second", Clip(np.zeros((2, 30, 20, 3), np.uint8), (0, 5), 4.0, 6, (200, 300))),
    (200, 300),
    0.0,
    0.0,
    True,
)


def test_tokens_are_in_the_models_order_and_objects_in_the_requests() -> None:
    clip, picture = told([CLIP, PICTURE], PromptInfo((), media_tokens=(30, 10), encoded=0.4))
    assert (picture["param"], picture["tokens"], picture["encode_ms"]) == ("first", 30, 300.0)
    assert (clip["param"], clip["tokens"], clip["encode_ms"]) == ("second", 10, 100.0)
    assert (picture["fetch_ms"], picture["decode_ms"], picture["cache_hit"]) == (1.0, 2.0, False)
    assert (picture["original"], picture["resized"]) == (
        {"width": 320, "height": 640},
        {"width": 32, "height": 64},
    )
    assert (clip["type"], clip["resized"], clip["cache_hit"]) == ("video", {"width": 20, "height": 30}, True)
    assert (clip["fps"], clip["duration"], clip["total_frames"]) == (4.0, 1.5, 6)
    assert clip["frames"] == [{"index": 0, "time": 0.0}, {"index": 5, "time": 1.25}]


def test_what_a_model_cannot_tell_is_null() -> None:
    (picture,) = told([PICTURE], PromptInfo((), media_tokens=(30,)))
    assert (picture["tokens"], picture["encode_ms"]) == (30, None)


def test_pictures_whose_tokens_stand_side_by_side_are_not_told_apart() -> None:
    both = told([PICTURE, PICTURE], PromptInfo((), media_tokens=(60,), encoded=1.0))
    assert [(one["tokens"], one["encode_ms"]) for one in both] == [(None, None)] * 2
