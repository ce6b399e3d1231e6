"""python -m app chat with a real server, from a pipe and in a terminal."""

import contextlib
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests import clips
from tests.conftest import ROOT, Server, running, wait_until
from tests.fake_server import CHAT as FAKE_CHAT
from tests.fake_server import fake_server, says

CHAT = (sys.executable, "-m", "app", "chat", "--url")


def test_a_picture_is_described_from_a_pipe(server: Server) -> None:
    lines = "/image docs/scene.png\nWhat is in this picture?\n/think on\nWho are you?\nstatus\nquit\n"
    done = subprocess.run(
        [*CHAT, server.url], input=lines, cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "red circle" in done.stdout
    assert re.search(r"\[thinking\]\n.+\n\[answer\]\n.*demo model", done.stdout)
    assert "messages   4" in done.stdout


def test_a_video_is_described_from_a_pipe(server: Server, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a clip.mp4").write_bytes(clips.video(clips.moving("to the left")))
    lines = f'/video "{tmp_path}/a clip.mp4"\nWhat happens in this video?\n'
    done = subprocess.run(
        [*CHAT, server.url], input=lines, cwd=ROOT, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "red circle moves to the left" in done.stdout


class Terminal:
    """A chat in a pseudo-terminal; reads all that it shows."""

    def __init__(self, url: str, home: pathlib.Path, *flags: str) -> None:
        self.shown = ""
        ours, theirs = pty.openpty()
        self.fd = ours
        self.process = subprocess.Popen(
            [*CHAT, url, *flags],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"XDG_STATE_HOME": str(home), "TERM": "xterm"},
            preexec_fn=self._at_a_terminal,
        )
        os.close(theirs)
        os.set_blocking(ours, False)

    @staticmethod
    def _at_a_terminal() -> None:
        os.login_tty(0)  # so that Ctrl-C is a signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def sees(self, text: str, seconds: float = 30.0) -> None:
        """Wait until the text is shown; what was shown before it is passed over."""
        try:
            wait_until(lambda: self._look() and text in self.shown, seconds)
        except AssertionError:
            raise AssertionError(
                f"no {text!r} in {len(self.shown)} characters: {self.shown[-300:]!r}"
            ) from None
        self.shown = self.shown.partition(text)[2]

    def _look(self) -> bool:
        with contextlib.suppress(OSError):  # nothing new, or the end
            self.shown += os.read(self.fd, 65536).decode("utf-8", "replace")
        return True


@pytest.fixture
def terminal(tmp_path: pathlib.Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(url: str, *flags: str) -> Terminal:
        made.append(Terminal(url, tmp_path, *flags))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait(10)
        os.close(one.fd)


def test_what_is_pasted_is_one_message(terminal: Callable[..., Terminal]) -> None:
    with fake_server() as fake:
        fake.answers[FAKE_CHAT] = says("Good.")
        chat = terminal(fake.url)
        chat.sees("> ")
        chat.type("\x1b[200~/* Why? */\nint x;\x1b[201~\x1b\rand y\r")
        chat.sees("Good.")
        chat.sees("> ")
        chat.type("\x04")
        assert chat.process.wait(20) == 0
    assert [body["messages"][0]["content"] for body in fake.bodies()] == ["/* Why? */\nint x;\nand y"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_terminal_and_any_reader_will_do(encoding: str) -> None:
    environ = os.environ | {"PYTHONIOENCODING": encoding}
    with fake_server() as fake:
        fake.answers[FAKE_CHAT] = says("schön", *["!" * 1000] * 200)
        ask = [*CHAT, fake.url, "hello"]
        whole = subprocess.run(ask, cwd=ROOT, env=environ, capture_output=True, timeout=60)
        with subprocess.Popen(
            ask, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as cut:
            assert cut.stdout
            assert cut.stderr
            cut.stdout.read(1)
            cut.stdout.close()
            assert cut.stderr.read() == b""
    assert (whole.returncode, whole.stderr) == (0, b"")
    assert whole.stdout.startswith("schön!".encode(encoding, "replace"))
    assert cut.returncode == 128 + signal.SIGPIPE


def test_ctrl_c_stops_the_answer_at_the_server_and_not_the_program(
    tmp_path: pathlib.Path, endless: pathlib.Path, terminal: Callable[..., Terminal]
) -> None:
    with running(tmp_path, "--model", str(endless)) as server:
        chat = terminal(server.url, "-t", "15000", "--temperature", "1.5")
        chat.sees("> ")
        chat.type("hello\r")
        wait_until(lambda: server.get("/status").json()["running"] == 1, 60)
        chat.type("\x03")
        chat.sees("(stopped)")
        wait_until(lambda: server.get("/status").json()["running"] == 0)
        chat.sees("> ")
        chat.type("\x03")
        chat.sees("> ")
        chat.type("status\r")
        chat.sees("0 running")
        chat.type("/im\t")
        chat.sees("/image ")
        chat.type("docs/sc\t")
        chat.sees("scene.png")
        chat.type("\r")
        chat.sees("goes with the next message")
        chat.type("quit\r")
        assert chat.process.wait(20) == 0
        assert "client disconnected" in server.log
    history = tmp_path / "vlserve" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "/image docs/scene.png" in history.read_text()
