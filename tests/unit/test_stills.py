"""Videos that come as pictures: an animated WEBP by its times, a list of frames as it is."""

import io
import threading
from collections.abc import Sequence

import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.media import images, stills
from app.media.limits import Limits
from app.media.video import Video
from tests import harmful
from tests.unit.test_video import LIMITS, Plan, numbers, whites


def animated(
    durations: Sequence[int], indices: Sequence[int] | None = None, limits: Limits = LIMITS
) -> Video:
    """What is kept of a WEBP whose frames are shown for so many milliseconds."""
    frames, file = whites(len(durations)), io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=list(durations), lossless=True
    )
    with images.animated(file, "place", 10**6) as opened:
        return stills.animation(
            opened,
            lambda total, *_: Plan(tuple(range(total) if indices is None else indices)),
            limits,
            "place",
            threading.Event(),
        )


def test_an_animation_of_equal_frames_is_kept_by_their_numbers() -> None:
    found = animated([100] * 12, [0, 5, 11])
    assert (numbers(found), found.indices, found.total) == ([0, 5, 11], (0, 5, 11), 12)
    assert found.fps == pytest.approx(10)


def test_of_frames_that_last_differently_those_are_kept_that_are_shown_at_the_time() -> None:
    found = animated([700, 100, 100, 100])
    assert numbers(found) == [0, 0, 0, 2]
    assert found.fps == pytest.approx(4)


def test_a_still_webp_is_a_clip_of_one_frame() -> None:
    found = animated([100], [0, 0])
    assert (found.total, numbers(found)) == (1, [0, 0])


def test_an_animation_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="2 seconds long; the most is 1") as caught:
        animated([1000] * 3, limits=Limits(10**6, 1, 10**8))
    assert caught.value.code == "video_too_long"


def test_an_animation_of_too_many_pixels_is_refused_before_a_frame_of_it_is_decoded() -> None:
    data = harmful.webp(1000, 400)
    stopped = threading.Event()
    stopped.set()  # so the first frame would be given up
    limits = Limits(10**6, 1000, 159 * 10**6)
    with (
        pytest.raises(InvalidRequest, match=r"1000 frames of 400 × 400 = 160\.0 megapixels") as caught,
        images.animated(io.BytesIO(data), "place", 10**6) as opened,
    ):
        stills.animation(opened, lambda *_: Plan((0,)), limits, "place", stopped)
    assert (caught.value.code, caught.value.param) == ("video_too_large", "place")
    assert "at most 159 are taken" in str(caught.value)


def test_a_list_is_kept_whole_and_an_odd_last_one_twice_with_one_decoded_at_a_time() -> None:
    pictures, decoded = whites(5), list[int]()

    def picture(number: int) -> Image.Image:
        decoded.append(number)
        return pictures[number]

    found = stills.listed(5, picture, lambda total, *_: Plan(tuple(range(total))), 2.0)
    assert (numbers(found), found.total, found.fps) == ([0, 1, 2, 3, 4, 4], 6, 2.0)
    assert sorted(decoded) == [0, 1, 2, 3, 4]


def test_an_animation_nobody_waits_for_is_given_up() -> None:
    stopped = threading.Event()
    stopped.set()
    file = io.BytesIO()
    whites(1)[0].save(file, "WEBP")
    with pytest.raises(InvalidRequest), images.animated(file, "place", 10**6) as opened:
        stills.animation(opened, lambda *_: Plan((0,)), LIMITS, "place", stopped)
