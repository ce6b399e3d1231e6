"""Keys on a real server: clients with right and wrong ones, and no key in anything that it prints."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import openai
import pytest
import requests

from tests.conftest import ROOT, Server, asks, data_url, running, scene

FLAG, VARIABLE, FILE, WRONG = (
    "sk-flag-0123456789",
    "sk-env-0123456789",
    "sk-file-0123456789",
    "sk-wrong-0123456789",
)
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


def client(server: Server, key: str, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60, **options)  # type: ignore[arg-type]  # of any kind


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw(server: Server, request: str) -> bytes:
    """What comes back for a request that no client would send."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while block := connection.recv(4096):
            found += block
    return found


def title(process: int) -> str:
    return pathlib.Path(f"/proc/{process}/cmdline").read_text()


def session(server: Server, keys: tuple[str, ...]) -> None:
    """Everything that may go right and wrong with keys."""
    for key in keys:
        with client(server, key) as right:
            answer = right.chat.completions.create(model="demo", messages=asks("hi"), max_tokens=3)  # type: ignore[arg-type]  # dicts
            assert answer.choices[0].message.content
        stream = server.post("/v1/chat/completions", CHAT | {"stream": True}, headers=bearer(key))
        assert "[DONE]" in stream.text
        assert server.post("/chat", {"message": "hi", "max_tokens": 3}, headers=bearer(key)).ok
        assert (
            server.post("/chat", {"message": "hi", "images": ["x"]}, headers=bearer(key)).status_code == 400
        )
        health = requests.get(f"{server.url}/health", headers=bearer(key), timeout=20).json()
        assert health["api_auth_enabled"] is True
        assert key not in json.dumps(health)
        # A key where it does not belong: in addresses, ids, fields, and lines that are no HTTP.
        for path in (f"/v1/models/{key}", f"/nothing?key={key}", f"/sessions/{key}"):
            requests.get(server.url + path, headers=bearer(key) | {"x-request-id": key}, timeout=20)
        server.post("/v1/chat/completions", CHAT | {key: key, "seed": key}, headers=bearer(key))
        raw(server, f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {key}\r\n\r\n")
        raw(server, f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {key}\r\n\r\n")
        raw(server, f"Bearer {key}\r\n\r\n")
    for wrong in (WRONG, f"{keys[0]}x", keys[0][:-1]):
        with client(server, wrong) as bad, pytest.raises(openai.AuthenticationError) as caught:
            bad.models.list()
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["WWW-Authenticate"]
        assert wrong not in caught.value.response.text
        assert server.post("/chat", {"message": "hi"}, headers=bearer(wrong)).status_code == 401


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_key_is_ever_in_what_a_server_prints(tmp_path: pathlib.Path, style: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{FILE}\n")
    flags = ("--api-keys-file", str(file), "--log-level", "DEBUG", "--log-format", style)
    with running(tmp_path, *flags, "--api-key", FLAG, env={"VLSERVE_API_KEY": VARIABLE}) as server:
        assert (
            requests.get(f"{server.url}/v1/models", headers=bearer(VARIABLE), timeout=20).status_code == 401
        )
        session(server, (FLAG, FILE))
        if sys.platform == "linux":
            for process in (server.process.pid, server.worker()):
                assert title(process).startswith("gunicorn: ")
                assert FLAG not in title(process)
    log = server.log
    assert log.count(" 401 in ") > 5
    assert "[key]" in log  # they were sent where they would have shown
    for key in (FLAG, FILE):
        assert key not in log
    for stored in tmp_path.glob("vlserve.db*"):
        data = stored.read_bytes()
        assert not [key for key in (FLAG, FILE) if key.encode() in data]


def test_keys_from_the_environment(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, env={"VLSERVE_API_KEY": f"{VARIABLE}, {FLAG}"}) as server:
        for key, status in ((VARIABLE, 200), (FLAG, 200), (WRONG, 401)):
            answer = requests.get(f"{server.url}/v1/models", headers=bearer(key), timeout=20)
            assert answer.status_code == status
        assert requests.get(f"{server.url}/health", timeout=20).json() == {"status": "healthy"}
    assert VARIABLE not in server.log


def test_a_header_of_ones_own(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "--api-key", FLAG, "--api_header", "X-API-Key") as server:
        url = f"{server.url}/v1/models"
        assert requests.get(url, headers={"X-API-Key": FLAG}, timeout=20).ok
        assert requests.get(url, headers={"X-API-Key": f"Bearer {FLAG}"}, timeout=20).ok
        assert requests.get(url, headers=bearer(FLAG), timeout=20).status_code == 401
        with client(server, "none", default_headers={"X-API-Key": FLAG}) as right:
            assert right.models.list().data


def test_a_large_body_without_a_key_gets_its_401(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "--api-key", FLAG) as server:
        for size in (1000, 1_000_000, 15_000_000, 40_000_000):
            answer = requests.post(
                f"{server.url}/chat",
                data=b"x" * size,
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
            assert answer.status_code == 401, size
            assert isinstance(answer.json()["error"], str)


def beyond_loopback(folder: pathlib.Path) -> dict[str, str]:
    """The environment of a server on 127.0.0.1 that, when it asks what address that is, hears of another one:
    tests do not listen where others could call.
    """
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "resolve = socket.getaddrinfo\n"
        "def other(host, port, *more, **named):\n"
        "    return resolve('203.0.113.1' if port is None else host, port, *more, **named)\n"
        "socket.getaddrinfo = other\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_a_server_beyond_loopback_makes_a_key_and_prints_it_once(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "--log-level", "DEBUG", env=beyond_loopback(tmp_path)) as server:
        printed = re.findall(r"^vlserve: (vl-\S{40,})$", server.log, re.MULTILINE)
        assert len(printed) == 1
        [key] = printed
        assert server.log.index(key) < server.log.index("Booting worker")
        assert requests.get(f"{server.url}/v1/models", timeout=20).status_code == 401
        session(server, (key,))
        picture = {"message": "What is this?", "images": [data_url(scene())]}
        assert server.post("/chat", picture, headers=bearer(key)).ok
        os.kill(server.worker(), 9)  # another worker has the same key
        for _ in range(100):
            try:
                if requests.get(f"{server.url}/v1/models", headers=bearer(key), timeout=20).ok:
                    break
            except requests.ConnectionError:
                continue
        else:
            pytest.fail("no second worker")
        assert server.log.count("Booting worker") == 2
        assert requests.get(f"{server.url}/v1/models", timeout=20).status_code == 401
    assert server.log.count(key) == 1


def test_an_open_server_beyond_loopback_is_told(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "--disable-api-auth", env=beyond_loopback(tmp_path)) as server:
        assert requests.get(f"{server.url}/v1/models", timeout=20).ok
        assert "requests need no key" in server.log
        assert "vl-" not in server.log


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--api-keys-file", "/no/such/keys"), "--api-keys-file /no/such/keys: No such file or directory"),
        (("--api-key", ""), "--api-key"),
        (("--api-key", 'sk-"secret'), "--api-key: expected a key"),
        (("--cors-origin", "example.com"), "--cors-origin example.com: expected an origin"),
        (("--database", "/no/such/folder/x.db"), "there is no folder /no/such/folder"),
    ],
)
def test_what_cannot_be_stops_the_start_in_one_line(flags: tuple[str, ...], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert reason in done.stderr
    assert "secret" not in done.stderr
