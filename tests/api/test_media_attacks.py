"""What must not come in: each attack is a 400 or 413 that says what and where, and leaves nothing."""

import base64
import io
import os
import pathlib
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from PIL import Image

from tests import clips
from tests.conftest import Server, data_url, running, scene, wait_until
from tests.media_server import MediaServer, serving

SECONDS = 4
"""The servers' --media-timeout."""
PLACE = "messages[0].content[0].image_url.url"


@pytest.fixture(scope="module")
def web() -> Iterator[MediaServer]:
    with serving() as started:
        started.files["/scene.png"] = png(scene())
        yield started


@pytest.fixture(scope="module")
def canary() -> Iterator[MediaServer]:
    """A server inside, which nobody may reach."""
    with serving() as started:
        started.files["/secret.png"] = png(scene())
        yield started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An allowed folder, and what lies around it."""
    folder = tmp_path_factory.mktemp("media")
    root, beside = folder / "root", folder / "root-evil"
    for one in (root, beside, root / "below"):
        one.mkdir()
    for one in (root, beside):
        scene().save(one / "scene.png")
    (root / "out.png").symlink_to(beside / "scene.png")
    (root / "away").symlink_to(beside)
    (root / "in.png").symlink_to(root / "scene.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe")
    (root / "empty.png").touch()
    return root


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, web: MediaServer, root: pathlib.Path
) -> Iterator[Server]:
    """A server that may ask the hostile one, and read below the root; its temporary files have a folder."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tmp").mkdir()
    flags = ["--allowed-media-domain", f"127.0.0.1:{web.port}", "--allowed-media-path", str(root)]
    limits = [
        "--media-timeout",
        str(SECONDS),
        "--max-media-mb",
        "8",
        "--max-total-media-mb",
        "12",
        "--max-images",
        "40",
    ]
    environ = {
        "TMPDIR": str(folder / "tmp"),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    with running(folder, *flags, *limits, env=environ) as started:
        assert (
            answer(started, data_url(scene())) == "A large red circle in the center, on a white background."
        )
        yield started
        assert [path.name for path in (folder / "tmp").glob("*") if "torch" not in path.name] == []


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def asked(server: Server, *urls: str, kind: str = "image_url", **more: Any) -> Any:
    parts: list[dict[str, Any]] = [{"type": kind, kind: {"url": url}} for url in urls]
    parts.append({"type": "text", "text": "What is in this picture?"})
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, **more}
    return server.post("/v1/chat/completions", body)


def answer(server: Server, *urls: str, **more: Any) -> str:
    response = asked(server, *urls, **more)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def as_data(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def refused(server: Server, url: str, code: str, *, kind: str = "image_url", status: int = 400) -> str:
    """Asks and expects a refusal within the time, whole and streamed; returns its message."""
    process = psutil.Process(server.worker())
    before = process.memory_info().rss
    messages = set()
    for more in ({}, {"stream": True}):
        began = time.monotonic()
        response = asked(server, url, kind=kind, **more)
        assert time.monotonic() - began < SECONDS + 16  # of which it needs SECONDS; the machine may be busy
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (
            status,
            code,
            f"messages[0].content[0].{kind}.url",
        ), error
        messages.add(error["message"])
    assert process.memory_info().rss - before < 300 * 2**20
    (message,) = messages
    print(f"{status} {code}: {message}")
    return str(message)


NOT_PUBLIC = "The URL's host is not on the public net, and --allowed-media-domain does not name it."
INSIDE = [
    "http://127.0.0.1:{port}/secret.png",
    "http://localhost:{port}/secret.png",
    "http://LOCALHOST:{port}/secret.png",
    "http://127.1:{port}/secret.png",
    "http://2130706433:{port}/secret.png",
    "http://0x7f000001:{port}/secret.png",
    "http://0177.0.0.1:{port}/secret.png",
    "http://0:{port}/secret.png",
    "http://[::1]:{port}/secret.png",
    "http://[::ffff:127.0.0.1]:{port}/secret.png",
    "http://[::ffff:7f00:1]:{port}/secret.png",
    "http://[::127.0.0.1]:{port}/secret.png",
    "http://[64:ff9b::7f00:1]:{port}/secret.png",
    "http://[2002:7f00:1::]:{port}/secret.png",
    "http://[fec0::1]:{port}/secret.png",
    "http://[fe80::1]:{port}/secret.png",
    "http://10.0.0.1:{port}/secret.png",
    "http://192.168.1.1:{port}/secret.png",
    "http://172.16.0.1:{port}/secret.png",
    "http://100.64.0.1:{port}/secret.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://224.0.0.1:{port}/secret.png",
    "http://255.255.255.255:{port}/secret.png",
]


@pytest.mark.parametrize("url", INSIDE)
def test_nothing_inside_is_reached(guarded: Server, canary: MediaServer, url: str) -> None:
    assert refused(guarded, url.format(port=canary.port), "media_not_allowed") == NOT_PUBLIC
    assert canary.asked == []


def test_a_redirect_leads_no_further_than_a_url(
    guarded: Server, web: MediaServer, canary: MediaServer
) -> None:
    for target in INSIDE[:3]:
        url = web.url(f"/redirect/{target.format(port=canary.port)}")
        assert refused(guarded, url, "media_not_allowed") == NOT_PUBLIC
    assert canary.asked == []


def test_the_message_is_the_same_whether_a_port_is_open_or_closed(
    guarded: Server, canary: MediaServer
) -> None:
    open_, closed = (f"http://127.0.0.1:{port}/secret.png" for port in (canary.port, 1))
    assert refused(guarded, open_, "media_not_allowed") == refused(guarded, closed, "media_not_allowed")


ODD_URLS = [
    ("ftp://example.com/a.png", "invalid_media_url"),
    ("gopher://127.0.0.1:6379/_INFO", "invalid_media_url"),
    ("javascript:alert(1)", "invalid_media_url"),
    ("http://user:password@example.com/a.png", "invalid_media_url"),
    ("http://example.com\\@127.0.0.1/a.png", "invalid_media_url"),
    ("http://exam ple.com/a.png", "invalid_media_url"),
    ("http:///a.png", "invalid_media_url"),
    ("http://[::1/a.png", "invalid_media_url"),
    ("http://127.0.0.1:99999/a.png", "invalid_media_url"),
    ("http://a\r\nHost: b/", "invalid_media_url"),
    ("http://no-such-host.invalid/a.png", "media_download_failed"),
    ("file://otherhost/etc/passwd", "invalid_media_url"),
    ("data:image/png,%89PNG", "invalid_media_url"),
    ("data:image/png;base64,!!!!", "invalid_base64"),
    ("data:image/png;base64,iVBORw0KGgo", "invalid_base64"),
]


@pytest.mark.parametrize(("url", "code"), ODD_URLS)
def test_an_odd_url_is_refused(guarded: Server, url: str, code: str) -> None:
    refused(guarded, url, code)


WEB = [
    ("/missing.png", "media_download_failed", "answered 404"),
    ("/status/500", "media_download_failed", "answered 500"),
    ("/status/204", "media_download_failed", "answered 204"),
    ("/loop/0", "media_download_failed", "redirects more than 5 times"),
    ("/circle", "media_download_failed", "redirects more than 5 times"),
    ("/redirect/file:///etc/passwd", "invalid_media_url", "no plain http"),
    ("/redirect/ftp://example.com/a.png", "invalid_media_url", "no plain http"),
    ("/redirect/data:image/png;base64,AAAA", "invalid_media_url", "no plain http"),
    ("/drip", "media_timeout", f"longer than {SECONDS} seconds"),
    ("/drip-header", "media_timeout", f"longer than {SECONDS} seconds"),
    ("/drip-chunks", "media_timeout", f"longer than {SECONDS} seconds"),
    ("/silent", "media_timeout", f"longer than {SECONDS} seconds"),
    ("/continue", "media_timeout", f"longer than {SECONDS} seconds"),
    ("/long/scene.png", "media_download_failed", "ended too early"),
    ("/short/scene.png", "invalid_image", "broken or cut off"),
    ("/gzip", "media_download_failed", "compressed"),
    ("/headers", "media_download_failed", "broke"),
    ("/nonsense", "media_download_failed", "broke"),
    ("/html", "invalid_image", "no picture of a known kind"),
]


@pytest.mark.parametrize(("path", "code", "words"), WEB, ids=[row[0] for row in WEB])
def test_a_hostile_server_is_left(
    guarded: Server, web: MediaServer, path: str, code: str, words: str
) -> None:
    assert words in refused(guarded, web.url(path), code)
    process = psutil.Process(guarded.worker())
    wait_until(
        lambda: (
            not [
                line
                for line in process.net_connections("tcp")
                if line.raddr and line.raddr.port == web.port and line.status == "ESTABLISHED"
            ]
        ),
        5,
    )


@pytest.mark.parametrize("path", ["/endless", "/vast"])
def test_more_than_the_limit_is_not_read(guarded: Server, web: MediaServer, path: str) -> None:
    assert "more than 8 MiB" in refused(guarded, web.url(path), "media_too_large", status=413)


def test_many_small_ones_have_a_limit_together(guarded: Server, web: MediaServer) -> None:
    web.files["/large.bmp"] = png(scene()) + bytes(2_000_000)
    response = asked(guarded, *[web.url(f"/large.bmp?{number}") for number in range(20)])
    assert response.status_code == 400  # not there, as the query is part of the path
    web.files |= {f"/large{number}.png": png(scene()) + bytes(2_000_000) for number in range(20)}
    response = asked(guarded, *[web.url(f"/large{number}.png") for number in range(20)])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "media_too_large")
    assert "12 MiB together" in response.json()["error"]["message"]


PATHS = [
    "/etc/passwd",
    "/etc/no-such-file",
    "file:///etc/passwd",
    "file:///etc/no-such-file",
    "file://{root}/../root-evil/scene.png",
    "file://{root}/%2e%2e/root-evil/scene.png",
    "{root}/../root-evil/scene.png",
    "{root}-evil/scene.png",
    "../root-evil/scene.png",
    "below/../../root-evil/scene.png",
    "out.png",
    "away/scene.png",
    "loop.png",
    "missing.png",
    "{root}",
    ".",
    "/dev/zero",
    "/proc/self/environ",
    "scene.png\0.txt",
    "//server/share/scene.png",
    "\\\\server\\share\\scene.png",
    "\\\\.\\PhysicalDrive0",
    "C:\\Windows\\win.ini",
    "NUL",
    "~/scene.png",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_outside_is_read_and_nobody_learns_what_is_there(
    guarded: Server, root: pathlib.Path, path: str
) -> None:
    message = refused(guarded, path.format(root=root), "media_not_allowed")
    assert message == "The path names no file that may be read: only files under --allowed-media-path are."


def test_what_is_no_ordinary_file_is_refused_at_once(guarded: Server) -> None:
    began = time.monotonic()
    assert "no ordinary file" in refused(guarded, "pipe", "media_not_allowed")
    assert "no ordinary file" in refused(guarded, "below", "media_not_allowed")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "path",
    [
        "scene.png",
        "in.png",
        "below/../scene.png",
        "./scene.png",
        "{root}/scene.png",
        "file://{root}/scene.png",
        "file://localhost{root}/scene.png",
        "file://{root}/%73cene.png",
    ],
)
def test_files_below_the_root_are_seen(guarded: Server, root: pathlib.Path, path: str) -> None:
    assert "red circle" in answer(guarded, path.format(root=root))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many white pixels in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1) + b"\xff" * -(-width // 8)
    rows = (
        b"".join(packer.compress(row * min(1000, height - done)) for done in range(0, height, 1000))
        + packer.flush()
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bytes_of(name: str) -> bytes:
    whole, clip = png(scene()), clips.video(clips.moving())
    many = [Image.new("1", (1, 1), number % 2) for number in range(2)]
    gif = io.BytesIO()
    many[0].save(gif, "GIF", save_all=True, append_images=many[1:])
    return {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "truncated video": clip[: len(clip) // 2],
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        "HTML": b"<!DOCTYPE html><html></html>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0",
        "ZIP": b"PK\x03\x04" + bytes(100),
        "TIFF": b"II*\0\x08\0\0\0" + bytes(100),
        "HLS": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "SDP": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        "AVIF": b"\0\0\0\x20ftypavif" + bytes(100),
        "a bomb": bomb(50_000, 50_000),
        "10000 × 10000": bomb(10_000, 10_000),
        "audio only": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(100),
        "MP4 of nothing": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(16),
        "MKV of nothing": b"\x1aE\xdf\xa3" + bytes(200),
        "random MP4": clip[:40] + bytes(range(256)) * 40,
    }[name]


BYTES = [
    ("empty", "invalid_image"),
    ("truncated", "invalid_image"),
    ("truncated video", "invalid_video"),
    ("SVG", "invalid_image"),
    ("PDF", "invalid_image"),
    ("HTML", "invalid_image"),
    ("PostScript", "invalid_image"),
    ("ZIP", "invalid_image"),
    ("TIFF", "invalid_image"),
    ("HLS", "invalid_image"),
    ("concat", "invalid_image"),
    ("SDP", "invalid_image"),
    ("AVIF", "invalid_image"),
    ("a bomb", "image_too_large"),
    ("10000 × 10000", "image_too_large"),
    ("audio only", "invalid_video"),
    ("MP4 of nothing", "invalid_video"),
    ("MKV of nothing", "invalid_video"),
    ("random MP4", "invalid_video"),
]


@pytest.mark.parametrize(("name", "code"), BYTES, ids=[row[0] for row in BYTES])
def test_bytes_that_are_no_picture_are_refused_as_what_they_are(
    guarded: Server, name: str, code: str
) -> None:
    refused(guarded, as_data(bytes_of(name)), code)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_odd_shapes_get_an_answer(guarded: Server, size: tuple[int, int]) -> None:
    assert answer(guarded, as_data(png(Image.new("RGB", size, "red"))))


def test_a_polyglot_is_the_picture_that_it_begins_as(guarded: Server) -> None:
    both = png(scene()) + b"PK\x03\x04" + b"<script>alert(1)</script>"
    assert "red circle" in answer(guarded, as_data(both, "text/html"))


def test_the_environment_is_told_nobody(guarded: Server, web: MediaServer) -> None:
    """The proxy in the server's environment is a closed port: with it, nothing would arrive."""
    web.seen.clear()
    assert "red circle" in answer(guarded, web.url("/scene.png"))
    (headers,) = web.seen
    assert {name.lower() for name in headers} <= {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
    }


def test_a_picture_is_asked_for_once_while_its_server_says_so(guarded: Server, web: MediaServer) -> None:
    web.files |= {"/kept.png": png(scene()), "/tagged.png": png(scene())}
    web.headers |= {"/kept.png": {"Cache-Control": "max-age=60"}, "/tagged.png": {"ETag": '"1"'}}
    for path, times in (("/kept.png", 1), ("/tagged.png", 3)):
        web.asked.clear()
        for _ in range(3):
            assert "red circle" in answer(guarded, web.url(path))
        assert web.asked == [path] * times


def test_loopback_is_refused_without_a_word_for_it(server: Server, web: MediaServer) -> None:
    web.asked.clear()
    assert refused(server, web.url("/scene.png"), "media_not_allowed") == NOT_PUBLIC
    assert web.asked == []
