"""What is public, and that the address which is connected to is the one that was checked."""

import errno
import pathlib
import socket
from typing import Any

import pytest

from app.errors import InvalidRequest, Unavailable
from app.media import guard
from app.media.body import Budget
from app.media.web import Lines, Web
from tests.media_server import serving


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.31.0.1",
        "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::",
        # Machines ask these about themselves: Azure, Alibaba, Oracle, Tencent, AWS, Google, Scaleway.
        "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "100.100.100.200", "192.0.0.192",
        "169.254.0.23", "169.254.170.2", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
        "::1", "::7f00:1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
        "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1",
        "fe80::1%eth0",
        "fec0::1", "ff02::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "localhost", "",
    ],
)  # fmt: skip
def test_what_is_inside_is_not_public(address: str) -> None:
    assert not guard.is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111", "2a00:1450:4001::200e"],
)
def test_what_is_outside_is_public(address: str) -> None:
    assert guard.is_public(address)


@pytest.fixture
def lines() -> Lines:
    return Lines()


class Changing:
    """A resolver whose answer is another one each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


def test_a_name_is_asked_for_once_and_its_second_answer_is_never_used(lines: Lines) -> None:
    """The classic trick: public when it is checked, loopback when it is connected to."""
    resolve = Changing(["192.0.2.1"], ["127.0.0.1"])
    with serving() as canary:
        web = Web(resolve=resolve)
        with pytest.raises(InvalidRequest, match="not on the public net"):
            web.download(f"http://rebound.example:{canary.port}/", "p", Budget(99, 99), lines)
        assert (resolve.asked, canary.asked) == (["rebound.example"], [])


def test_one_address_inside_among_others_is_enough_to_refuse(lines: Lines) -> None:
    resolve = Changing(["8.8.8.8", "127.0.0.1"])
    with serving() as canary:
        with pytest.raises(InvalidRequest, match="not on the public net"):
            Web(resolve=resolve).download(f"http://two.example:{canary.port}/", "p", Budget(99, 99), lines)
        assert canary.asked == []


def test_the_checked_address_is_the_one_connected_to_with_the_names_host_header(lines: Lines) -> None:
    """What was resolved is connected to, by number: here loopback, which is allowed by the name."""
    resolve = Changing(["127.0.0.1"], ["192.0.2.1"])
    with serving() as server:
        server.files["/a"] = b"hello"
        web = Web(frozenset({"named.example"}), resolve=resolve)
        body = web.download(f"http://named.example:{server.port}/a", "p", Budget(99, 99), lines)
        assert (body.read(), resolve.asked) == (b"hello", ["named.example"])
        assert server.seen[0]["Host"] == f"named.example:{server.port}"
        body.close()


def test_an_allowed_host_leads_no_other_inside(lines: Lines) -> None:
    resolve = Changing(["127.0.0.1"], ["127.0.0.1"])
    with serving() as server:
        web = Web(frozenset({"named.example"}), resolve=resolve)
        url = f"http://named.example:{server.port}/redirect/http://other.example:{server.port}/a"
        with pytest.raises(InvalidRequest, match="not on the public net"):
            web.download(url, "p", Budget(99, 99), lines)
        assert resolve.asked == ["named.example", "other.example"]
        assert len(server.asked) == 1


def test_nothing_outside_a_root_is_looked_at(tmp_path: pathlib.Path) -> None:
    """Whether a folder on the way is there, or a link, would show in the answer."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("/usr/bin")
    (tmp_path / "alias").symlink_to(root)
    for way in ("link", "missing", "root"):
        with guard.open_file(f"{tmp_path}/{way}/../root/a", [str(root)], "place") as file:
            assert file.read() == b"hello"
    for path in (f"{tmp_path}/alias/a", str(root / "a")):
        with guard.open_file(path, [str(tmp_path / "alias")], "place") as file:
            assert file.read() == b"hello"
    (root / "kernel").symlink_to("/proc/1/cwd")
    for path in ("kernel", "/proc/1/cwd", "/proc/1/cwd/a"):
        with pytest.raises(InvalidRequest) as caught:
            guard.open_file(path, [str(root), "/proc/1/cwd"], "place")
        assert caught.value.code == "media_not_allowed"


def test_too_many_open_files_are_the_servers_fault(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.open", full)
    with pytest.raises(Unavailable, match="too many files"):
        guard.open_file("a", [str(tmp_path)], "place")
