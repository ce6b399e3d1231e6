"""The process in which grammars are tried out (grammar_check.py), started when it is first needed."""

import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time

from app.engine import grammar_check, lark
from app.engine.types import Grammar
from app.errors import Unavailable

PATIENCE = 30.0
"""Seconds of wall time after which the process is given up; its own limit is one of computing time."""


class Checker:
    """Asks the process, one question at a time; a process that had to be ended is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def check(self, grammar: Grammar) -> str:
        """The grammar in the library's language; raises ValueError with what is wrong."""
        with self._lock:
            answer = self._ask(json.dumps(lark.question(grammar)).encode() + b"\n")
        if answer is None:
            raise ValueError("compiling it takes too long or too much memory")
        said: dict[str, str] = json.loads(answer)
        if "error" in said:
            raise ValueError(short(said["error"]))
        return said["lark"]

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _ask(self, line: bytes) -> bytes | None:
        """Its answer; None if it was ended over the question."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise Unavailable("Grammars cannot be checked now.")
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = _line(process.stdout.fileno())
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self._end()
            return None
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-I", grammar_check.__file__]
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # what was not written when it ended
                        continue


def _line(source: int) -> bytes:
    """A line from a pipe, or what there is of it when it ends or takes too long."""
    deadline = time.monotonic() + PATIENCE
    found = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(source, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not waiting.select(deadline - time.monotonic()):
                return b""
            block = os.read(source, 1 << 16)
            if not block:
                return b""
            found += block
    return found


def short(error: str) -> str:
    """The first line of what the library says, without its coordinates."""
    lines = error.split("<non-verbose")[0].strip().splitlines()
    text = re.sub(r"^(at )?\d+\(\d+\): ", "", lines[0] if lines else "it fails")
    text = text.removeprefix("failed to compile JSON schema: ").rstrip(".:")
    return text[:300]
