"""What must not come in: each attack is a 400 or 413 that says what and where, and leaves nothing."""

import contextlib
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from tests import attacks, harmful
from tests.attacks import Attack
from tests.conftest import Server, as_url, data_url, png, running, scene, wait_until
from tests.media_server import MediaServer, serving


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
def temporaries(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The guarded server's folder for temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, web: MediaServer, root: pathlib.Path, temporaries: pathlib.Path
) -> Iterator[Server]:
    """A server that may ask the hostile one, and read below the root."""
    folder = tmp_path_factory.mktemp("guarded")
    flags = ["--allowed-media-domain", f"127.0.0.1:{web.port}", "--allowed-media-path", str(root)]
    limits = [
        "--media-timeout",
        str(attacks.SECONDS),
        "--max-media-mb",
        "8",
        "--max-total-media-mb",
        "12",
        "--max-images",
        "40",
    ]
    (folder / "netrc").write_text("default login me password secret\n")
    environ = {
        "TMPDIR": str(temporaries),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "NETRC": str(folder / "netrc"),
    }
    with running(folder, *flags, *limits, env=environ) as started:
        assert (
            answer(started, data_url(scene())) == "A large red circle in the center, on a white background."
        )
        yield started
        assert temporary(temporaries) == []


@pytest.fixture(scope="module", autouse=True)
def descriptors(guarded: Server) -> int:
    """How many the server's worker has at the beginning."""
    return psutil.Process(guarded.worker()).num_fds()


def temporary(folder: pathlib.Path) -> list[str]:
    """Files that were left."""
    return [path.name for path in folder.glob("*") if "torch" not in path.name]


def asked(server: Server, *urls: str, part: str = "image_url", **more: Any) -> Any:
    parts: list[dict[str, Any]] = [{"type": part, part: {"url": url}} for url in urls]
    parts.append({"type": "text", "text": "What is in this picture?"})
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, **more}
    return server.post("/v1/chat/completions", body)


def answer(server: Server, *urls: str, **more: Any) -> str:
    response = asked(server, *urls, **more)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


MEMORY = 300 * 2**20
"""Bytes that an attack may make the server take, for a moment too: a few copies of the largest medium."""
COMPUTING = 5.0
"""Seconds of a core that it may take, which other work on the machine changes little."""


TICK = 0.005


@contextlib.contextmanager
def bounded(server: Server, seconds: float = 10) -> Iterator[None]:
    """The server's worker takes no more than that in the block, at any moment of it, which ends in time. The
    seconds are those in which this process could run too: a machine may pause or starve both.
    """
    process, done = psutil.Process(server.worker()), threading.Event()
    before, used = process.memory_info().rss, sum(process.cpu_times()[:2])

    def looked() -> tuple[int, float]:
        highest, ran = before, 0.0
        while not done.wait(TICK):
            highest = max(highest, process.memory_info().rss)
            ran += TICK
        return highest, ran

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(looked)
        try:
            yield
        finally:
            done.set()
        highest, ran = looking.result()
    assert highest - before < MEMORY
    assert ran < seconds
    assert sum(process.cpu_times()[:2]) - used < COMPUTING


def tried(server: Server, attack: Attack, **places: object) -> None:
    """The attack gets its answer, whole and streamed."""
    url = attack.url(**places)
    for more in ({}, {"stream": True}):
        response = asked(server, url, part=attack.part, **attack.more, **more)
        assert response.status_code == attack.status, response.text
        if attack.status != 200:
            assert response.json()["error"] == attack.error()
            continue
        assert response.json()["choices"][0]["message"]["content"] == attack.message
        return


def connected(server: Server, port: int) -> bool:
    """Whether the server holds a connection to a port."""
    lines = psutil.Process(server.worker()).net_connections("tcp")
    return any(line.raddr and line.raddr.port == port and line.status == "ESTABLISHED" for line in lines)


OTHER = (attacks.SLOW, attacks.FORMS)
FAST = [attack for group in attacks.GROUPS.values() if group not in OTHER for attack in group]


@pytest.mark.parametrize("attack", FAST, ids=[attack.what for attack in FAST])
def test_it_gets_its_answer(
    guarded: Server,
    web: MediaServer,
    canary: MediaServer,
    root: pathlib.Path,
    temporaries: pathlib.Path,
    attack: Attack,
) -> None:
    with bounded(guarded):
        tried(guarded, attack, web=web.port, inside=canary.port, root=root)
    assert canary.asked == []
    wait_until(lambda: not connected(guarded, web.port) and not open_in(guarded, temporaries))


def test_who_takes_his_time_is_left_in_time(
    guarded: Server, web: MediaServer, temporaries: pathlib.Path
) -> None:
    seconds = 2 * attacks.SECONDS + 10
    with bounded(guarded, seconds), ThreadPoolExecutor(len(attacks.SLOW)) as pool:
        tries = [pool.submit(tried, guarded, attack, web=web.port) for attack in attacks.SLOW]
        for one in tries:
            one.result(60)
    wait_until(lambda: not connected(guarded, web.port) and not open_in(guarded, temporaries))


@pytest.mark.parametrize("attack", attacks.FORMS, ids=[attack.what for attack in attacks.FORMS])
def test_a_form_gets_its_answer(guarded: Server, temporaries: pathlib.Path, attack: Attack) -> None:
    assert attack.make is not None
    with bounded(guarded):
        response = uploaded(guarded, attack.make())
    assert (response.status_code, response.json()["error"]) == (attack.status, attack.error())
    wait_until(lambda: not open_in(guarded, temporaries))


def uploaded(server: Server, form: bytes | str) -> requests.Response:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return requests.post(f"{server.url}/v1/media/describe", data=form, headers=kind, timeout=60)


def test_the_table_has_them_all() -> None:
    assert sum(map(len, attacks.GROUPS.values())) >= 100
    assert len({attack.what for attack in FAST}) == len(FAST)


def test_of_pictures_with_much_text_no_text_is_kept(guarded: Server) -> None:
    """All of them stay in the cache of prepared pictures."""
    process = psutil.Process(guarded.worker())

    def described(numbers: Iterable[int]) -> None:
        for number in numbers:
            form = harmful.form(
                ('file"; filename="a.png', harmful.wordy(number)), attacks.PROMPT, ("max_tokens", b"1")
            )
            assert uploaded(guarded, form).status_code == 200

    described(range(3))
    before = process.memory_info().rss
    described(range(3, 15))
    assert process.memory_info().rss - before < 50 * 2**20  # of 84 MiB of text


def test_no_descriptor_is_left_of_all_this(guarded: Server, descriptors: int) -> None:
    process = psutil.Process(guarded.worker())
    wait_until(lambda: process.num_fds() <= descriptors + 5)


def test_many_small_ones_have_a_limit_together(guarded: Server, web: MediaServer) -> None:
    web.files["/large.bmp"] = png(scene()) + bytes(2_000_000)
    response = asked(guarded, *[web.url(f"/large.bmp?{number}") for number in range(20)])
    assert response.status_code == 400  # not there, as the query is part of the path
    web.files |= {f"/large{number}.png": png(scene()) + bytes(2_000_000) for number in range(20)}
    response = asked(guarded, *[web.url(f"/large{number}.png") for number in range(20)])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "media_too_large")
    assert "12 MiB together" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "scene.png",
        "in.png",
        "below/../scene.png",
        "./scene.png",
        "{root}/scene.png",
        "/bin/..{root}/scene.png",
        "/no-such-folder/..{root}/scene.png",
        "file://{root}/scene.png",
        "file://localhost{root}/scene.png",
        "file://{root}/%73cene.png",
    ],
)
def test_files_below_the_root_are_seen(guarded: Server, root: pathlib.Path, path: str) -> None:
    assert "red circle" in answer(guarded, path.format(root=root))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_odd_shapes_get_an_answer(guarded: Server, size: tuple[int, int]) -> None:
    assert answer(guarded, as_url(png(Image.new("RGB", size, "red"))))


def test_a_polyglot_is_the_picture_that_it_begins_as(guarded: Server) -> None:
    both = png(scene()) + b"PK\x03\x04" + b"<script>alert(1)</script>"
    assert "red circle" in answer(guarded, as_url(both, "text/html"))


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
    tried(server, attacks.Attack("http://127.0.0.1:{web}/scene.png", *attacks.INSIDE), web=web.port)
    assert web.asked == []


def begun(server: Server, size: int = 3_000_000, sent: int = 2_000_000) -> socket.socket:
    """An upload of which a part has come."""
    host, port = server.url.removeprefix("http://").split(":")
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    head = f"POST /v1/media/describe HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.encode() + start + bytes(sent))
    return connection


def open_in(server: Server, folder: pathlib.Path) -> list[str]:
    """Files of a folder that the server's worker has open, by name or without one, beside gunicorn's own."""
    found = []
    for link in pathlib.Path(f"/proc/{server.worker()}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(folder)) and "gunicorn" not in path]


def test_an_upload_that_is_broken_off_leaves_no_file(guarded: Server, temporaries: pathlib.Path) -> None:
    with begun(guarded):
        wait_until(lambda: open_in(guarded, temporaries))
    wait_until(lambda: not open_in(guarded, temporaries))
    assert temporary(temporaries) == []
    assert guarded.details()["running"] == 0


def test_a_server_that_is_killed_during_an_upload_leaves_no_file(
    guarded: Server, temporaries: pathlib.Path
) -> None:
    """The last of these tests: the next worker would load the model anew."""
    worker = guarded.worker()
    with begun(guarded):
        wait_until(lambda: open_in(guarded, temporaries))
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: guarded.worker() != worker, 60)
    assert temporary(temporaries) == []
    wait_until(lambda: guarded.get("/health/live").ok, 60)
