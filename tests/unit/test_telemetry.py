"""Logs: one line each, with the id of the request, for people or for machines."""

import contextvars
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from app import telemetry
from app.telemetry import JsonFormatter, TextFormatter


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("app.engine.registry", logging.INFO, "", 0, message, arguments, info)
    made.created = 1_700_000_000.25
    return made


@pytest.fixture
def in_request() -> Iterator[None]:
    token = telemetry.request_id.set("req_77")
    yield
    telemetry.request_id.reset(token)


@pytest.mark.usefixtures("in_request")
def test_a_text_line_has_time_level_place_and_request() -> None:
    line = TextFormatter().format(record("loaded %s", "demo"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO registry \[req_77\]: loaded demo", line)


def test_a_line_of_gunicorns_does_not_look_like_an_error() -> None:
    """It calls all of its log "gunicorn.error"."""
    line = TextFormatter().format(logging.makeLogRecord({"name": "gunicorn.error", "levelname": "INFO"}))
    assert "INFO gunicorn [" in line


def test_outside_of_requests_there_is_a_dash() -> None:
    outside = contextvars.Context()
    assert "[-]: x" in outside.run(TextFormatter().format, record("x"))
    assert json.loads(outside.run(JsonFormatter().format, record("x")))["request_id"] == "-"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log_to(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[io.StringIO, logging.Formatter], logging.Logger]]:
    """Sends the root logger to a stream, as configure() does."""
    monkeypatch.setenv("TERM", "xterm")
    root = logging.getLogger()
    before = root.handlers[:]

    def start(stream: io.StringIO, formatter: logging.Formatter) -> logging.Logger:
        handler = telemetry.BarHandler(stream)
        handler.setFormatter(formatter)
        root.handlers[:] = [handler]
        return root

    yield start
    root.handlers[:] = before


LogTo = Callable[[io.StringIO, logging.Formatter], logging.Logger]


def test_a_bar_stays_below_the_lines_of_a_terminal(log_to: LogTo) -> None:
    stream = Tty()
    log = log_to(stream, TextFormatter())
    assert telemetry.show_bar("loading 10 %")
    log.warning("a line")
    assert telemetry.show_bar("")
    log.warning("another")
    shown = stream.getvalue()
    assert re.fullmatch(
        r"\r\x1b\[Kloading 10 %\r\x1b\[K.*: a line\n\r\x1b\[Kloading 10 %\r\x1b\[K.*: another\n", shown
    )


@pytest.mark.parametrize(
    ("stream", "formatter"),
    [(io.StringIO(), TextFormatter()), (Tty(), JsonFormatter())],
    ids=["file", "json"],
)
def test_no_bar_gets_into_a_file_or_between_json(
    log_to: LogTo, stream: io.StringIO, formatter: logging.Formatter
) -> None:
    log_to(stream, formatter)
    assert not telemetry.show_bar("loading 10 %")
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("in_request")
def test_a_json_line_is_one_object() -> None:
    line = JsonFormatter().format(record('a "b"\n%s', "\u2028"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == {
        "time": datetime.fromtimestamp(1_700_000_000.25, UTC).isoformat(timespec="milliseconds"),
        "level": "INFO",
        "logger": "app.engine.registry",
        "request_id": "req_77",
        "message": 'a "b"\n\u2028',
    }


@pytest.mark.parametrize(
    "odd", ["\n2026-01-01 INFO forged", "\r", "\x1b[31m", "\x00", "\u2028", "\x85", "\u202e", "\ud83d"]
)
def test_control_characters_in_a_text_line_are_escaped(odd: str) -> None:
    line = TextFormatter().format(record("path %s end", odd))
    assert line.isprintable()
    assert line.endswith(" end")
    assert line.encode()


def test_other_languages_stay_readable() -> None:
    assert TextFormatter().format(record("模型 %s", "é")).endswith("模型 é")


def raised() -> Exception:
    try:
        raise ValueError("broken")
    except ValueError as error:
        return error


def test_an_exception_is_shown_with_its_traceback() -> None:
    error = raised()
    text = TextFormatter().format(record("failed", error=error))
    assert text.splitlines()[0].endswith("failed")
    assert text.splitlines()[1].startswith("Traceback")
    assert text.endswith("ValueError: broken")
    entry = json.loads(JsonFormatter().format(record("failed", error=error)))
    assert entry["message"] == "failed"
    assert entry["exception"].endswith("ValueError: broken")


@pytest.mark.parametrize(("style", "kind"), [("text", TextFormatter), ("json", JsonFormatter)])
def test_configure_replaces_what_was_set_up(style: str, kind: type[logging.Formatter]) -> None:
    for _ in range(2):
        telemetry.configure("WARNING", style)
    root = logging.getLogger()
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
    assert isinstance(handler.formatter, kind)
    assert root.level == logging.WARNING


def test_noisy_libraries_are_quiet() -> None:
    telemetry.configure("DEBUG", "text")
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.INFO)
    assert logging.getLogger("app.engine").isEnabledFor(logging.DEBUG)


@pytest.fixture
def hidden() -> Iterator[None]:
    telemetry.hide(["sk-secret", "sk-secret-and-longer"])
    yield
    telemetry.hide(())


@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_keys_are_taken_out_wherever_they_stand(formatter: logging.Formatter) -> None:
    token = telemetry.request_id.set("sk-secret")
    try:
        raise ValueError("sk-secret-and-longer")
    except ValueError as error:
        line = formatter.format(record("a\nsk-secret-and-longer %s", "xsk-secretx", error=error))
    finally:
        telemetry.request_id.reset(token)
    assert "sk-" not in line.replace("test_telemetry", "").replace('"sk-secret-and-longer"', "")
    assert "longer" not in line.replace('"sk-secret-and-longer"', "")
    assert line.count("[key]") >= 4
