"""Video files: which frames are kept and how they stand, whatever the header says."""

import io
import random
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import pytest
from PIL import Image

from app.errors import InvalidRequest, Unavailable
from app.media import trim, video
from app.media.limits import Limits
from app.media.video import Video
from tests import clips
from tests.harmful import audio, gif, scans, streams

LIMITS = Limits(10**7, 1000, 10**8)


@dataclass
class Plan:
    """Every frame with one of these numbers, as it is; counts how many it has made."""

    indices: tuple[int, ...]
    made: list[Any] = field(default_factory=list)

    def fit(self, frame: Any) -> Any:
        self.made.append(frame)
        return frame.copy()


def whole(total: int, *_: object) -> Plan:
    return Plan(tuple(range(total)))


def decoded(
    data: bytes, planner: Callable[..., Plan] = whole, limits: Limits = LIMITS, stop: bool = False
) -> Video:
    stopped = threading.Event()
    if stop:
        stopped.set()
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return video.decode(file, data[:4096], planner, limits, "place", stopped)


def refused(data: bytes, words: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidRequest, match=words) as caught:
        decoded(data, limits=limits)
    assert caught.value.param == "place"
    return caught.value.code


def whites(count: int, size: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    """Frames of one grey each, lighter from one to the next: which one it is can be read from a pixel."""
    return [Image.new("RGB", size, (number * 4,) * 3) for number in range(count)]


def numbers(found: Video) -> list[int]:
    return [round(float(frame.mean()) / 4) for frame in found.frames]


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "avi", "flv", "wmv", "webm"])
@pytest.mark.parametrize("between_keys", ["60", "6", "1"])
def test_the_frames_of_these_numbers_are_kept(kind: str, between_keys: str) -> None:
    data = clips.video(whites(60), kind, fps=10, g=between_keys)
    plan = Plan((0, 7, 29, 30, 58, 59))
    found = decoded(data, lambda *_: plan)
    assert numbers(found) == pytest.approx([0, 7, 29, 30, 58, 59], abs=0)
    assert (found.indices, found.total, found.size) == (plan.indices, 60, (64, 64))
    assert found.fps == pytest.approx(10, rel=0.02)
    assert len(plan.made) == 6  # of sixty


def test_a_frame_that_is_kept_twice_is_made_once() -> None:
    plan = Plan((0, 0, 1, 1))
    assert numbers(decoded(clips.video(whites(2)), lambda *_: plan)) == [0, 0, 1, 1]
    assert len(plan.made) == 2


def test_frames_of_a_variable_rate_are_those_that_are_shown_at_the_time() -> None:
    """Ten a second for one second, then one that stands for nine: the numbers are those of equal frames."""
    data = clips.video(whites(12), "mkv", fps=10, times=[*range(11), 100])
    found = decoded(data, whole)
    assert found.total == 12
    assert numbers(found) == [4, *[10] * 10, 11]


@pytest.mark.parametrize(
    ("degrees", "size", "corner"),
    [(90, (64, 96), (60, 4)), (180, (96, 64), (92, 60)), (270, (64, 96), (4, 92))],
)
def test_a_turned_video_is_made_upright(degrees: int, size: tuple[int, int], corner: tuple[int, int]) -> None:
    frame = Image.new("RGB", (96, 64), "white")
    frame.paste("black", (0, 0, 16, 16))  # the top left corner, as the camera wrote it
    sizes = []

    def planner(total: int, fps: float, found: tuple[int, int]) -> Plan:
        sizes.append(found)
        return Plan((0, total - 1))

    found = decoded(clips.turned(clips.video([frame] * 4), degrees), planner)
    assert (sizes, found.size, found.frames.shape[1:3]) == ([size], size, size[::-1])
    x, y = corner
    for one in found.frames:
        assert one[y, x].max() < 60
        assert (one.min(axis=2) < 60).sum() == pytest.approx(256, abs=40)


def test_what_holds_no_frame_is_refused() -> None:
    clip = clips.video(whites(8))
    header = clip[: clip.index(b"moov") - 4]
    for data in (audio(), header, clip[:-200], b"", clip[:40]):
        assert refused(data, "broken or cut off|no frames|no video") == "invalid_video"


def test_limits_of_pixels_seconds_and_shape_are_named() -> None:
    data = clips.video(whites(20), fps=10)
    assert refused(data, "64 × 64", Limits(64 * 64 - 1, 10, 10**8)) == "video_too_large"
    assert refused(data, "2 seconds long; the most is 1.9", Limits(10**6, 1.9, 10**8)) == "video_too_long"
    assert decoded(data, limits=Limits(64 * 96, 2, 10**8)).total == 20
    line = clips.video(whites(2, (1010, 4)), "mkv")
    assert refused(line, "200 times") == "invalid_video"


def test_a_gif_of_too_many_pixels_is_refused_before_the_frames_that_are_kept_are_decoded() -> None:
    def planned(*_: object) -> Plan:
        raise AssertionError

    with pytest.raises(InvalidRequest, match=r"300 frames of 640 × 640 = 122\.9 megapixels") as caught:
        decoded(gif(300, 640), planned)
    assert caught.value.code == "video_too_large"
    assert decoded(gif(10, 640), lambda *_: Plan((0, 9))).total == 10


def test_more_frames_than_any_video_has_are_not_counted_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.media.limits.MOST_FRAMES", 10)
    assert refused(clips.video(whites(11)), "more than 10 frames") == "video_too_long"


def test_who_has_left_is_not_decoded_for() -> None:
    with pytest.raises(InvalidRequest):
        decoded(clips.video(whites(60)), stop=True)


def lying(kind: str, what: str) -> bytes:
    """A clip of 24 frames whose header says something else of its rate or length."""
    data = bytearray(clips.video(whites(24), kind))
    if kind == "avi":
        at = data.index(b"strh") + 8
        scale, rate, length = at + 20, at + 24, at + 32
        place, value = {
            "a billion a second": (rate, 10**9),
            "none a second": (rate, 0),
            "a billion frames": (length, 10**9),
            "no frames": (length, 0),
            "a scale of nothing": (scale, 0),
        }[what]
        data[place : place + 4] = struct.pack("<I", value)
    else:
        box, place, value = {
            "a billion a second": (b"mdhd", 12, 2**31 - 1),
            "none a second": (b"mdhd", 12, 0),
            "no length": (b"mdhd", 16, 0),
            "a billion frames": (b"stsz", 8, 10**9),
            "no frames": (b"stsz", 8, 0),
        }[what]
        at = data.index(box) + 4 + place
        data[at : at + 4] = struct.pack(">I", value)
    return bytes(data)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("avi", what) for what in ("a billion a second", "none a second", "a billion frames", "no frames")]
    + [("avi", "a scale of nothing"), ("mp4", "no length")]
    + [("mp4", what) for what in ("a billion a second", "none a second", "a billion frames", "no frames")],
)
def test_a_header_that_lies_gives_what_is_there_or_a_refusal(kind: str, what: str) -> None:
    try:
        found = decoded(lying(kind, what))
        code, total, fps = "", found.total, found.fps
    except InvalidRequest as error:
        code, total, fps = error.code, 24, 1.0
    assert code in ("", "invalid_video", "video_too_long")
    assert (total, 0 < fps <= video.FASTEST) == (24, True)


class Corner(Plan):
    """Of each frame one pixel, since frames of a broken file may be of several sizes."""

    def fit(self, frame: Any) -> Any:
        return frame[:1, :1]


def test_bytes_changed_at_random_give_frames_or_a_refusal() -> None:
    chance = random.Random(7)
    files = {kind: clips.video(clips.moving(count=6, size=(64, 64)), kind) for kind in clips.FORMATS}
    outcomes = set()
    for turn in range(160):
        kind = sorted(files)[turn % len(files)]
        data = bytearray(files[kind])
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            found = decoded(bytes(data), lambda total, *_: Corner(tuple(range(0, total, 2))))
            outcomes.add(found.frames.dtype.name)
        except InvalidRequest as error:
            outcomes.add(error.code)
    assert {"uint8", "invalid_video"} <= outcomes
    assert outcomes <= {"uint8", "invalid_video", "video_too_large", "video_too_long"}


def motion_jpeg(picture: bytes) -> bytes:
    """An AVI of two such JPEGs."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as output:
        stream: Any = output.add_stream("mjpeg", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        output.start_encoding()
        for number in range(2):
            packet = av.Packet(picture)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 2), True
            packet.pts = packet.dts = number
            output.mux(packet)
    return file.getvalue()


def test_a_frame_of_many_scans_is_refused_before_it_is_decoded() -> None:
    assert decoded(motion_jpeg(scans(20))).total == 2
    refused(motion_jpeg(scans(trim.MOST_SCANS)), "too many scans")


def test_a_transparent_clip_lies_on_white() -> None:
    frames = [Image.new("P", (8, 8), 0) for _ in range(2)]
    for number, frame in enumerate(frames):
        frame.putpalette([255, 0, 0, 0, 0, 0])
        frame.putpixel((number, 0), 1)
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], transparency=0, disposal=2)
    found = decoded(file.getvalue())
    assert found.frames[0, 7, 7].tolist() == [255, 255, 255]
    assert found.frames[0, 0, 0].tolist() == [0, 0, 0]


def waiting(*durations: int) -> bytes:
    """A GIF whose frames are shown for so many milliseconds."""
    frames, file = whites(len(durations)), io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=list(durations))
    return file.getvalue()


def test_of_a_gif_those_frames_are_kept_that_are_shown_at_the_time() -> None:
    found = decoded(waiting(700, 100, 100, 100))
    assert numbers(found) == [0, 0, 0, 2]
    assert found.fps == pytest.approx(4)
    found = decoded(waiting(100, 100, 100, 700))
    assert numbers(found) == [1, 3, 3, 3]
    assert found.fps == pytest.approx(4)
    found = decoded(waiting(*[100] * 12), lambda *_: Plan((0, 5, 11)))
    assert numbers(found) == [0, 5, 11]
    assert found.fps == pytest.approx(10)
    refused(waiting(100, 20_000), "20 seconds long", Limits(10**6, 10, 10**8))


def test_frames_that_refer_to_others_may_have_as_many_bytes_as_a_picture_pixels() -> None:
    data = clips.video(whites(3), "mp4")  # 64 × 64, 12 bits a pixel
    assert decoded(data, limits=Limits(64 * 96, 10, 10**8)).total == 3
    refused(data, r"frames of more than 0\.006\d* MB", Limits(64 * 95, 10, 10**8))


def test_a_file_of_many_streams_is_refused_before_they_are_decoded() -> None:
    assert decoded(streams(4, 64, 64)).total == 1
    refused(streams(5, 64, 64), "more than 4 streams of pictures")


def test_no_decoder_makes_a_frame_that_is_larger_than_the_limit_whatever_the_header_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FFmpeg decodes to open a file, and where it does, it writes the true size into the stream."""
    data, sizes, check = streams(1, 512, 64), set(), video._size

    def size(stream: Any, *rest: Any) -> Any:
        sizes.add(stream.codec_context.width)
        return check(stream, *rest)

    monkeypatch.setattr(video, "_size", size)
    assert decoded(data).size == (512, 512)
    refused(data, r"no frames of at most 0\.09 megapixels", Limits(300 * 300, 10, 10**8))
    assert sizes == {512, 0}


def test_a_server_that_can_start_no_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(Unavailable):
        decoded(clips.video(clips.moving(count=2, size=(64, 48)), "mp4", fps=10))
