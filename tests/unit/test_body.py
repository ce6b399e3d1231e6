"""A medium's bytes: counted as they come, on disk beyond a size, and never under a name."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import BodyTooLarge, Unavailable
from app.media.body import IN_MEMORY, Body, Budget


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def budget(each: int = 10**8, total: int = 10**8) -> Budget:
    return Budget(each, total)


@pytest.mark.parametrize("size", [0, 5, IN_MEMORY, IN_MEMORY + 1])
def test_what_was_written_is_read_as_often_as_wanted(size: int) -> None:
    data = os.urandom(size)
    body = Body.of(data[: size // 2], "place", budget())
    body.write(data[size // 2 :])
    for _ in range(2):
        assert (body.head(3), body.read(), body.size) == (data[:3], data, size)
    assert body.in_memory() == (data if size <= IN_MEMORY else None)
    body.close()


def test_a_large_one_is_in_a_file_without_a_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = Body.of(bytes(IN_MEMORY + 1), "place", budget())
    links = [os.readlink(link) for link in pathlib.Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [link for link in links if link.startswith(str(tmp_path)) and link.endswith("(deleted)")]
    assert list(tmp_path.iterdir()) == []
    body.close()
    left = [os.path.realpath(link) for link in pathlib.Path("/proc/self/fd").iterdir()]
    assert not [path for path in left if str(tmp_path) in path]


def test_the_digest_is_the_contents_however_it_came(held: contextlib.ExitStack) -> None:
    whole, parts = Body.of(b"hello", "a", budget()), Body.of(b"he", "b", budget())
    parts.write(b"llo")
    file, other = Body.of_file(io.BytesIO(b"hello"), "c", budget()), Body.of(b"Hello", "a", budget())
    for body in (whole, parts, file, other):
        held.callback(body.close)
    assert whole.digest() == parts.digest() == file.digest() != other.digest()


def test_one_byte_too_many_is_refused_with_its_place() -> None:
    Body.of(bytes(2**20), "place", budget(each=2**20)).close()
    with pytest.raises(BodyTooLarge, match="more than 1 MiB") as caught:
        Body.of(bytes(2**20 + 1), "place", budget(each=2**20))
    assert (caught.value.param, caught.value.code) == ("place", "media_too_large")


def test_all_of_a_request_share_a_budget(held: contextlib.ExitStack) -> None:
    shared = budget(total=2**20)
    first = Body.of(bytes(2**19), "first", shared)
    held.callback(first.close)
    first.write(bytes(2**19))
    with pytest.raises(BodyTooLarge, match="1 MiB together") as caught:
        Body.of(b"x", "second", shared)
    assert caught.value.param == "second"


def test_a_disk_without_room_is_the_servers_fault(small_files: None) -> None:
    with pytest.raises(Unavailable, match="no room"):
        Body.of(bytes(IN_MEMORY + 1), "place", budget())


def test_a_small_file_is_closed_at_once_and_a_large_one_with_its_body(tmp_path: pathlib.Path) -> None:
    for size, is_kept in ((IN_MEMORY - 1, False), (IN_MEMORY, True)):
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data)
        file = (tmp_path / "file").open("rb")
        with contextlib.closing(Body.of_file(file, "place", budget())) as body:
            assert (file.closed, body.size, body.read()) == (not is_kept, size, data)
        assert file.closed


def test_one_body_may_be_read_at_two_places_at_once() -> None:
    body = Body.of(bytes(range(256)) * 4096, "a", budget())
    other = body.named("b")
    assert (body.param, other.param) == ("a", "b")
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda one: one.read(), [body, other] * 20))) == 1
    body.close()


def test_a_file_that_is_too_large_is_refused_unread_and_closed() -> None:
    class Large(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise AssertionError("read")

    file = Large(bytes(100))
    with pytest.raises(BodyTooLarge):
        Body.of_file(file, "place", budget(each=99))
    assert file.closed
