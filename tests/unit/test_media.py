"""A request's media together: counted, told apart, prepared once, and within the time."""

import base64
import io
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from PIL import Image

from app.engine.media_types import ImagePart, MediaOptions, MediaPart, VideoPart
from app.engine.types import Message
from app.errors import ApiError, ContextLengthExceeded, InvalidRequest
from app.media import images
from app.services import media as services_media
from app.services.media import PLACES, Media, Prepared
from app.settings import Settings
from tests import clips
from tests.conftest import data_url, scene
from tests.media_server import serving
from tests.unit.conftest import ScriptedEngine


def nothing() -> None:
    pass


def picture(number: int = 0, size: int = 8) -> str:
    return data_url(Image.new("RGB", (size, size), (number, 0, 0)))


def clip(count: int = 4) -> str:
    data = clips.video(clips.moving(count=count, size=(64, 64)))
    return f"data:;base64,{base64.b64encode(data).decode()}"


def engine(*modalities: str) -> ScriptedEngine:
    made = ScriptedEngine()
    made.modalities = modalities or ("text", "image", "video")
    return made


def prepared(media: Media, *parts: MediaPart, model: ScriptedEngine | None = None) -> list[Prepared]:
    with media.read([Message("user", parts)], nothing) as read:
        return media.prepare(read, model or engine(), nothing)


def refused(media: Media, *parts: MediaPart, model: ScriptedEngine | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        prepared(media, *parts, model=model)
    return caught.value


def seen(made: Sequence[Prepared]) -> list[str]:
    return ["video" if isinstance(one.part, VideoPart) else "image" for one in made]


def test_what_it_is_is_told_from_the_bytes() -> None:
    parts: list[MediaPart] = [ImagePart(picture(), "a"), ImagePart(clip(), "b"), VideoPart(clip(), "c")]
    gif = io.BytesIO()
    frames = clips.moving(count=3, size=(64, 64))
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    moving = f"data:;base64,{base64.b64encode(gif.getvalue()).decode()}"
    made = prepared(Media(Settings()), *parts, ImagePart(moving, "d"), VideoPart(moving, "e"))
    assert seen(made) == ["image", "video", "video", "image", "video"]
    assert [one.part.param for one in made] == list("abcde")


def test_what_was_prepared_is_known_by_its_content_and_its_options() -> None:
    media, other = Media(Settings()), engine()
    (first,) = prepared(media, ImagePart(picture(), "a"))
    again, different = prepared(media, ImagePart(picture(), "b"), ImagePart(picture(1), "c"))
    assert (first.is_known, again.is_known, different.is_known) == (False, True, False)
    assert again.part.param == "b"
    (smaller,) = prepared(media, ImagePart(picture(), "a", options=MediaOptions(max_pixels=9)))
    assert not smaller.is_known
    other.spec = ScriptedEngine().spec.__class__("another", "somewhere")
    (elsewhere,) = prepared(media, ImagePart(picture(), "a"), model=other)
    assert not elsewhere.is_known


@pytest.mark.parametrize(
    ("settings", "parts", "code", "param"),
    [
        (
            Settings(max_images=1),
            [ImagePart(picture(), "a"), ImagePart(picture(), "b")],
            "too_many_images",
            "b",
        ),
        (Settings(max_videos=1), [VideoPart(clip(), "a"), VideoPart(clip(), "b")], "too_many_videos", "b"),
        (Settings(max_videos=1), [ImagePart(clip(), "a"), ImagePart(clip(), "b")], "too_many_videos", "b"),
        (Settings(max_frames=2), [VideoPart((picture(),) * 3, "a")], "video_too_long", "a"),
        (
            Settings(max_total_mp=0.01),
            [ImagePart(picture(size=80), f"{n}") for n in range(2)],
            "image_too_large",
            "1",
        ),
        (Settings(max_total_mp=0.01), [VideoPart((picture(size=80),) * 2, "a")], "image_too_large", "a"),
        (
            Settings(max_image_mp=0.01),
            [VideoPart((picture(), picture(size=101)), "a")],
            "image_too_large",
            "a[1]",
        ),
        (
            Settings(max_media_mb=0.01),
            [ImagePart("data:;base64," + "A" * 90_000, "a")],
            "media_too_large",
            "a",
        ),
        (Settings(), [VideoPart(picture(), "a")], "invalid_video", "a"),
        (Settings(), [VideoPart("data:;base64,AAAA", "a")], "invalid_video", "a"),
        (Settings(), [VideoPart((picture(), clip()), "a")], "invalid_image", "a[1]"),
        (Settings(max_video_seconds=1), [VideoPart(clip(13), "a")], "video_too_long", "a"),
    ],
)
def test_each_limit_names_the_one_that_is_over_it(
    settings: Settings, parts: list[MediaPart], code: str, param: str
) -> None:
    problem = refused(Media(settings), *parts)
    assert (problem.code, problem.param) == (code, param)


def test_a_video_among_frames_is_not_called_something_unknown() -> None:
    problem = refused(Media(Settings()), VideoPart((picture(), clip()), "a"))
    assert str(problem) == "The data is a video, no picture: a list holds a video's frames."


@pytest.mark.parametrize(
    ("modalities", "words"), [(("text",), "text only, no pictures"), (("text", "image"), "no video")]
)
def test_a_model_that_cannot_see_it_says_so(modalities: tuple[str, ...], words: str) -> None:
    problem = refused(Media(Settings()), VideoPart(clip(), "a"), model=engine(*modalities))
    assert words in problem.message
    assert problem.param == "a"


def test_a_clip_that_cannot_fit_is_refused_before_it_is_decoded() -> None:
    model = engine()
    model.context_length = 10  # and the fitter says one token a frame
    problem = refused(Media(Settings()), VideoPart(clip(12), "a"), model=model)
    assert isinstance(problem, ContextLengthExceeded)
    assert (problem.excess, problem.param) == (2, "a")


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_resolver_that_hangs_holds_nobody_for_longer_than_fetching_may_take(
    hanging: threading.Event,
) -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        hanging.wait(120)
        raise OSError

    media = Media(Settings(media_timeout=0.3))
    media.sources.web.resolve = resolve
    began = time.monotonic()
    problem = refused(media, ImagePart("http://named.example/a", "a"))
    assert (problem.code, problem.param) == ("media_timeout", "a")
    assert "longer than 0.3 seconds" in problem.message
    assert time.monotonic() - began < 30


def test_who_leaves_while_it_is_fetched_is_not_waited_for(hanging: threading.Event) -> None:
    def left() -> None:
        raise ConnectionError

    def resolve(*_: Any, **__: Any) -> list[Any]:
        hanging.wait(120)
        raise OSError

    media = Media(Settings())
    media.sources.web.resolve = resolve
    with pytest.raises(ConnectionError), media.read([Message("user", (ImagePart("http://a/b", "a"),))], left):
        pass


def test_a_domain_may_be_an_address_of_version_six_in_brackets() -> None:
    with serving() as server:
        server.files["/a.png"] = base64.b64decode(picture().partition(",")[2])
        for domain, good in (("[::1]", True), (f"[::1]:{server.port}", True), ("[::1]:1", False)):
            media = Media(Settings(allowed_media_domain=(domain,)))
            media.sources.web.resolve = lambda host, port, **_: [(2, 1, 6, "", ("127.0.0.1", port))]
            part = ImagePart(f"http://[::1]:{server.port}/a.png", "a")
            if good:
                assert seen(prepared(media, part)) == ["image"]
            else:
                assert refused(media, part).code == "media_not_allowed"


def test_many_frames_hold_few_descriptors(tmp_path: pathlib.Path) -> None:
    """A process often may have 1024, and a list 768 frames."""
    for number in range(60):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    process = psutil.Process()
    with serving() as server:
        server.files |= {f"/{number}.png": (tmp_path / f"{number}.png").read_bytes() for number in range(60)}
        media = Media(Settings(allowed_media_domain=("127.0.0.1",), allowed_media_path=(str(tmp_path),)))
        frames = tuple(f"{number}.png" for number in range(60))
        for part in (VideoPart(frames, "a"), VideoPart(tuple(server.url(f"/{one}") for one in frames), "a")):
            before = process.num_fds()
            with media.read([Message("user", (part,))], nothing) as read:
                assert process.num_fds() < before + 30
                assert len(read[0].bodies) == 60


def test_what_a_request_names_several_times_is_fetched_once() -> None:
    with serving() as server:
        server.files["/a.png"] = base64.b64decode(picture().partition(",")[2])
        media, url = Media(Settings(allowed_media_domain=("127.0.0.1",))), server.url("/a.png")
        parts: list[MediaPart] = [ImagePart(url, "a"), ImagePart(url, "b"), VideoPart((url,) * 5, "c")]
        made = prepared(media, *parts)
        assert [one.part.param for one in made] == ["a", "b", "c"]
        assert server.asked == ["/a.png"]


def test_a_list_of_frames_has_the_rate_that_was_asked_for_each_time() -> None:
    media, frames = Media(Settings(video_fps=2)), tuple(picture(number) for number in range(4))
    for fps in (30.0, 2.0, 30.0, None):
        (made,) = prepared(media, VideoPart(frames, "a", options=MediaOptions(fps=fps)))
        assert isinstance(made.part, VideoPart)
        assert made.part.clip is not None
        assert made.part.clip.fps == (fps or 2.0)


def test_a_gif_is_another_video_than_a_list_of_it_alone() -> None:
    gif, frames = io.BytesIO(), clips.moving(count=3, size=(64, 64))
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    url = f"data:;base64,{base64.b64encode(gif.getvalue()).decode()}"
    media = Media(Settings())
    made = prepared(media, VideoPart(url, "a"), VideoPart((url,), "b"))
    assert [one.part.clip.total for one in made if isinstance(one.part, VideoPart) and one.part.clip] == [
        3,
        2,
    ]


def test_bodies_are_closed_with_the_block() -> None:
    media = Media(Settings())
    with (
        pytest.raises(InvalidRequest),
        media.read([Message("user", (ImagePart(data_url(scene()), "a"),))], nothing) as read,
    ):
        raise InvalidRequest("something else")
    with pytest.raises(ValueError, match="closed"):
        read[0].bodies[0].read()


def test_a_decoder_that_nobody_waits_for_keeps_its_place_until_it_is_done(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding in C cannot be stopped; clients that leave must not make more of it than there are places."""
    running: list[int] = []
    decode = images.decode

    def slow(data: bytes, *rest: Any) -> Any:
        running.append(len(data))
        assert hanging.wait(60)
        return decode(data, *rest)

    def left() -> None:
        if len(running) == PLACES or hanging.is_set():
            raise ConnectionError

    media, asked = Media(Settings()), engine()
    known = ImagePart(picture(99), "a")
    prepared(media, known, model=asked)
    monkeypatch.setattr(images, "decode", slow)

    def leaves(number: int) -> None:
        with (
            pytest.raises(ConnectionError),
            media.read([Message("user", (ImagePart(picture(number), "a"),))], nothing) as read,
        ):
            media.prepare(read, asked, left)

    with ThreadPoolExecutor(PLACES) as pool:
        list(pool.map(leaves, range(PLACES)))
        pool.submit(leaves, PLACES).result(60)
        assert len(running) == PLACES  # all have left, and no other one has begun
        assert prepared(media, known, model=asked)[0].is_known  # which needs no place
    hanging.set()
    assert not prepared(media, ImagePart(picture(50), "a"), model=asked)[0].is_known


def test_decoding_has_its_time_from_when_it_has_its_place(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_media, "DECODE_SECONDS", 0.3)
    monkeypatch.setattr(images, "decode", lambda *_: hanging.wait(60))
    media = Media(Settings())
    problem = refused(media, ImagePart(picture(), "a"))
    assert (problem.code, problem.param) == ("media_timeout", "a")
    assert str(problem) == "Decoding took longer than 0.3 seconds."
