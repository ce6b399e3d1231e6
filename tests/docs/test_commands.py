"""Every command in the documents runs: clients and curl at a real server, serve until it would listen."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.__main__ import main
from tests.conftest import ROOT, Server

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
NOT_RUN = {
    "git", "pip", "npm", "sudo", "systemctl", "journalctl", "nginx", "docker", "podman", "apt-get", "certbot",
    "install", "openssl", "kill", "sqlite3", "pre-commit", "./run_tests.sh", "benchmarks/",
    "models/demo/", "./memory_edit.sh", "llm_convert.py",
}  # fmt: skip
"""What begins one of these changes the machine, needs a network, or takes too long."""
URL = "http://127.0.0.1:8000"


def commands(page: pathlib.Path) -> Iterator[str]:
    """The commands of a page's sh blocks, those of several lines as one."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        whole = ""
        for line in block.splitlines():
            whole += line
            if _is_open(whole):
                whole = whole.removesuffix("\\") if whole.endswith("\\") else whole + "\n"
                continue
            if words(whole):
                yield whole
            whole = ""
        assert not whole, f"{page.name}: {whole}"


def _is_open(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return text.endswith("\\")


def words(command: str) -> list[str]:
    """Its words without comments and variables before it."""
    found = shlex.split(re.sub(r"\$\([^)]*\)", "made", command), comments=True)
    return [word for index, word in enumerate(found) if index or not re.match(r"[A-Z_]+=", word)]


def kind(command: str) -> str:
    """What becomes of a command: serve, run, not run; else nothing."""
    first, *rest = words(command)
    if first.endswith("python"):
        if rest[:2] == ["-m", "app"]:
            return "serve" if rest[2] == "serve" else "run"
        if rest[:2] == ["-m", "pip"]:
            return "not run"
        first = rest[0]
    if first == "./start_api.sh":
        return "serve"
    if first == "curl" or first.startswith("examples/"):
        return "run"
    return "not run" if any(first == one or first.startswith(one) for one in NOT_RUN) else ""


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


def of(wanted: str) -> list[tuple[str, str]]:
    return [(page, command) for page, command in ALL if kind(command) == wanted]


def test_a_block_is_taken_apart(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n# no command\nA=$(b c) curl x -d '{\n  1}'   # said\npython -m app \\\n  models\n```\n"
    )
    assert [words(command) for command in commands(page)] == [
        ["curl", "x", "-d", "{\n  1}"],
        ["python", "-m", "app", "models"],
    ]
    assert [kind(command) for command in ("rm -rf x", "python x.py", "docker build .")] == ["", "", "not run"]


def test_there_are_commands_and_each_is_known() -> None:
    assert len(of("run")) > 10
    assert len(of("serve")) > 5
    assert [command for _, command in ALL if not kind(command)] == []


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that looks like the project's, into which commands may write."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv"):
            (tmp_path / entry.name).symlink_to(entry)
    for folder in (tmp_path / ".venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "python").chmod(0o755)
    return tmp_path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("page", "command"), of("run"))
def test_a_command_runs(server: Server, clone: pathlib.Path, page: str, command: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")}
    environ |= {"VLSERVE_URL": server.url, "PATH": f"{clone / 'bin'}:{environ['PATH']}"}
    code = command.replace(URL, server.url).replace("curl ", "curl -sS --fail-with-body --max-time 60 ", 1)
    done = subprocess.run(
        ["bash", "-euc", code],
        cwd=clone,
        env=environ,
        input="status\nquit\n",
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.parametrize(("page", "command"), of("serve"))
def test_a_server_would_start(
    clone: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
    command: str,
) -> None:
    from gunicorn.app import wsgiapp

    started: list[list[str]] = []
    before = dict(os.environ)
    monkeypatch.setattr(wsgiapp, "run", lambda: started.append(sys.argv))
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [name for name in os.environ if name.startswith("VLSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(clone))
    monkeypatch.chdir(clone)
    (clone / "checkpoints" / "my-qwen3").mkdir(parents=True)
    (clone / "vlserve-keys").write_text("sk-1\n")
    for name, value in re.findall(r"^([A-Z_]+)=(\S+)", command):
        monkeypatch.setenv(name, value.replace("~", str(clone)).replace("$(openssl", "made"))
    arguments = words(command)[1 if words(command)[0] == "./start_api.sh" else 4 :]
    home = [re.sub("^~", str(clone), re.sub("^KEY$", "sk-some-key", word)) for word in arguments]
    code = 0
    try:
        code = main(["serve", *home, "--port", "0", "--database", str(clone / "talk.db")])
    except SystemExit as ended:  # --help
        code = int(ended.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert code == 0, f"{page}: {capsys.readouterr().err}"
    assert started or "--help" in arguments


def test_the_tutorials_commands_stand_in_their_order() -> None:
    """A reader starts, says hello, shows a picture, talks, calls, measures."""
    found = [" ".join(words(command)) for page, command in ALL if page == "tutorial.md"]
    order = ["./start_api.sh", "curl", "--image", "app chat", "openai_client", "app bench"]
    places = [next(place for place, text in enumerate(found) if part in text) for part in order]
    assert places[0] == 0
    assert places[1:3] == [1, 2]
    assert places[-1] == len(found) - 1
