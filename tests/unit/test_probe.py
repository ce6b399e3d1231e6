"""The process that reads videos through first: what it lets pass, and what ends it."""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.media import kinds, probe
from tests import clips
from tests.harmful import promised

OPTIONS = {"codec_whitelist": "none", "protocol_whitelist": ""}


@contextmanager
def on_disk(data: bytes) -> Iterator[Any]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        yield file


def told(file: Any, data: bytes) -> str | None:
    container = kinds.container(data[:4096])
    assert container is not None
    return probe.trouble(file, container, OPTIONS, threading.Event())


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "flv", "wmv"])
def test_a_good_file_passes_and_is_left_where_it_was_read_to(kind: str) -> None:
    data = clips.video(clips.moving(count=12, size=(64, 48)), kind, fps=10)
    with on_disk(data) as file:
        file.seek(7)
        assert told(file, data) is None
        assert file.read() == data[7:]


def test_a_file_in_memory_is_put_on_the_disk() -> None:
    data = clips.video(clips.moving(count=12, size=(64, 48)), "mp4", fps=10)
    with tempfile.SpooledTemporaryFile(2**22) as file:
        file.write(data)
        assert told(file, data) is None
        file.seek(0)
        assert file.read() == data


def test_a_file_that_promises_more_than_fits_is_not_opened_here() -> None:
    data = promised(3 * 10**7, 4)
    assert len(data) < 2000
    with on_disk(data) as file:
        assert told(file, data) == probe.HEAVY


def test_a_file_without_its_end_is_broken() -> None:
    data = clips.video(clips.moving(count=12, size=(64, 48)), "mp4", fps=10)
    with on_disk(data[:200]) as file:
        assert told(file, data) == probe.BROKEN


@pytest.mark.parametrize(("kind", "part"), [("mkv", 0.9), ("mkv", 0.5), ("flv", 0.9), ("flv", 0.5)])
def test_a_file_that_ends_before_it_says_is_cut_off(kind: str, part: float) -> None:
    whole = clips.video(clips.moving(count=60, size=(64, 48)), kind, fps=10)
    data = whole[: int(len(whole) * part)]
    with on_disk(data) as file:
        assert told(file, data) == probe.BROKEN


@pytest.mark.parametrize("kind", ["mkv", "flv", "wmv", "avi", "mov"])
def test_a_clip_of_a_few_slow_frames_is_whole(kind: str) -> None:
    data = clips.video(clips.moving(count=3, size=(64, 48)), kind, fps=1)
    with on_disk(data) as file:
        assert told(file, data) is None


def test_nobody_waits_for_a_file_whose_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("yes"))  # which never ends
    stopped = threading.Event()
    stopped.set()
    began = time.monotonic()
    with on_disk(b"") as file, pytest.raises(ValueError, match="stopped"):
        probe.trouble(file, "mov", OPTIONS, stopped)
    assert time.monotonic() - began < 50
