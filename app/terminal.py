"""python -m app chat: talk to a running server from a terminal, with pictures and video.

What is typed is a message, but for commands: /image, /video, /think, and reset, status, help, quit with a
slash or without. readline edits the line and keeps the history: it comes with Python and starts at once.
"""

import argparse
import contextlib
import glob
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app import client
from app.client import CallError
from app.flags import FlagHelp, Parser, nearest
from app.talk import Screen, Talk, default_model

readline: Any
try:
    import readline
except ImportError:  # Windows: lines are read without editing
    readline = None

COMMANDS = {
    "/image": ("/image PATH", "show a picture with the next message; more than one may be named"),
    "/video": ("/video PATH", "show a video with the next message"),
    "/think": ("/think on|off", "let the model think before it answers, or not"),
    "reset": ("reset", "forget the conversation"),
    "status": ("status", "the model, and what the server is doing"),
    "help": ("help", "this list; Alt and Enter begin a new line of a message"),
    "quit": ("quit", "leave; so does Ctrl-D. Ctrl-C stops an answer"),
}


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 1 if no server answered, or the MESSAGE got no answer."""
    given = _parser().parse_args(list(arguments))
    screen = Screen()
    options = {"temperature": given.temperature, "max_tokens": given.max_tokens}
    if given.think is not None:
        options["enable_thinking"] = given.think == "on"
    talk = Talk(client.remote(given), given.model or "", screen, system=given.system or "")
    talk.options = {name: value for name, value in options.items() if value is not None}
    try:
        talk.model = talk.model or default_model(talk.server)
        if not all(
            talk.attach(kind, shlex.quote(path), told=not given.message)
            for kind in ("image", "video")
            for path in getattr(given, kind)
        ):
            return 1
        if given.message:
            return 0 if talk.say(" ".join(given.message)) else 1
        return _lines(talk)
    except CallError as failure:
        hint = "" if failure.connected else "; start one with ./start_api.sh, or say where it is with --url"
        sys.stderr.write(f"vlserve: {failure}{hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _lines(talk: Talk) -> int:
    """Messages and commands until the end of the input; from a pipe, 1 if one of them failed."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    good = True
    if typed:
        talk.screen.line(f"{talk.model or 'chat'} at {talk.server.url}; help lists the commands")
    with _editing() if typed else contextlib.nullcontext():
        while True:
            try:
                line = input("> ") if typed else sys.stdin.readline()
                if not typed and not line:
                    break
                if _is_end(line.rstrip("\n")):
                    break
                good &= _turn(talk, line.rstrip("\n"))
            except EOFError:
                talk.screen.line("")
                break
            except KeyboardInterrupt:
                talk.screen.last = ""  # the terminal has shown ^C
                talk.screen.line("" if typed else "(stopped)")
                if not typed:
                    return 130
    return 0 if typed or good else 1


def _is_end(line: str) -> bool:
    return line.strip().lower() in ("quit", "exit", "/quit", "/exit")


def _turn(talk: Talk, line: str) -> bool:
    """Do what a line asks for; whether that went well."""
    word, _, rest = line.strip().partition(" ")
    name = _command(word, rest) if line[:1] != " " else None
    if name is None and line.startswith("/") and "\n" not in line:
        hint = nearest(word.lower(), map(_slashed, COMMANDS))
        hint = hint or "; help lists them, and a blank before the / makes it a message"
        talk.screen.line(f"there is no command {word}{hint}")
        return False
    rest = rest.strip()
    if name in ("/image", "/video"):
        if not rest:
            talk.screen.line(f"which one? {COMMANDS[name][0]}")
        return bool(rest) and talk.attach(name[1:], rest)
    if name == "/think":
        talk.think(rest.lower())
    elif name == "help":
        for usage, what in COMMANDS.values():
            talk.screen.line(f"{usage:15} {what}")
    elif name in ("reset", "status"):
        {"reset": talk.reset, "status": talk.status}[name]()
    elif line.strip():
        return talk.say(line.strip())
    return True


def _command(word: str, rest: str) -> str | None:
    """The command of a line; those that may stand without a slash then stand by themselves."""
    for name in COMMANDS:
        if word.lower() == _slashed(name) or (word.lower() == name and not rest.strip()):
            return name
    return None


def _slashed(name: str) -> str:
    return "/" + name.removeprefix("/")


@contextlib.contextmanager
def _editing() -> Iterator[None]:
    """Line editing with Tab for commands and paths, and a history that only its owner can read."""
    if readline is None:
        yield
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vlserve"
    history = folder / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(_completer())
    mac = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if mac else "tab: complete")
    if not mac:  # what is pasted is one message, of however many lines; Alt and Enter make one more
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.parse_and_bind(r'"\e\C-m": "\C-v\C-j"')
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(history)


def _completer() -> Callable[[str, int], str | None]:
    def complete(text: str, number: int) -> str | None:
        if readline.get_begidx() == 0:
            found = [f"{name} " for name in COMMANDS if name.startswith(text)]
        else:
            names = glob.glob(os.path.expanduser(glob.escape(text)) + "*")
            found = [name + os.sep * os.path.isdir(name) for name in sorted(names)]
        return found[number] if number < len(found) else None

    return complete


def _parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m app chat",
        description="Talk to a running server: send MESSAGE and print the answer, or without one read lines.",
        usage="%(prog)s [flags] [MESSAGE]",
        formatter_class=FlagHelp,
        allow_abbrev=False,
    )
    result.add_argument("message", nargs="*", metavar="MESSAGE", help="what to ask, once")
    asking = result.add_argument_group("asking")
    asking.add_argument(
        "-m", "--model", metavar="ID", help="one of the server's models (default: the server's)"
    )
    asking.add_argument(
        "--image", action="append", default=[], metavar="PATH", help="a picture for the first message"
    )
    asking.add_argument(
        "--video", action="append", default=[], metavar="PATH", help="a video for the first message"
    )
    asking.add_argument("--system", metavar="TEXT", help="a system message")
    asking.add_argument("--think", choices=("on", "off"), help="whether the model is to think first")
    asking.add_argument("--temperature", type=float, metavar="X", help="0 to 2 (default: the model's)")
    asking.add_argument(
        "-t", "--max-tokens", type=int, metavar="N", help="the longest answer (default: the model's)"
    )
    client.add_flags(result)
    return result
