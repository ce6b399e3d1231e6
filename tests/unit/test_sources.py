"""Where media come from: what a URL or a path means, and in which words it is refused."""

import base64
import io
import pathlib
import sys

import pytest

from app.errors import BodyTooLarge, InvalidRequest
from app.media import sources
from app.media.body import Budget
from app.media.sources import Sources
from app.media.web import Lines, Web

BYTES = bytes(range(250, 256)) + b"abc>?~\xff"  # its base64 has +, / and =
CODE = base64.b64encode(BYTES).decode()


def test_the_example_has_all_odd_characters() -> None:
    assert {"+", "/", "="} <= set(CODE)


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{CODE}",
        f"DATA:IMAGE/PNG;BASE64,{CODE}",
        f"data:;base64,{CODE}",
        f"data:application/octet-stream;base64,{CODE}",
        f"data:image/svg+xml;charset=utf-8;base64,{CODE}",
        f"data:image/png;name=a.png;charset=utf-8;base64,{CODE}",
        f"data:image/png;base64,{CODE[:5]}\r\n {CODE[5:]}\n",
        f"data:image/png;base64, {CODE}",
        f"data:image/png;base64,%20{CODE[:5]}%0d%0A%09{CODE[5:]}",
        f"data:image/png;base64,{CODE.replace('=', '%3D')}",
        f"data:image/png;base64,{CODE.replace('=', '%3d')}",
        f"data:image/png;base64,{CODE.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
    ],
)
def test_a_data_url_may_be_written_in_many_ways(url: str) -> None:
    assert sources.data_url_bytes(url, "place") == BYTES


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("data:", "invalid_media_url", "not a valid data: URL"),
        (f"data:image/png;base64;{CODE}", "invalid_media_url", "not a valid data: URL"),
        ("data:" + "x" * 2000 + f"/png;base64,{CODE}", "invalid_media_url", "not a valid data: URL"),
        ("data:image/png,abc", "invalid_media_url", "is not in base64"),
        (f"data:image/png;base64,{CODE[:-1]}", "invalid_base64", "broken"),
        (f"data:image/png;base64,!{CODE}", "invalid_base64", "broken"),
        ("data:image/png;base64,ÄÖÜ=", "invalid_base64", "broken"),
    ],
)
def test_another_url_is_refused(url: str, code: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        sources.data_url_bytes(url, "place")
    assert (caught.value.code, caught.value.param) == (code, "place")
    assert len(str(caught.value)) < 300


def read(source: object, *roots: pathlib.Path, each: int = 99) -> bytes:
    found = Sources(Web(), tuple(map(str, roots))).read(source, "place", Budget(each, 99), Lines())  # type: ignore[arg-type]
    try:
        return found.read()
    finally:
        found.close()


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "a b.png").write_bytes(b"hello")
    return tmp_path


@pytest.mark.parametrize(
    "form",
    [
        "{root}/a b.png",
        "a b.png",
        "./a b.png",
        "file://{root}/a%20b.png",
        "FILE://localhost{root}/a b.png",
        "file://LOCALHOST{root}/a b.png",
    ],
)
def test_a_file_has_many_names(root: pathlib.Path, form: str) -> None:
    assert read(form.format(root=root), root) == b"hello"


def test_a_relative_path_begins_at_each_root_in_turn(root: pathlib.Path) -> None:
    (root / "one").mkdir()
    assert read("a b.png", root / "missing", root / "one", root) == b"hello"


def test_an_upload_and_a_data_url_are_read() -> None:
    assert read(io.BytesIO(b"hello")) == b"hello"
    assert read("data:;base64,aGVsbG8=") == b"hello"


@pytest.mark.parametrize(
    "source",
    [
        "ftp://a/b",
        "s3://a/b",
        "blob:abc",
        "file://host/a",
        "file:a.png",
        "file:///a?b",
        "file:///a#b",
        "file:",
        "x" * 5000,
        "http:",
        "https://",
        "http://a:b@c/",
        "http://a b/",
    ],
)
def test_what_names_nothing_that_can_be_read_is_refused_by_its_form(root: pathlib.Path, source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(source, root)
    assert (caught.value.code, caught.value.param) == ("invalid_media_url", "place")


def test_without_a_root_no_file_is_read(root: pathlib.Path) -> None:
    for source in ("a b.png", f"{root}/a b.png", f"file://{root}/a%20b.png"):
        with pytest.raises(InvalidRequest) as caught:
            read(source)
        assert caught.value.code == "media_not_allowed"


def test_a_data_url_that_is_too_long_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64, "b64decode", None)
    with pytest.raises(BodyTooLarge):
        read("data:;base64," + "A" * 500)


@pytest.mark.parametrize("blank", [" ", "%20", "%0a", "a%0D"])
def test_millions_of_blanks_hold_up_no_thread(blank: str) -> None:
    """What goes over them one by one keeps all others from running: here it would be seen as many calls."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    url = f"data:;base64,{blank * 400_000}{CODE}"
    sys.setprofile(count)
    try:
        found = sources.data_url_bytes(url, "place")
    finally:
        sys.setprofile(None)
    assert found.endswith(BYTES)
    assert calls < 200
