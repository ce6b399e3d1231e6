"""Downloads: by TLS to the address that was checked, cut from outside, and kept only in bounds."""

import contextlib
import pathlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from app.errors import InvalidRequest
from app.media import guard
from app.media.body import Budget
from app.media.web import TAG_LENGTH, Lines, Web
from tests.conftest import wait_until
from tests.media_server import MediaServer, serving

CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBoTCCAUegAwIBAgIUY445yaQO91mgC9evfXwN7lli2GQwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNbmFtZWQuZXhhbXBsZTAgFw0yNjExMjIwMTQ4NDNaGA8yMTI2
MTAyOTAxNDg0M1owGDEWMBQGA1UEAwwNbmFtZWQuZXhhbXBsZTBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABP992CrfFBeo3Pr4Ed9LSyR2AccLM18djDwUe1yGPmFP
oCDlSJY2O97CpVGmUZFK4YauI9PjC8u/5dSmSF38DiajbTBrMB0GA1UdDgQWBBRy
RcH1h/QrVeQ/B6RGH9ByXv783zAfBgNVHSMEGDAWgBRyRcH1h/QrVeQ/B6RGH9By
Xv783zAPBgNVHRMBAf8EBTADAQH/MBgGA1UdEQQRMA+CDW5hbWVkLmV4YW1wbGUw
CgYIKoZIzj0EAwIDSAAwRQIhALKRDw9+NVu0Hg7h8rlVT60teKk7YxN+Q/bpCejh
SM8cAiB1gdduKekftH0mpiRW+TIfTiKYn5PxHO2a41l2iuvCKg==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQdLT9utYik/xJUPy
h+O5ZoL4nYaTx/Ip2qrBZNEsAtqhRANCAAT/fdgq3xQXqNz6+BHfS0skdgHHCzNf
HYw8FHtchj5hT6Ag5UiWNjvewqVRplGRSuGGriPT4wvLv+XUpkhd/A4m
-----END PRIVATE KEY-----
"""
"""For named.example, signed by itself, good for a hundred years, and of no use to anybody."""


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def server() -> Iterator[MediaServer]:
    with serving() as started:
        started.files["/a"] = b"hello"
        yield started


def to_loopback(host: str, port: int, **_: Any) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def web(server: MediaServer | None = None, host: str = "named.example") -> Web:
    return Web(frozenset({host}), resolve=to_loopback)


def get(web: Web, url: str, lines: Lines) -> bytes:
    with contextlib.closing(web.download(url, "place", Budget(10**6, 10**6), lines)) as body:
        return bytes(body.read())


class Secure:
    """A server that speaks TLS and answers hello, once for each connection."""

    def __init__(self, certificate: pathlib.Path) -> None:
        self.asked: list[str | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.sni_callback = lambda _, name, __: self.asked.append(name)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._listening.accept()[0] as plain, contextlib.suppress(OSError):
                plain.settimeout(20)
                if plain.recv(1, socket.MSG_PEEK) == b"!":
                    return
                with self._context.wrap_socket(plain, server_side=True) as line:
                    line.recv(65536)
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"!")
        self._thread.join(20)
        self._listening.close()


@pytest.fixture
def secure(tmp_path: pathlib.Path) -> Iterator[Secure]:
    (tmp_path / "named.pem").write_text(CERTIFICATE)
    with contextlib.closing(Secure(tmp_path / "named.pem")) as started:
        yield started


def test_by_tls_the_name_is_sent_and_its_certificate_asked_for(
    secure: Secure, lines: Lines, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://named.example:{secure.port}/a"
    with pytest.raises(InvalidRequest) as caught:  # nobody has signed it
        get(web(), url, lines)
    assert caught.value.code == "media_download_failed"
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "named.pem"))
    assert get(web(), url, lines) == b"hello"
    with pytest.raises(InvalidRequest):  # another name's certificate
        get(web(host="other.example"), f"https://other.example:{secure.port}/a", lines)
    assert secure.asked == ["named.example", "named.example", "other.example"]


def test_by_tls_nothing_inside_is_reached_either(secure: Secure, lines: Lines) -> None:
    with pytest.raises(InvalidRequest, match="not on the public net"):
        get(Web(resolve=to_loopback), f"https://named.example:{secure.port}/a", lines)
    assert secure.asked == []


def test_a_certificate_of_the_environment_is_not_believed(
    secure: Secure, lines: Lines, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "named.pem"))
    with pytest.raises(InvalidRequest):
        get(web(), f"https://named.example:{secure.port}/a", lines)


def test_no_password_of_the_environment_is_sent(
    server: MediaServer, lines: Lines, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine named.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get(web(), f"http://named.example:{server.port}/a", lines) == b"hello"
    assert "Authorization" not in server.seen[0]


@pytest.mark.parametrize("path", ["drip", "drip-header", "silent"])
def test_a_download_is_cut_from_outside(server: MediaServer, lines: Lines, path: str) -> None:
    problems: list[InvalidRequest] = []

    def download() -> None:
        try:
            get(web(), f"http://named.example:{server.port}/{path}", lines)
        except InvalidRequest as problem:
            problems.append(problem)

    thread = threading.Thread(target=download)
    thread.start()
    wait_until(lambda: server.asked)
    lines.cut()
    thread.join(20)
    assert problems[0].code == "media_download_failed"
    with pytest.raises(InvalidRequest):  # nor does a later one begin
        get(web(), f"http://named.example:{server.port}/a", lines)


def test_a_redirect_may_be_written_in_utf_8(server: MediaServer, lines: Lines) -> None:
    server.files["/%C3%A9%E4%BD%A0?%C3%BC=a%20b"] = b"hello"
    place = "/%C3%A9%E4%BD%A0?%C3%BC=a%2520b"
    assert get(web(), f"http://named.example:{server.port}/raw-redirect/{place}", lines) == b"hello"


def test_a_redirect_in_nobodys_bytes_is_refused(server: MediaServer, lines: Lines) -> None:
    with pytest.raises(InvalidRequest) as caught:
        get(web(), f"http://named.example:{server.port}/raw-redirect//%E9", lines)
    assert caught.value.code == "media_download_failed"
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["zipped-redirect", "endless-redirect"])
def test_a_redirects_body_is_not_read(server: MediaServer, lines: Lines, kind: str) -> None:
    """Whoever read it would never come to its end."""
    problem: list[BaseException] = []
    found: list[bytes] = []

    def download() -> None:
        try:
            found.append(get(web(), f"http://named.example:{server.port}/{kind}//a", lines))
        except InvalidRequest as error:
            problem.append(error)

    thread = threading.Thread(target=download)
    thread.start()
    thread.join(15)
    if thread.is_alive():
        lines.cut()
        thread.join(20)
    assert (found, problem, server.asked) == ([b"hello"], [], [f"/{kind}//a", "/a"])


def test_an_errors_body_is_not_read(server: MediaServer, lines: Lines) -> None:
    with pytest.raises(InvalidRequest, match="answered 404"):
        get(web(), f"http://named.example:{server.port}/endless-error/", lines)


@pytest.fixture
def deaf() -> Iterator[list[Any]]:
    """Ten addresses of one name, none of which takes a connection or refuses it: their queues are full."""
    with contextlib.ExitStack() as held:
        places = []
        for last in range(1, 11):
            listening = held.enter_context(socket.socket())
            listening.bind((f"127.0.0.{last}", 0))
            listening.listen(0)
            address = listening.getsockname()
            for _ in range(3):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
            places.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", address))
        yield places


def test_a_connection_that_is_not_taken_is_cut_from_outside(
    lines: Lines, deaf: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.media.web.CONNECT_SECONDS", 50.0)
    before = waiting()
    asking = Web(frozenset({"named.example"}), resolve=lambda *_, **__: deaf[:1])
    problems: list[InvalidRequest] = []

    def download() -> None:
        try:
            get(asking, "http://named.example/a", lines)
        except InvalidRequest as problem:
            problems.append(problem)

    thread = threading.Thread(target=download)
    thread.start()
    wait_until(lambda: waiting() > before)
    lines.cut()
    thread.join(20)
    assert not thread.is_alive()
    assert problems[0].code == "media_download_failed"


def waiting() -> int:
    """How many connections have no answer yet."""
    return sum(one.status == "SYN_SENT" for one in psutil.Process().net_connections("tcp"))


def test_all_addresses_of_a_name_share_the_time(deaf: list[Any]) -> None:
    tried: list[float | None] = []

    def know(line: socket.socket) -> None:
        tried.append(line.gettimeout())

    with pytest.raises(OSError, match="timed out"):
        guard.connect("named.example", 80, 0.4, "p", internal=True, resolve=lambda *_, **__: deaf, know=know)
    assert tried == [0.1] * 4


def test_what_a_server_lets_be_kept_is_kept_and_nothing_else(server: MediaServer, lines: Lines) -> None:
    said = {
        "/fresh": {"Cache-Control": "max-age=60"},
        "/tagged": {"ETag": '"1"'},
        "/never": {"Cache-Control": "no-store, max-age=60", "ETag": '"1"'},
        "/varies": {"Vary": "*", "ETag": '"1"'},
        "/silent-about-it": {},
        "/long": {"ETag": f'"{"x" * TAG_LENGTH}"'},
    }
    server.headers |= said
    server.files |= dict.fromkeys(said, b"hello")
    asking = web()
    for path in said:
        assert get(asking, f"http://named.example:{server.port}{path}", lines) == b"hello"
    assert len(asking.stored) == 2
    assert get(asking, f"http://named.example:{server.port}/fresh", lines) == b"hello"
    assert get(asking, f"http://named.example:{server.port}/tagged", lines) == b"hello"
    assert (server.asked.count("/fresh"), server.asked.count("/tagged")) == (1, 2)
    server.headers["/tagged"], server.files["/tagged"] = {"ETag": '"2"'}, b"new"
    assert get(asking, f"http://named.example:{server.port}/tagged", lines) == b"new"


def test_what_a_redirect_leads_to_is_kept_as_well(server: MediaServer, lines: Lines) -> None:
    server.headers["/a"] = {"Cache-Control": "max-age=60"}
    asking = web()
    for _ in range(2):
        assert get(asking, f"http://named.example:{server.port}/redirect//a", lines) == b"hello"
    assert server.asked == ["/redirect//a", "/a", "/redirect//a"]


def test_a_download_that_has_ended_holds_no_descriptor(server: MediaServer, lines: Lines) -> None:
    before = psutil.Process().num_fds()
    for _ in range(5):
        assert get(web(), f"http://named.example:{server.port}/redirect//a", lines) == b"hello"
    wait_until(lambda: psutil.Process().num_fds() <= before)


def test_what_is_kept_counts_against_the_next_requests_limits(server: MediaServer, lines: Lines) -> None:
    server.headers["/a"] = {"Cache-Control": "max-age=60"}
    asking, url = web(), f"http://named.example:{server.port}/a"
    assert get(asking, url, lines) == b"hello"
    with pytest.raises(InvalidRequest) as caught:
        asking.download(url, "place", Budget(4, 4), lines)
    assert caught.value.code == "media_too_large"
