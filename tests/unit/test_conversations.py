"""Conversations in a file: kept over a restart, bounded in every direction, and of one owner each."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import SessionNotFound, Unavailable
from app.services import conversations
from app.services.conversations import Conversations, Picture, Round, Session
from app.settings import SettingsError
from tests.unit.conftest import Clock

MINE = Session("me", "talk")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "talk.db"


@pytest.fixture
def kept(path: Path) -> Iterator[Conversations]:
    made = Conversations(path)
    yield made
    made.close()


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(conversations, "time", clock)
    return clock


def said(number: int, *pictures: Picture) -> Round:
    return Round(f"question {number}", f"answer {number}", 10 + number, pictures)


def test_rounds_are_kept_in_order_with_their_pictures(kept: Conversations) -> None:
    rounds = [said(0), said(1, Picture(b"\x00\xff", 12), Picture(b"b", 3)), said(2)]
    for one in rounds:
        kept.add(MINE, one)
    assert kept.rounds(MINE) == rounds


def test_any_text_comes_back_as_it_was(kept: Conversations) -> None:
    one = Round("' OR 1=1; -- \x00 \u2028 你好 👨‍👩‍👧", "", 1)
    kept.add(MINE, one)
    assert kept.rounds(MINE) == [one]


def test_they_are_there_after_a_restart(kept: Conversations, path: Path) -> None:
    kept.add(MINE, said(1, Picture(b"a", 1)))
    other = Conversations(path)  # the first has not been closed, as after a kill
    assert other.rounds(MINE) == kept.rounds(MINE) == [said(1, Picture(b"a", 1))]
    other.close()
    kept.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["talk.db"]
    assert kept.rounds(MINE) == [said(1, Picture(b"a", 1))]


def test_nothing_is_written_before_it_is_needed(kept: Conversations, path: Path) -> None:
    assert not path.exists()


def test_nobody_else_can_read_the_file(kept: Conversations, path: Path) -> None:
    kept.add(MINE, said(1))
    files = list(path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_session_has_twenty_rounds_at_most(kept: Conversations) -> None:
    for number in range(25):
        kept.add(MINE, said(number, Picture(b"a", 1)))
    assert [one.message for one in kept.rounds(MINE)] == [f"question {number}" for number in range(5, 25)]
    assert kept.summary(MINE).rounds == kept.length(MINE) == 20
    assert kept.length(Session("me", "nobody")) == 0


def test_a_sessions_older_pictures_make_room_and_its_texts_stay(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "PICTURE_BYTES", 100)
    sizes = [10, 60, 30, 0, 40]
    for number, size in enumerate(sizes):
        kept.add(MINE, said(number, *([Picture(bytes(size), 1)] if size else [])))
    assert [sum(len(picture.data) for picture in one.pictures) for one in kept.rounds(MINE)] == [
        0,
        0,
        30,
        0,
        40,
    ]


def test_a_round_whose_pictures_are_too_many_keeps_its_text(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "PICTURE_BYTES", 100)
    kept.add(MINE, said(1, Picture(bytes(101), 1)))
    assert kept.rounds(MINE) == [said(1)]


def test_an_owner_has_so_many_sessions_and_loses_his_oldest(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch, calendar: Clock
) -> None:
    monkeypatch.setattr(conversations, "SESSIONS", 3)
    kept.add(Session("other", "his"), said(0))
    for name in ("a", "b", "c", "a", "d"):
        calendar.advance(1)
        kept.add(Session("me", name), said(1))
    assert [row.session_id for row in kept.list("me")] == ["d", "a", "c"]
    assert [row.session_id for row in kept.list("other")] == ["his"]


def test_sessions_are_forgotten_after_a_month_without_use(kept: Conversations, calendar: Clock) -> None:
    kept.add(Session("me", "old"), said(0))
    calendar.advance(29 * 86400)
    kept.add(Session("me", "young"), said(0))
    calendar.advance(2 * 86400)
    kept.add(Session("other", "his"), said(0))
    assert [row.session_id for row in kept.list("me")] == ["young"]


def test_all_together_are_bounded_and_the_newest_stays(
    kept: Conversations, monkeypatch: pytest.MonkeyPatch, calendar: Clock, path: Path
) -> None:
    monkeypatch.setattr(conversations, "TOTAL_BYTES", 1_000_000)
    for number in range(40):
        calendar.advance(1)
        kept.add(
            Session(f"owner {number % 3}", f"session {number}"), said(number, Picture(bytes(100_000), 1))
        )
    names = {row.session_id for owner in range(3) for row in kept.list(f"owner {owner}")}
    assert names <= {f"session {number}" for number in range(30, 40)}
    assert "session 39" in names
    assert len(names) >= 8
    kept.add(Session("me", "large"), said(0, Picture(bytes(2_000_000), 1)))
    assert kept.summary(Session("me", "large")).rounds == 1
    assert kept.list("owner 0") == []
    kept.close()
    assert path.stat().st_size < 4_000_000


def test_sessions_are_listed_with_the_last_used_first(kept: Conversations, calendar: Clock) -> None:
    for name in ("a", "b", "a"):
        calendar.advance(10.5)
        kept.add(Session("me", name), said(1))
    first, second = kept.list("me")
    assert (first.session_id, first.rounds, first.created, first.updated) == ("a", 2, 1010, 1031)
    assert (second.session_id, second.rounds, second.created, second.updated) == ("b", 1, 1021, 1021)
    assert kept.summary(MINE._replace(name="b")) == second


def test_owners_do_not_see_each_other(kept: Conversations) -> None:
    kept.add(MINE, said(1))
    theirs = MINE._replace(owner="them")
    assert kept.rounds(theirs) == []
    assert kept.list("them") == []
    assert kept.forget(theirs) is False
    with pytest.raises(SessionNotFound):
        kept.summary(theirs)
    kept.add(theirs, said(2))
    assert kept.rounds(MINE) == [said(1)]
    assert kept.rounds(theirs) == [said(2)]


def test_a_forgotten_session_is_gone_from_the_file(kept: Conversations, path: Path) -> None:
    kept.add(
        MINE, Round("very-special-message", "very-special-answer", 1, (Picture(b"very-special-picture", 1),))
    )
    kept.add(MINE._replace(name="other"), said(1))
    assert kept.forget(MINE) is True
    assert kept.forget(MINE) is False
    assert kept.rounds(MINE) == []
    assert [row.session_id for row in kept.list("me")] == ["other"]
    kept.close()
    assert b"very-special" not in path.read_bytes()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT COUNT(*) FROM rounds").fetchone() == (1,)
        assert database.execute("SELECT COUNT(*) FROM pictures").fetchone() == (0,)
    database.close()


def test_threads_and_processes_write_to_one_file(kept: Conversations, path: Path) -> None:
    """A second connection stands for another process: SQLite locks the file for both."""
    other = Conversations(path)

    def write(to: Conversations, name: str) -> None:
        for number in range(10):
            to.add(Session("me", name), said(number))

    threads = [
        threading.Thread(target=write, args=(to, f"{to is kept}-{number}"))
        for number in range(4)
        for to in (kept, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [row.rounds for row in kept.list("me")] == [10] * 8
    other.close()


def test_processes_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def write(to: Conversations, start: threading.Barrier) -> None:
        start.wait(20)
        try:
            to.add(MINE, said(1))
        except Exception as error:
            failed.append(error)

    for number in range(40):
        made = [Conversations(tmp_path / f"{number}.db") for _ in range(3)]
        start = threading.Barrier(3)
        threads = [threading.Thread(target=write, args=(one, start)) for one in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert made[0].length(MINE) == 3
        for one in made:
            one.close()
    assert not failed


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b""])
def test_what_is_no_database_is_an_error_and_no_reason_to_die(
    path: Path, kept: Conversations, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    if not content:  # an empty file is a new database
        kept.add(MINE, said(1))
        return
    for _ in range(2):
        with pytest.raises(Unavailable, match="log has the reason"):
            kept.add(MINE, said(1))
    assert "file is not a database" in caplog.text
    assert path.read_bytes() == content
    path.unlink()
    kept.add(MINE, said(1))  # repaired without a restart
    assert kept.rounds(MINE) == [said(1)]


def test_a_file_of_a_later_version_is_left_alone(path: Path, kept: Conversations) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(Unavailable):
        kept.rounds(MINE)


def test_a_full_disk_leaves_the_history_as_it_was(
    kept: Conversations, caplog: pytest.LogCaptureFixture
) -> None:
    kept.add(MINE, said(1))
    connection = kept._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable):
        kept.add(MINE, said(2, Picture(bytes(1_000_000), 1)))
    assert "full" in caplog.text
    assert kept.rounds(MINE) == [said(1)]
    connection.execute("PRAGMA max_page_count = 1000000")
    kept.add(MINE, said(2))
    assert kept.rounds(MINE) == [said(1), said(2)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(path: Path, kept: Conversations) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(Unavailable):
        kept.add(MINE, said(1))
    path.parent.chmod(0o700)


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        Conversations(tmp_path / "nowhere" / "talk.db")
