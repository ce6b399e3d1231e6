"""Conversations: rounds of a message and its answer in SQLite, so that they survive a restart.

What is kept is bounded in every direction: rounds and pictures of a session, sessions of a key, their age,
and the file as a whole. Keys see their own sessions only; the file has a hash of the key, never the key.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from app.errors import SessionNotFound, Unavailable
from app.settings import SettingsError

log = logging.getLogger(__name__)

ROUNDS = 20
"""Of a session; older ones are forgotten."""
PICTURE_BYTES = 32 * 1024 * 1024
"""Of a session's pictures; those of older rounds are forgotten, their texts stay."""
SESSIONS = 1000
"""Of one key; those that were not used for longest are forgotten."""
DAYS = 30
"""Without use after which a session is forgotten."""
TOTAL_BYTES = 1024 * 1024 * 1024
"""Of all sessions together; those that were not used for longest are forgotten."""
LOCK_SECONDS = 10.0
"""How long another process may hold the file."""
GLANCE_SECONDS = 0.2
"""The same where the answer is wanted at once or not at all."""
VERSION = 1

SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL,
    UNIQUE (owner, name)
);
CREATE INDEX IF NOT EXISTS sessions_by_use ON sessions (used);
CREATE TABLE IF NOT EXISTS rounds (
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    tokens INTEGER NOT NULL, message TEXT NOT NULL, response TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS rounds_by_session ON rounds (session);
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL REFERENCES rounds ON DELETE CASCADE,
    pixels INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS pictures_by_round ON pictures (round);
PRAGMA user_version = {VERSION};
COMMIT;
"""


class Session(NamedTuple):
    """A conversation's name, which is unique among those of its owner."""

    owner: str
    name: str


class Picture(NamedTuple):
    """A picture as it came, and how many pixels its header announces."""

    data: bytes
    pixels: int


@dataclass(frozen=True)
class Round:
    """A message and its answer; `tokens` is what both add to a prompt, as counted when they were new."""

    message: str
    response: str
    tokens: int = 0
    pictures: tuple[Picture, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Summary:
    """A row of the list of sessions; times are in seconds since 1970."""

    session_id: str
    rounds: int
    created: int
    updated: int


class Conversations:
    """The conversations in a file, which is made when the first of them is stored or asked for.

    Every method raises Unavailable when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise SettingsError(f"--database {path}: there is no folder {path.parent}")
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def rounds(self, session: Session) -> list[Round]:
        """A session's rounds, oldest first; none if there is no such session."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT rounds.id, message, response, tokens"
                " FROM rounds JOIN sessions ON session = sessions.id"
                " WHERE owner = ? AND name = ? ORDER BY rounds.id",
                session,
            ).fetchall()
            pictures = "SELECT data, pixels FROM pictures WHERE round = ? ORDER BY id"
            return [
                Round(
                    message,
                    response,
                    tokens,
                    tuple(map(Picture._make, database.execute(pictures, (number,)))),
                )
                for number, message, response, tokens in rows
            ]

    def length(self, session: Session) -> int:
        """How many rounds a session has; does not wait for long where the file is held."""
        with self._transaction(seconds=GLANCE_SECONDS) as database:
            return sum(row.rounds for row in _summaries(database, *session))

    def add(self, session: Session, made: Round) -> None:
        """Store a session's newest round, and forget what is over the bounds."""
        now = time.time()
        with self._transaction("BEGIN IMMEDIATE") as database:
            database.execute(
                "INSERT INTO sessions (owner, name, created, used) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (owner, name) DO UPDATE SET used = excluded.used",
                (*session, now, now),
            )
            (number,) = database.execute(
                "SELECT id FROM sessions WHERE owner = ? AND name = ?", session
            ).fetchone()
            added = database.execute(
                "INSERT INTO rounds (session, tokens, message, response) VALUES (?, ?, ?, ?)",
                (number, made.tokens, made.message, made.response),
            ).lastrowid
            database.executemany(
                "INSERT INTO pictures (round, pixels, data) VALUES (?, ?, ?)",
                [(added, picture.pixels, picture.data) for picture in made.pictures],
            )
            _trim_session(database, number)
            _trim_sessions(database, session.owner, number, now)

    def forget(self, session: Session) -> bool:
        """Delete a session; whether there was one."""
        with self._transaction("BEGIN IMMEDIATE") as database:
            done = database.execute("DELETE FROM sessions WHERE owner = ? AND name = ?", session)
            return done.rowcount > 0

    def list(self, owner: str) -> list[Summary]:
        """An owner's sessions, the last used first."""
        with self._transaction() as database:
            return _summaries(database, owner)

    def summary(self, session: Session) -> Summary:
        """One row of the list; raises SessionNotFound."""
        with self._transaction() as database:
            found = _summaries(database, *session)
        if not found:
            raise SessionNotFound(f"There is no session {session.name}.", param="session_id")
        return found[0]

    def close(self) -> None:
        """Put all into the one file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _transaction(
        self, begin: str = "BEGIN", seconds: float = LOCK_SECONDS
    ) -> Iterator[sqlite3.Connection]:
        try:
            if not self._lock.acquire(timeout=seconds):
                raise TimeoutError("other requests wait for it already")
            try:
                if self._connection is None:
                    self._connection = _opened(self._path, seconds)
                self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")
                with self._connection as database:  # commits, or takes all back
                    database.execute(begin)
                    yield database
            finally:
                self._lock.release()
        except (sqlite3.Error, OSError) as error:
            log.error("conversations in %s: %s", self._path, error)
            raise Unavailable(
                "Conversations cannot be read or stored now; the server's log has the reason."
            ) from None


def _opened(path: Path, seconds: float) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # what people said is nobody else's
    connection = sqlite3.connect(path, timeout=seconds, isolation_level=None, check_same_thread=False)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError(f"made by a later version of this server (its format is {version})")
        _use_wal(connection, seconds)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is not left in free pages
        connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Readers and a writer at once. Unlike all else, this does not wait by itself while another process opens
    the file too.
    """
    for tries_left in reversed(range(max(1, int(10 * seconds)))):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not tries_left:
                raise
            time.sleep(0.1)


def _summaries(database: sqlite3.Connection, owner: str, name: str | None = None) -> list[Summary]:
    rows = database.execute(
        "SELECT name, COUNT(rounds.id), created, used FROM sessions JOIN rounds ON session = sessions.id"
        " WHERE owner = ?1 AND name = COALESCE(?2, name)"
        " GROUP BY sessions.id ORDER BY used DESC, sessions.id DESC",
        (owner, name),
    )
    return [Summary(name, rounds, int(created), int(used)) for name, rounds, created, used in rows]


def _trim_session(database: sqlite3.Connection, number: int) -> None:
    database.execute(
        "DELETE FROM rounds WHERE session = ?1 AND id NOT IN"
        " (SELECT id FROM rounds WHERE session = ?1 ORDER BY id DESC LIMIT ?2)",
        (number, ROUNDS),
    )
    sizes = database.execute(
        "SELECT round, SUM(LENGTH(data)) FROM pictures JOIN rounds ON round = rounds.id"
        " WHERE session = ? GROUP BY round ORDER BY round DESC",
        (number,),
    ).fetchall()
    total = 0
    for one, size in sizes:
        total += size
        if total > PICTURE_BYTES:
            database.execute("DELETE FROM pictures WHERE round = ?", (one,))


def _trim_sessions(database: sqlite3.Connection, owner: str, newest: int, now: float) -> None:
    database.execute("DELETE FROM sessions WHERE used < ?", (now - DAYS * 86400,))
    database.execute(
        "DELETE FROM sessions WHERE owner = ?1 AND id NOT IN"
        " (SELECT id FROM sessions WHERE owner = ?1 ORDER BY used DESC, id = ?2 DESC LIMIT ?3)",
        (owner, newest, SESSIONS),
    )
    while _bytes_in_use(database) > TOTAL_BYTES:
        oldest = "SELECT id FROM sessions WHERE id <> ? ORDER BY used LIMIT 1"
        if not database.execute(f"DELETE FROM sessions WHERE id = ({oldest})", (newest,)).rowcount:  # noqa: S608
            return


def _bytes_in_use(database: sqlite3.Connection) -> int:
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
