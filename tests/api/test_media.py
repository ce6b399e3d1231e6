"""Pictures and clips from every source and in every format, as the demo model truly sees them."""

import io
import itertools
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from tests import clips
from tests.api.test_pictures import placed
from tests.conftest import Server, as_url, data_url, png, running, scene, wait_until
from tests.media_server import MediaServer

CIRCLE = "A large red circle in the center, on a white background."
WHERE = "Which way does the object move?"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("root")
    scene().save(folder / "scene.png")
    return folder


@pytest.fixture(scope="module")
def open_(tmp_path_factory: pytest.TempPathFactory, web: MediaServer, root: pathlib.Path) -> Iterator[Server]:
    """A server that takes media from a folder and from the web server on loopback."""
    folder = tmp_path_factory.mktemp("open")
    flags = ["--allowed-media-domain", f"127.0.0.1:{web.port}", "--allowed-media-path", str(root)]
    with running(folder, *flags) as started:
        yield started


def ask(server: Server, part: dict[str, Any], question: str, **more: Any) -> dict[str, Any]:
    content = [part, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def sources(web: MediaServer, root: pathlib.Path) -> dict[str, str]:
    return {
        "data": data_url(scene()),
        "http": web.url("/scene.png"),
        "file": f"file://{root}/scene.png",
        "absolute": f"{root}/scene.png",
        "relative": "scene.png",
    }


@pytest.mark.parametrize("source", ["data", "http", "file", "absolute", "relative"])
@pytest.mark.parametrize("kind", ["image_url", "image"])
def test_a_picture_is_seen_from_every_source(
    open_: Server, web: MediaServer, root: pathlib.Path, source: str, kind: str
) -> None:
    url = sources(web, root)[source]
    part = {"type": kind, kind: {"url": url} if kind == "image_url" else url}
    assert said(ask(open_, part, "What is in this picture?")) == CIRCLE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_a_picture_is_seen_in_every_format(open_: Server, kind: str) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(scene(), kind)}}
    assert said(ask(open_, part, "What is in this picture?")) == CIRCLE


def test_a_picture_in_the_colours_of_print_is_seen(open_: Server) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(scene().convert("CMYK"), "JPEG")}}
    assert said(ask(open_, part, "What is in this picture?")) == CIRCLE


def test_a_photo_and_a_clip_that_were_taken_sideways_are_seen_upright(open_: Server) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    sideways = data_url(placed("blue", "top left").rotate(90), "JPEG", exif=exif)
    photo = {"type": "image_url", "image_url": {"url": sideways}}
    assert "top left" in said(ask(open_, photo, "Where is the object?"))
    data = clips.turned(clips.video(clips.moving("to the right")), 90)
    clip = {"type": "video_url", "video_url": {"url": as_url(data)}}
    assert said(ask(open_, clip, WHERE)) == "The red circle moves down."


@pytest.mark.parametrize("direction", sorted(clips.PATHS))
@pytest.mark.parametrize("kind", [*clips.FORMATS, "webp"])
def test_a_clip_is_seen_in_every_format(open_: Server, kind: str, direction: str) -> None:
    frames = clips.moving(direction)
    data = clips.webp(frames) if kind == "webp" else clips.video(frames, kind)
    part = {"type": "video_url", "video_url": {"url": as_url(data, "video/mp4")}}
    assert said(ask(open_, part, WHERE)) == f"The red circle moves {direction}."


@pytest.mark.parametrize("source", ["http", "file", "behind image_url", "behind image", "frames"])
def test_a_clip_is_seen_from_every_source(
    open_: Server, web: MediaServer, root: pathlib.Path, source: str
) -> None:
    frames = clips.moving("up")
    web.files["/clip.mp4"] = data = clips.video(frames)
    (root / "clip.mp4").write_bytes(data)
    parts: dict[str, dict[str, Any]] = {
        "http": {"type": "video_url", "video_url": web.url("/clip.mp4")},
        "file": {"type": "video", "video": "clip.mp4"},
        "behind image_url": {"type": "image_url", "image_url": {"url": as_url(data)}},
        "behind image": {"type": "image", "image": "clip.mp4"},
        "frames": {"type": "video", "video": [data_url(frame) for frame in frames[::7]]},
    }
    assert said(ask(open_, parts[source], WHERE)) == "The red circle moves up."


def test_a_variable_rate_is_read_by_time(open_: Server) -> None:
    """Twelve frames in the first second, then one that stands for another second."""
    data = clips.video(clips.moving(count=13), "mkv", times=[*range(12), 23])
    part = {"type": "video_url", "video_url": {"url": as_url(data)}}
    answer = ask(open_, part, WHERE, return_media_info=True)
    (told,) = answer["usage"]["media"]
    assert told["duration"] == pytest.approx(2, abs=0.4)
    assert [frame["time"] for frame in told["frames"]][-1] == pytest.approx(23 / 12, abs=0.3)


def test_what_was_made_of_each_medium_is_told(open_: Server) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(scene(size=(640, 480), colour="blue"))}}
    clip = {"type": "video_url", "video_url": {"url": as_url(clips.video(clips.moving("down", 23)))}}
    content = [picture, clip, {"type": "text", "text": WHERE}]
    body = {"messages": [{"role": "user", "content": content}], "return_media_info": True, "temperature": 0}
    for known in (False, True):
        usage = open_.post("/v1/chat/completions", body).json()["usage"]
        first, second = usage["media"]
        assert (first["param"], first["type"]) == ("messages[0].content[0].image_url.url", "image")
        assert (first["original"], first["resized"]) == (
            {"width": 640, "height": 480},
            {"width": 160, "height": 128},
        )
        assert first["tokens"] == 20 == usage["prompt_tokens_details"]["image_tokens"]
        assert second["tokens"] == usage["prompt_tokens_details"]["video_tokens"]
        assert (second["type"], second["total_frames"], second["fps"]) == ("video", 23, 12.0)
        assert [frame["index"] for frame in second["frames"]] == [0, 7, 15, 22]
        assert second["frames"][1]["time"] == pytest.approx(7 / 12, abs=0.001)
        assert [one["cache_hit"] for one in usage["media"]] == [known, known]
        times = [one[name] for one in usage["media"] for name in ("fetch_ms", "decode_ms", "encode_ms")]
        assert all(0 <= time < 60_000 for time in times)
        encoded = [one["encode_ms"] / one["tokens"] for one in usage["media"]]
        assert 0 < encoded[0] == pytest.approx(encoded[1], rel=0.02)
    assert (
        "media" not in open_.post("/v1/chat/completions", body | {"return_media_info": False}).json()["usage"]
    )


@pytest.mark.parametrize(
    ("options", "frames", "most"),
    [
        ({}, 4, 10**6),
        ({"num_frames": 6}, 6, 10**6),
        ({"num_frames": 10**9}, 12, 10**6),
        ({"fps": 1.0}, 4, 10**6),
        ({"fps": 10**9}, 8, 10**6),
        ({"max_pixels": 5000}, 4, 5000),
    ],
)
def test_options_lower_what_is_taken_and_never_raise_it(
    open_: Server, options: dict[str, Any], frames: int, most: int
) -> None:
    url = as_url(clips.video(clips.moving("down", 48)))
    part = {"type": "video_url", "video_url": {"url": url}}
    for own, whole in ((options, {}), ({}, options)):
        more = {"mm_processor_kwargs": whole, "return_media_info": True}
        answer = ask(open_, part | {"mm_processor_kwargs": own}, WHERE, **more)
        (told,) = answer["usage"]["media"]
        assert len(told["frames"]) == frames
        assert told["resized"]["width"] * told["resized"]["height"] <= most


def upload(server: Server, data: bytes, prompt: str, **more: str) -> requests.Response:
    form = {"prompt": prompt, "temperature": "0", **more}
    url = f"{server.url}/v1/media/describe"
    return requests.post(url, files={"file": ("whatever.txt", data)}, data=form, timeout=60)


def test_an_upload_is_described(open_: Server) -> None:
    assert said(upload(open_, png(scene()), "What is in this picture?").json()) == CIRCLE
    noise = Image.effect_noise((1200, 1200), 80)  # beyond what is kept in memory
    assert said(upload(open_, png(noise), "What is in this picture?").json())
    streamed = upload(open_, clips.video(clips.moving("to the left")), WHERE, stream="true")
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.text.rstrip().endswith("data: [DONE]")


def test_an_uploaded_animation_may_be_seen_as_a_video_and_told_of(open_: Server) -> None:
    file, frames = io.BytesIO(), clips.moving("to the left")
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=80)
    wanted = {"as_video": "true", "return_media_info": "true"}
    answer = upload(open_, file.getvalue(), WHERE, **wanted).json()
    assert said(answer) == "The red circle moves to the left."
    streamed = upload(open_, file.getvalue(), WHERE, **wanted, stream="true").text
    usage = json.loads(streamed.split("data: ")[-2])["usage"]
    for told in (answer["usage"]["media"], usage["media"]):
        assert [(one["param"], one["type"], one["total_frames"]) for one in told] == [
            ("file", "video", len(frames))
        ]
    assert "media" not in upload(open_, file.getvalue(), WHERE, as_video="false").json()["usage"]


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "as_video": "perhaps"}, "as_video"),
        ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "x", "temperature": "3"}, "temperature"),
        ({"prompt": "x", "stream": "perhaps"}, "stream"),
    ],
)
def test_a_wrong_field_of_a_form_is_named(open_: Server, form: dict[str, str], param: str) -> None:
    response = upload(open_, png(scene()), **form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_an_upload_without_a_file_and_one_of_nothing_are_refused(open_: Server) -> None:
    response = requests.post(
        f"{open_.url}/v1/media/describe", files={"other": b""}, data={"prompt": "x"}, timeout=20
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")
    assert upload(open_, b"", "x").json()["error"]["code"] == "invalid_image"
    response = open_.post("/v1/media/describe", {"prompt": "x"})
    assert response.status_code == 415


def test_no_open_file_is_left_of_any_request(open_: Server) -> None:
    worker = psutil.Process(open_.worker())
    large = png(Image.effect_noise((1200, 1200), 80))
    for data in (large, large[:-1000], clips.video(clips.moving())):
        upload(open_, data, "What is in this picture?")
    wait_until(lambda: not [path for path in _deleted(worker) if "tmp" in path.lower()], 10)


def test_a_running_stream_goes_on_while_a_clip_is_decoded(open_: Server) -> None:
    """A clip whose every frame is decoded, since only its first can be without the others."""
    frames = [frame.resize((1280, 720)) for frame in clips.moving(count=24)] * 20
    data = clips.video(frames, "mp4", fps=24, preset="ultrafast", g="1000")
    body = {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "stream": True}
    told: list[dict[str, Any]] = []

    def describe() -> None:
        part = {"type": "video_url", "video_url": {"url": as_url(data)}}
        answer = ask(open_, part, WHERE, return_media_info=True, max_tokens=1)
        told.extend(answer["usage"]["media"])

    asking = threading.Thread(target=describe)
    url = f"{open_.url}/v1/chat/completions"
    with requests.post(url, json=body | {"max_tokens": 3000}, stream=True, timeout=60) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith(b"data: {"))
        next(lines)
        asking.start()
        came = [time.monotonic()]
        while asking.is_alive() and next(lines, None):
            came.append(time.monotonic())
    asking.join(60)
    pauses = [after - before for before, after in itertools.pairwise(came)]
    assert told[0]["total_frames"] == 480
    assert len(pauses) > 10
    assert max(pauses) < told[0]["decode_ms"] / 1000


def _deleted(worker: psutil.Process) -> list[str]:
    """Files without a name that a process holds open, beside gunicorn's own."""
    links = pathlib.Path(f"/proc/{worker.pid}/fd").iterdir()
    found = []
    for link in links:
        try:
            target, size = str(link.readlink()), link.stat().st_size
        except OSError:
            continue
        if "(deleted)" in target and size > 100_000:
            found.append(target)
    return found
