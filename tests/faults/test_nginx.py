"""The shipped nginx configuration in front of a server: pace, TLS, silence, uploads, a backend that dies."""

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import requests
from PIL import Image

from tests.conftest import ROOT, Server, asks, running, scene, wait_until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
CHATTY = """
import sys
from app.routes import sse
sse.PING_EVERY = 0.2
from app.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""The server with more comments on idle streams, so that a test need not be silent for long."""
LONG = {"messages": asks("hello"), "max_tokens": 3900, "ignore_eos": True, "stream": True}
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def nginx(folder: pathlib.Path, server: Server, *others: tuple[str, str], tls: bool = False) -> Iterator[str]:
    """deploy/nginx.conf with other ports, in the foreground and as this user; yields its address."""
    port = free_port()
    site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    changes = [("127.0.0.1:8000", server.url.removeprefix("http://")), *others]
    if tls:  # as the comments say
        site = site.replace("# ssl_", "ssl_").replace("    listen 8080;\n", "")
        name = "/etc/letsencrypt/live/llm.example.org/"
        changes += [(f"{name}fullchain.pem", f"{folder}/cert"), (f"{name}privkey.pem", f"{folder}/key")]
        changes.append(("# listen 443 ssl", f"listen 127.0.0.1:{port} ssl"))
    else:
        changes.append(("listen 8080;", f"listen 127.0.0.1:{port};"))
    for old, new in changes:
        assert site.count(old) == 1, old
        site = site.replace(old, new)
    (folder / "site.conf").write_text(site)
    places = "\n".join(
        f"    {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\n"
        + ("user root;\n" if os.getuid() == 0 else "")
        + f"events {{}}\nhttp {{\n{places}\n    access_log off;\n    include {folder}/site.conf;\n}}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    url = f"http{'s' * tls}://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or is_open(port), 30)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(20)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=20).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with the demo model, loaded, and the address of an nginx in front of it."""
    # nginx passes a name on that is not this machine's, which a server without keys would refuse.
    flags, command = ("--disable-api-auth", "--max-concurrent", "1"), (sys.executable, "-c", CHATTY)
    with running(tmp_path_factory.mktemp("server"), *flags, command=command) as server:
        server.post("/v1/chat/completions", {"messages": asks("hello"), "max_tokens": 2})
        with nginx(tmp_path_factory.mktemp("nginx"), server) as url:
            yield server, url


def test_tokens_come_through_one_by_one(behind: tuple[Server, str]) -> None:
    hold_pace(behind[1])


def test_they_do_with_tls(behind: tuple[Server, str], tmp_path: pathlib.Path) -> None:
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=x -addext"
    command = f"{make} subjectAltName=IP:127.0.0.1"
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True, capture_output=True)
    with nginx(tmp_path, behind[0], tls=True) as url:
        hold_pace(url, str(tmp_path / "cert"))


def hold_pace(url: str, certificate: str | None = None) -> None:
    """Ask for a stream: its events must come as they are made."""
    seen: list[tuple[float, int]] = []
    with requests.post(
        f"{url}/v1/chat/completions",
        json=LONG | {"max_tokens": 60},
        stream=True,
        timeout=60,
        verify=certificate,
    ) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        for block in answer.iter_content(None):
            seen.append((time.monotonic(), block.count(b"data: ")))
    arrived = [when for when, _ in seen]
    assert len(seen) > 20, seen
    assert max(count for _, count in seen) <= 20, "events were held back"
    assert arrived[len(arrived) // 2] - arrived[0] > 0.2 * (arrived[-1] - arrived[0])


def test_a_stream_that_waits_for_its_turn_outlasts_the_proxys_patience(
    behind: tuple[Server, str], tmp_path: pathlib.Path
) -> None:
    server, _ = behind
    impatient = ("proxy_read_timeout 620s;", "proxy_read_timeout 3s;")
    path = "/v1/chat/completions"
    with (
        nginx(tmp_path, server, impatient) as url,
        requests.post(server.url + path, json=LONG, stream=True, timeout=60) as first,
    ):
        blocks = first.iter_content(None)  # the connection is closed with it
        next(blocks)
        wait_until(lambda: server.details()["running"] == 1)
        with requests.post(url + path, json=LONG | {"max_tokens": 5}, stream=True, timeout=60) as waiting:
            assert waiting.status_code == 200, waiting.text
            lines = waiting.iter_lines()
            pings = 0
            while pings < 16:  # four seconds or more
                pings += next(lines) == b": ping"
            first.close()
            assert b"data: [DONE]" in list(lines)


def test_a_large_picture_is_seen_and_a_larger_body_gets_our_own_error(behind: tuple[Server, str]) -> None:
    _, url = behind
    noise = Image.effect_noise((1700, 1700), 60).convert("RGB")
    noise.paste(scene(), (0, 0))
    asked = {"messages": asks("What is in the picture?", noise), "max_tokens": 5}
    answer = requests.post(f"{url}/v1/chat/completions", json=asked, timeout=120)
    assert int(answer.request.headers["Content-Length"]) > 2 * 2**20
    assert answer.status_code == 200, answer.text
    large = requests.post(f"{url}/v1/chat/completions", json={"x": "x" * 17 * 2**20}, timeout=60)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


def test_a_client_that_leaves_nginx_stops_its_generation(behind: tuple[Server, str]) -> None:
    server, url = behind
    with requests.post(f"{url}/v1/chat/completions", json=LONG, stream=True, timeout=60) as answer:
        blocks = answer.iter_content(None)  # the connection is closed with it
        next(blocks)
        wait_until(lambda: server.details()["running"] == 1)
    wait_until(lambda: server.details()["running"] == 0)


def test_metrics_are_there_for_this_machine_and_the_id_is_one(behind: tuple[Server, str]) -> None:
    server, url = behind
    assert "vlserve_requests_total" in requests.get(f"{url}/metrics", timeout=20).text
    name = requests.get(f"{url}/v1/models", timeout=20).headers["x-request-id"]
    wait_until(lambda: f"[{name}]" in server.log)


def test_a_killed_worker_is_a_502_or_a_wait_and_recovers(behind: tuple[Server, str]) -> None:
    server, url = behind
    first = server.worker()
    os.kill(first, signal.SIGKILL)
    seen = {requests.get(f"{url}/health", timeout=30).status_code for _ in range(3)}
    assert seen <= {200, 502}
    wait_until(lambda: server.worker() != first)
    wait_until(lambda: answers(url))


def test_a_server_that_is_gone_is_a_502_until_it_is_back(tmp_path: pathlib.Path) -> None:
    port = str(free_port())
    with contextlib.ExitStack() as proxy:
        with running(tmp_path, "--disable-api-auth", "--port", port) as server:
            url = proxy.enter_context(nginx(tmp_path, server))
            os.kill(server.process.pid, signal.SIGTERM)
            server.process.wait(30)
            gone = requests.get(f"{url}/health", timeout=20)
            assert (gone.status_code, "nginx" in gone.text) == (502, True)
        with running(tmp_path, "--disable-api-auth", "--port", port):
            assert answers(url)
