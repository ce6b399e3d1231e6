"""Bad requests: each gets a 4xx in OpenAI's shape that names the field, and the server goes on."""

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.conftest import Server, data_url, scene

USER = [{"role": "user", "content": "hello"}]
SMALL = Image.new("RGB", (8, 8))


def picture(url: Any, kind: str = "image_url") -> dict[str, Any]:
    part = {"type": kind, kind: {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}


def b64(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_of_declared_size(width: int, height: int) -> bytes:
    """A PNG whose header says so, and whose pixels are never reached."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def cut(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()[:-200]


FIELDS: list[tuple[str, Any, str]] = [
    ("messages missing", {}, "messages"),
    ("messages null", {"messages": None}, "messages"),
    ("messages empty", {"messages": []}, "messages"),
    ("messages no list", {"messages": "hi"}, "messages"),
    ("messages far too many", {"messages": USER * 5000}, "messages"),
    ("message no object", {"messages": ["hi"]}, "messages[0]"),
    ("role missing", {"messages": [{"content": "hi"}]}, "messages[0].role"),
    ("role unknown", {"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ("role of a wrong type", {"messages": [{"role": 3, "content": "hi"}]}, "messages[0].role"),
    ("content missing", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("content null", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ("content a number", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ("content no parts", {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ("second message broken", {"messages": [*USER, {"role": "user", "content": 3}]}, "messages[1].content"),
    ("part no object", {"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
    (
        "part type unknown",
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0].type",
    ),
    (
        "part type a list",
        {"messages": [{"role": "user", "content": [{"type": ["text"]}]}]},
        "messages[0].content[0].type",
    ),
    (
        "text missing",
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        "far too many parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]},
        "messages[0].content",
    ),
    ("half a surrogate", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ("url missing", picture(None), "messages[0].content[0].image_url.url"),
    ("url no data", picture("https://example.com/a.png"), "messages[0].content[0].image_url.url"),
    ("url a file", picture("file:///etc/passwd"), "messages[0].content[0].image_url.url"),
    ("url a path", picture("/etc/passwd"), "messages[0].content[0].image_url.url"),
    ("data URL without data", picture("data:image/png"), "messages[0].content[0].image_url.url"),
    ("data URL not in base64", picture("data:image/png,abc"), "messages[0].content[0].image_url.url"),
    ("base64 broken", picture("data:image/png;base64,%%%"), "messages[0].content[0].image_url.url"),
    ("no bytes", picture("data:image/png;base64,"), "messages[0].content[0].image_url.url"),
    ("text called png", picture(b64(b"I am a text.")), "messages[0].content[0].image_url.url"),
    ("html called png", picture(b64(b"<html></html>")), "messages[0].content[0].image_url.url"),
    (
        "svg",
        picture(b64(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml")),
        "messages[0].content[0].image_url.url",
    ),
    ("a format not taken", picture(data_url(SMALL, "TIFF")), "messages[0].content[0].image_url.url"),
    ("jpeg cut off", picture(b64(cut(scene()))), "messages[0].content[0].image_url.url"),
    (
        "30000 × 30000 pixels",
        picture(b64(png_of_declared_size(30000, 30000))),
        "messages[0].content[0].image_url.url",
    ),
    (
        "detail unknown",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": data_url(SMALL), "detail": "x"}}],
                }
            ]
        },
        "messages[0].content[0].image_url.detail",
    ),
    ("video", picture("data:video/mp4;base64,AAAA", "video_url"), "messages[0].content[0].video_url.url"),
    (
        "too many pictures",
        {"messages": [picture(data_url(SMALL))["messages"][0]] * 33},
        "messages[32].content[0].image_url.url",
    ),
    ("model unknown", {"model": "gpt-9"}, "model"),
    ("model a path", {"model": "../../etc"}, "model"),
    ("model a hub id", {"model": "someone/evil"}, "model"),
    ("model a number", {"model": 3}, "model"),
    ("temperature too high", {"temperature": 2.1}, "temperature"),
    ("temperature negative", {"temperature": -0.1}, "temperature"),
    ("temperature a string", {"temperature": "1"}, "temperature"),
    ("temperature true", {"temperature": True}, "temperature"),
    ("temperature endless", {"temperature": 10**400}, "temperature"),
    ("top_p zero", {"top_p": 0}, "top_p"),
    ("top_p too high", {"top_p": 1.01}, "top_p"),
    ("max_tokens zero", {"max_tokens": 0}, "max_tokens"),
    ("max_tokens half", {"max_tokens": 1.5}, "max_tokens"),
    ("max_tokens beyond the context", {"max_tokens": 10**8}, "max_tokens"),
    ("max_completion_tokens beyond it", {"max_completion_tokens": 10**8}, "max_completion_tokens"),
    ("max_completion_tokens negative", {"max_completion_tokens": -1}, "max_completion_tokens"),
    ("two limits", {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ("seed half", {"seed": 1.5}, "seed"),
    ("seed beyond 64 bits", {"seed": 2**63}, "seed"),
    ("stop a number", {"stop": 3}, "stop"),
    ("stop empty", {"stop": ""}, "stop"),
    ("stop with an empty one", {"stop": ["a", ""]}, "stop[1]"),
    ("stop too many", {"stop": ["a"] * 17}, "stop"),
    ("stop too long", {"stop": "a" * 1_000_000}, "stop"),
    ("stream a string", {"stream": "yes"}, "stream"),
    ("stream a number", {"stream": 1}, "stream"),
    ("stream_options without stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("stream_options a list", {"stream": True, "stream_options": []}, "stream_options"),
    (
        "include_usage a string",
        {"stream": True, "stream_options": {"include_usage": "x"}},
        "stream_options.include_usage",
    ),
    ("user a number", {"user": 7}, "user"),
    ("metadata a number", {"metadata": 5}, "metadata"),
    ("store a string", {"store": "yes"}, "store"),
    (
        "a tool's answer to nothing",
        {"messages": [{"role": "tool", "content": "42"}]},
        "messages[0].tool_call_id",
    ),
    (
        "a call of a tool",
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    ("choices that would all be the same", {"n": 2}, "n"),
    ("logprobs a number", {"logprobs": 3}, "logprobs"),
    ("top_logprobs without logprobs", {"top_logprobs": 3}, "top_logprobs"),
    ("return_media_info a number", {"return_media_info": 1}, "return_media_info"),
    ("pixels below none", {"mm_processor_kwargs": {"max_pixels": 0}}, "mm_processor_kwargs.max_pixels"),
    ("no frames a second", {"mm_processor_kwargs": {"fps": 0}}, "mm_processor_kwargs.fps"),
    ("next to no frames a second", {"mm_processor_kwargs": {"fps": 1e-308}}, "mm_processor_kwargs.fps"),
    ("an option without a name", {"mm_processor_kwargs": {"": 1}}, 'mm_processor_kwargs.""'),
    ("another option", {"mm_processor_kwargs": {"size": {}}}, "mm_processor_kwargs.size"),
    (
        "frames said twice",
        {"mm_processor_kwargs": {"fps": 1, "num_frames": 4}},
        "mm_processor_kwargs.num_frames",
    ),
    ("prompt beyond the context", {"messages": [{"role": "user", "content": "word " * 50_000}]}, "messages"),
]


@pytest.mark.parametrize(("body", "param"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_bad_field_is_refused_by_name(
    server: Server, body: dict[str, Any], param: str, stream: bool
) -> None:
    request = ({} if "messages" in param and not body else {"messages": USER}) | body
    if stream and "stream" not in request and "stream_options" not in request:
        request |= {"stream": True}
    answer = server.post("/v1/chat/completions", request)
    assert answer.status_code == (404 if param == "model" and isinstance(body["model"], str) else 400), (
        answer.text
    )
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        b'{"messages": [',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'"text"',
        b"3",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    answer = requests.post(
        f"{server.url}/v1/chat/completions",
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_another_content_type_is_refused_with_the_right_one_named(server: Server) -> None:
    answer = requests.post(f"{server.url}/v1/chat/completions", data="{}", timeout=20)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_a_body_of_20_mb_is_refused_with_the_limit(server: Server) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "a" * 20_000_000}]}).encode()
    headers = {"Content-Type": "application/json"}
    for data in (body, _chunked(body)):
        answer = requests.post(f"{server.url}/v1/chat/completions", data=data, headers=headers, timeout=30)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
        assert "16 MiB" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/chat", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/gpt-9", 404),
    ],
)
def test_a_wrong_address_is_an_error_in_the_same_shape(
    server: Server, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, server.url + path, timeout=20)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_fields_without_a_meaning_here_and_unknown_ones_are_accepted(server: Server) -> None:
    body = {
        "messages": USER,
        "max_tokens": 3,
        "user": "me",
        "store": False,
        "metadata": {},
        "brand_new": [1],
        "n": 1,
    }
    assert server.post("/v1/chat/completions", body).ok
    assert "unknown fields ignored: brand_new" in server.log


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        b"Content-Length: 100\r\n\r\n{}",
    ],
    ids=["a chunk that is none", "shorter than declared"],
)
def test_a_body_that_breaks_off_is_refused(server: Server, rest: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + rest)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(100_000)
    assert b" 400 " in answer.splitlines()[0]


def test_a_compressed_body_is_refused(server: Server) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = requests.post(f"{server.url}/v1/chat/completions", data=b"\x1f\x8b", headers=headers, timeout=20)
    assert answer.status_code == 415


def test_a_connection_that_sends_garbage_leaves_the_server_standing(server: Server) -> None:
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        connection.recv(1000)
    assert server.get("/health").ok


def _chunked(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


def test_a_body_announced_too_large_is_refused_while_the_client_waits(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=8) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 99999999999\r\n\r\n{{".encode())
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
