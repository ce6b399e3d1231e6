"""The files of examples/ run as they are, at a server with a key; without one test_commands.py runs them."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import clips
from tests.conftest import ROOT, Server, running

EXAMPLES = ROOT / "examples"
LOOK = "/image no/such.png\n/image docs/scene.png\nWhat is in this picture?\n"
TALK = f"{LOOK}/think on\nWho are you?\nstatus\nreset\nquit\n"
SAYS = {
    "openai_client.py": r"red circle[^\n]*\n\(\d+ \+ \d+ tokens\)",
    "requests_client.py": r"red circle[^\n]*\n[^\n]*(2|two|Two)",
    "curl.sh": r'demo model[^\n]*\n(.*\n)+data: \[DONE\](.*\n)+.*"response": ?"[^"]*red circle',
    "langchain_client.py": r"red circle[^\n]*\nThing\(colour='\w+', shape='\w+'\)",
    "api_client_example.py": r"no/such(.*\n)+.*red circle(.*\n)+I am.*demo(.*\n)+.*'model_name': 'demo'",
}
KEY = "sk-example-key"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key."""
    with running(tmp_path_factory.mktemp("locked"), "--api-key", KEY) as started:
        yield started


def run(name: str, server: Server, typed: str = TALK) -> subprocess.CompletedProcess[str]:
    path = EXAMPLES / name
    command = [str(path)] if path.suffix == ".sh" else [sys.executable, str(path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")}
    environ |= {"VLSERVE_URL": server.url, "VLSERVE_API_KEY": KEY}
    return subprocess.run(
        command, input=typed, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100
    )


def test_every_example_is_listed_and_tried() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert files == set(SAYS)
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {name for name in files if f"examples/{name}" in text and f"[{name}]({name})" in text} == files


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_sends_its_key(locked: Server, name: str) -> None:
    assert locked.get("/v1/models").status_code == 401
    done = run(name, locked)
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout), done.stdout


def test_the_terminal_example_shows_a_video(locked: Server, tmp_path: pathlib.Path) -> None:
    (tmp_path / "clip.avi").write_bytes(clips.video(clips.moving("up"), "avi"))
    typed = f"/video {tmp_path}/clip.avi\nWhat happens in this video?\nquit\n"
    done = run("api_client_example.py", locked, typed)
    assert done.returncode == 0, done.stderr
    assert re.search("red circle moves up", done.stdout), done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_an_example_is_short(name: str) -> None:
    assert len((pathlib.Path(EXAMPLES) / name).read_text(encoding="utf-8").splitlines()) <= 90
