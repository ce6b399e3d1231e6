"""The bytes of a medium while a request needs them: in memory, or beyond a size in a file without a name.

A file without a name is gone with its last descriptor, also when the process is killed.
"""

import contextlib
import copy
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

from app.errors import BodyTooLarge, Unavailable

IN_MEMORY = 4 * 2**20
"""Bytes beyond which a medium is on disk."""
BLOCK = 1 << 18


class Budget:
    """How many bytes a medium, and all media of a request together, may have."""

    def __init__(self, each: int, total: int) -> None:
        self.each, self.total = each, total
        self._lock = threading.Lock()
        self._used = 0

    def check(self, size: int, param: str) -> None:
        """Raise BodyTooLarge for a medium of so many bytes."""
        if size > self.each:
            raise BodyTooLarge(
                f"The medium has more than {self.each / 2**20:g} MiB.", param=param, code="media_too_large"
            )

    def take(self, more: int, param: str) -> None:
        """Count bytes that came; raises BodyTooLarge if they are too many for one request."""
        with self._lock:
            self._used += more
            if self._used > self.total:
                raise BodyTooLarge(
                    f"The media of the request have more than {self.total / 2**20:g} MiB together.",
                    param=param,
                    code="media_too_large",
                )


class Body:
    """A medium's bytes; to be closed. Several threads may read it."""

    def __init__(self, param: str, budget: Budget, file: BinaryIO | None = None) -> None:
        self.param = param
        self.size = 0
        self._budget = budget
        self._spooled = None if file is not None else tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._file: Any = file if file is not None else self._spooled
        self._digest = hashlib.sha256()
        self._lock = threading.RLock()

    @classmethod
    def of(cls, data: bytes, param: str, budget: Budget) -> Self:
        """A body of these bytes; raises BodyTooLarge."""
        made = cls(param, budget)
        try:
            made.write(data)
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def of_file(cls, file: BinaryIO, param: str, budget: Budget) -> Self:
        """A body of an open file, which is closed, or if it is large becomes the body's own: a clip may be
        hundreds of small files. Raises BodyTooLarge.
        """
        with contextlib.ExitStack() as held:
            held.callback(file.close)
            budget.check(file.seek(0, os.SEEK_END), param)
            file.seek(0)
            block = file.read(IN_MEMORY)
            if len(block) < IN_MEMORY:
                return cls.of(block, param, budget)
            made = cls(param, budget, file)
            while block:
                made._count(block)
                block = file.read(BLOCK)
            held.pop_all()
            return made

    def named(self, param: str) -> Self:
        """The same bytes at another place of the request."""
        other = copy.copy(self)
        other.param = param
        return other

    def write(self, data: bytes) -> None:
        """Add bytes; raises BodyTooLarge, and Unavailable where the disk has no room for them."""
        self._count(data)
        try:
            self._file.write(data)
        except OSError:
            raise Unavailable("The server has no room on its disk for the medium.") from None

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        self._budget.check(self.size, self.param)
        self._budget.take(len(data), self.param)
        self._digest.update(data)

    def digest(self) -> bytes:
        """What tells this content from any other."""
        return self._digest.digest()

    def head(self, count: int = 4096) -> bytes:
        """The first bytes."""
        with self.file() as file:
            return bytes(file.read(count))

    def read(self) -> bytes:
        """All bytes."""
        with self.file() as file:
            return bytes(file.read())

    def in_memory(self) -> bytes | None:
        """All bytes if they are in memory, else None."""
        return None if self._spooled is None or self.size > IN_MEMORY else self.read()

    @contextlib.contextmanager
    def file(self) -> Iterator[Any]:
        """A file to read from, at its beginning; others wait meanwhile."""
        with self._lock:
            self._file.seek(0)
            yield self._file

    def close(self) -> None:
        """Give the bytes back."""
        self._file.close()
