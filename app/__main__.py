"""python -m app serve | chat | bench | models: the command line."""

import difflib
import io
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.settings import PROJECT, Settings, SettingsError, variable

if TYPE_CHECKING:
    from app.engine.types import ModelSpec

USAGE = """usage: python -m app COMMAND [flags]

commands:
  serve    serve models over HTTP
  chat     talk to a running server in the terminal
  bench    load a running server and measure it
  models   list the models of the catalogue

python -m app COMMAND --help lists the flags of a command.
"""


def main(arguments: list[str]) -> int:
    """Run a command; returns the process's exit code."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    commands = {"serve": serve, "chat": chat, "bench": bench, "models": models}
    if command not in commands:
        near = (
            ["serve"] if command.startswith("-") else difflib.get_close_matches(command.lower(), commands, 1)
        )
        hint = f"; did you mean {' '.join((*near, command) if command[:1] == '-' else near)}?" if near else ""
        there = ", ".join(commands)
        print(f"vlserve: there is no command {command}; there are {there}{hint}", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model writes what a terminal may not be able to show
    try:
        code = commands[command](rest)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        print(f"vlserve: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest can go
        return 128 + signal.SIGPIPE


def serve(arguments: list[str]) -> int:
    """Check the settings and the port, then become gunicorn."""
    from app import check

    settings = Settings.from_args(arguments)
    for name, near in _misspelt():
        print(f"vlserve: {name} is no setting; did you mean {near}?", file=sys.stderr)
    models = check(settings)

    def whole(path: str) -> str:  # we do not stay in this folder
        return path and str(Path(path).expanduser().resolve())

    folder = whole(settings.model)
    settings = replace(
        settings,
        port=_free_port(settings),
        model=folder if models.resolve(None).source == folder else settings.model,
        catalog=whole(settings.catalog),
        database=whole(settings.database),
        api_keys_file=whole(settings.api_keys_file),
        tpu_libraries=whole(settings.tpu_libraries),
        allowed_media_path=tuple(whole(path) for path in settings.allowed_media_path),
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    print(f"vlserve: {models.default} on {url}   (OpenAI base_url {url}/v1, health {url}/health)")
    for title, text in _summary(settings, models.resolve(None)):
        print(f"vlserve:   {title:7} {text}")
    sys.stdout.flush()
    os.chdir(PROJECT)  # gunicorn imports from the folder in which it is imported itself
    # Before the environment changes: it makes room for the title that replaces our flags.
    from gunicorn.app.wsgiapp import run

    os.environ.update(settings.to_env())
    os.environ.pop("GUNICORN_CMD_ARGS", None)  # it would change the address that was just printed
    sys.argv = ["gunicorn", "--config", str(PROJECT / "gunicorn.conf.py"), "wsgi:application"]
    run()
    return 0


def _misspelt() -> Iterator[tuple[str, str]]:
    """Variables that are nearly a setting's, and whose. No error: others may have the prefix."""
    known = [variable(row) for row in fields(Settings)]
    for name in sorted(os.environ):
        if name.startswith("VLSERVE_") and name not in known:
            for near in difflib.get_close_matches(name, known, 1, 0.88):
                yield name, near


def _summary(settings: Settings, spec: "ModelSpec") -> Iterator[tuple[str, str]]:
    """What a server is about to do, known without torch, which only a load imports."""
    from app.engine import machine
    from app.routes import keys

    suffixes = (".safetensors", ".bmodel")
    weights = sum(one.stat().st_size for one in Path(spec.source).glob("*") if one.suffix in suffixes)
    where = _in_project(spec.source)
    if not Path(spec.source).is_dir():
        where += " (which is not there)" if Path(spec.source).is_absolute() else " (hub or its cache)"
    size = f", {weights / 1e6:.0f} MB" if weights else ""
    when = "is loaded now" if settings.preload else "is loaded by the first request"
    yield "model", f"{spec.id} from {where}{size}; {when}"
    compiled = spec.engine == "bmrt"
    best = "tpu:0" if compiled else machine.likely_device()
    bare = spec.device.isdigit() and (compiled or best == "cuda")
    named = f"{'tpu' if compiled else 'cuda'}:{spec.device}" if bare else spec.device
    device = best if named == "auto" or named.isdigit() else named
    fastest = "the form it was compiled in" if compiled else "the form that is fastest there"
    form = fastest if spec.dtype == "auto" else spec.dtype
    yield "device", f"{device}, in {form if spec.quantization == 'none' else spec.quantization}"
    free, total = machine.free_memory() / 1e9, machine.total_memory() / 1e9
    yield "memory", f"{free:.1f} of {total:.1f} GB are free, {machine.usable_cores()} cores"
    yield "load", f"{settings.streams(spec.engine)} streams at once, {settings.max_queue} more may wait"
    yield "keys", keys.told(settings)


def chat(arguments: list[str]) -> int:
    """Talk to a running server."""
    from app import terminal

    return terminal.main(arguments)


def bench(arguments: list[str]) -> int:
    """Measure a running server."""
    from app.bench.command import main as run

    return run(arguments)


def models(arguments: list[str]) -> int:
    """Print the catalogue."""
    from app.engine import catalog

    settings = Settings.from_args(arguments, command="models")
    found = catalog.read(Path(settings.catalog), settings.model)
    for spec in found:
        mark = "*" if spec.id == found.default else " "
        print(f"{mark} {spec.id:28} {'+'.join(spec.modalities):16} {_in_project(spec.source)}")
    print("* is the default; --model takes any of these, a hub id (owner/name) or a folder")
    return 0


def _in_project(path: str) -> str:
    return path.removeprefix(str(PROJECT) + os.sep)


def _free_port(settings: Settings) -> int:
    """The port to bind; raises SettingsError when it is taken, before gunicorn tries five times."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}, port {settings.port}"
            raise SettingsError(f"cannot listen on {where}: {error.strerror or error}") from None
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
