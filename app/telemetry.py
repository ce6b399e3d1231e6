"""Logs: for people as text, for machines as JSON, each line with the id of its request."""

import json
import logging
import logging.config
import os
import shutil
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this thread works for."""
facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)
"""What the line about that request will say, gathered while it runs; None outside of requests."""


_secrets: tuple[str, ...] = ()


def hide(secrets: Iterable[str]) -> None:
    """Write [key] where one of these would stand in a log or an error."""
    global _secrets
    _secrets = tuple(sorted(secrets, key=len, reverse=True))


def configure(level: str, style: str) -> None:
    """Set up this process's logging; replaces what an earlier call set up."""
    logging.config.dictConfig(logging_config(level, style))


def logging_config(level: str, style: str) -> dict[str, Any]:
    """For dictConfig: everything to standard error in one form, gunicorn's own lines too."""
    formatter = "app.telemetry.JsonFormatter" if style == "json" else "app.telemetry.TextFormatter"
    quiet = ("urllib3", "httpx", "filelock", "PIL", "asyncio")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {
            "stderr": {"class": "app.telemetry.BarHandler", "formatter": "line", "stream": "ext://sys.stderr"}
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {
                "level": "INFO" if level == "DEBUG" else level,  # it would log whole addresses
                "handlers": [],
                "propagate": True,
            },
            **{name: {"level": "WARNING"} for name in quiet},
        },
    }


def show_bar(text: str) -> bool:
    """Show a line that is replaced by the next one, below a log on a terminal; "" takes it away. False where
    the log is no terminal, or is for machines: nothing is shown there.
    """
    shown = [one.show(text) for one in logging.getLogger().handlers if isinstance(one, BarHandler)]
    return any(shown)


class BarHandler(logging.StreamHandler[TextIO]):
    """Lines of a log, with a bar that stays below them on a terminal."""

    bar = ""

    def emit(self, record: logging.LogRecord) -> None:
        bar = self.bar
        if bar:
            self._draw("")
        super().emit(record)
        if bar:
            self._draw(bar)

    def show(self, text: str) -> bool:
        """Put another bar there; whether this is a place for bars."""
        for_people = isinstance(self.formatter, TextFormatter) and os.environ.get("TERM") != "dumb"
        if not (for_people and self.stream.isatty()):
            return False
        self.acquire()
        try:
            if text or self.bar:
                self._draw(text)
        finally:
            self.release()
        return True

    def _draw(self, text: str) -> None:
        self.bar = text
        self.stream.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
        self.stream.flush()


class TextFormatter(logging.Formatter):
    """2026-11-21 09:15:02 INFO registry [req_1f…]: loaded demo"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        # gunicorn calls all of its log "gunicorn.error"
        name = record.name.removesuffix(".error").rpartition(".")[2]
        # A newline or an escape in a logged value must not pass for a line of its own.
        text = (
            record.getMessage().encode("unicode_escape").decode("ascii")
            if _odd(record)
            else record.getMessage()
        )
        line = f"{when} {record.levelname} {name} [{request_id.get()}]: {text}"
        return redacted(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a line about a request has its facts as fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        } | getattr(record, "facts", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redacted(json.dumps(entry))


def redacted(line: str) -> str:
    """A text with [key] in place of the server's keys."""
    for secret in _secrets:
        line = line.replace(secret, "[key]")
    return line


def _odd(record: logging.LogRecord) -> bool:
    return not record.getMessage().isprintable()
