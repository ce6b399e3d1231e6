"""start_api.sh and the command line: what starts, and the one line when it cannot."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import psutil
import pytest

from tests import tiny_models
from tests.conftest import ROOT, running


def run(
    *command: str | pathlib.Path, env: dict[str, str] | None = None, cwd: pathlib.Path = ROOT
) -> tuple[int, str]:
    """Exit code and everything printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of what start_api.sh needs, without a .venv."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("start_api.sh", "run_tests.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def fake_python(folder: pathlib.Path, body: str) -> str:
    path = folder / "python-fake"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("script", ["start_api.sh", "run_tests.sh"])
def test_an_old_python_is_named_in_one_line(clone: pathlib.Path, script: str) -> None:
    python = fake_python(clone, 'if [ "$1" = --version ]; then echo Python 3.9.1; else exit 1; fi')
    code, printed = run(clone / script, env={"PYTHON": python}, cwd=clone.parent)
    assert code == 1
    assert (
        printed.strip()
        == "vlserve: Python 3.9.1 is too old; Python 3.11 or newer is needed (set PYTHON to choose one)"
    )


def test_a_missing_python_is_named_in_one_line(clone: pathlib.Path) -> None:
    code, printed = run(clone / "start_api.sh", env={"PYTHON": "python9.9"})
    assert (code, printed.count("\n")) == (1, 1)
    assert "python9.9" in printed


def test_a_full_disk_is_named_in_one_line(clone: pathlib.Path) -> None:
    code, printed = run(
        clone / "start_api.sh", env={"PYTHON": sys.executable, "VLSERVE_MIN_DISK_MB": "999999999"}
    )
    assert (code, printed.count("\n")) == (1, 1)
    assert "the disk is full" in printed


def test_a_disk_that_fills_while_packages_are_installed_is_named(clone: pathlib.Path) -> None:
    python = fake_python(
        clone,
        'case "$*" in -c*) exit 0;; "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";; '
        '*) echo "ERROR: Could not install packages: [Errno 28] No space left on device"; exit 1;; esac',
    )
    code, printed = run(clone / "start_api.sh", env={"PYTHON": python})
    assert code == 1
    assert "the disk became full" in printed.splitlines()[-1]


@pytest.mark.parametrize("script", ["start_api.sh", "run_tests.sh"])
def test_it_finds_itself_through_a_link_and_with_a_search_path_for_cd(
    clone: pathlib.Path, script: str
) -> None:
    outside = clone.parent / f"outside-{script}"
    outside.mkdir()
    (outside / script).symlink_to(clone / script)
    env = {"PYTHON": "python9.9", "CDPATH": str(clone.parent)}
    for command in (outside / script, pathlib.Path(clone.name) / script):
        code, printed = run(command, env=env, cwd=clone.parent)
        assert (code, printed.count("\n")) == (1, 1), printed
        assert "python9.9" in printed


def test_gunicorns_own_variable_does_not_change_the_address(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, env={"GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1 --workers 2"}) as server:
        assert server.get("/health").ok
        assert server.log.count("Booting worker") == 1


def test_it_may_open_as_many_files_as_the_machine_lets_it(tmp_path: pathlib.Path) -> None:
    command = ("prlimit", "--nofile=500:3000", sys.executable, "-m", "app", "serve")
    with running(tmp_path, command=command) as server:
        assert psutil.Process(server.worker()).rlimit(psutil.RLIMIT_NOFILE) == (3000, 3000)


@pytest.mark.parametrize(
    ("name", "value"),
    [("VLSERVE_PORT", "abc"), ("VLSERVE_CATALOG", "/nowhere.yaml"), ("VLSERVE_MODEL", "no")],
)
def test_gunicorn_by_itself_says_in_one_line_what_is_wrong(name: str, value: str) -> None:
    command = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:application")
    code, printed = run(*command, env={name: value})
    assert code == 1
    assert printed.startswith("vlserve: ")
    assert printed.count("\n") == 1
    assert value in printed


def test_a_flag_wins_over_a_variable_even_if_that_is_wrong() -> None:
    code, printed = run(sys.executable, "-m", "app", "models", "--port", "1", env={"VLSERVE_PORT": "abc"})
    assert code == 0, printed
    assert "demo" in printed


def test_a_taken_port_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, printed = run(sys.executable, "-m", "app", "serve", "--port", port)
    assert (code, printed.count("\n")) == (2, 1)
    assert port in printed


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--prot", "1"), "--port"),
        (("--port", "x"), "whole number"),
        (("--port", "70000"), "65535"),
        (("--dtype", "bfloat"), "bfloat16"),
        (("--device", "tpu9"), "device"),
        (("--model", "qwen2.5-7b-instrukt"), "qwen2.5-7b-instruct"),
        (("--model", "./nowhere"), "no such folder"),
        (("--catalog", "nowhere.yaml"), "nowhere.yaml"),
        (("--max-concurrent", "-1"), "least is 0"),
        (("stray",), "stray"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line_that_helps(flags: tuple[str, ...], hint: str) -> None:
    code, printed = run(sys.executable, "-m", "app", "serve", *flags)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert hint in printed


def test_a_wrong_variable_is_refused_by_name() -> None:
    code, printed = run(sys.executable, "-m", "app", "serve", env={"VLSERVE_MAX_QUEUE": "many"})
    assert code == 2
    assert "VLSERVE_MAX_QUEUE" in printed


def test_it_starts_from_a_folder_whose_modules_have_the_names_of_ours(tmp_path: pathlib.Path) -> None:
    for name in ("app", "tokenizers", "queue", "wsgi"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = ROOT / "start_api.sh"
    model = tiny_models.build("qwen2", tmp_path / "tiny")
    with running(tmp_path, "--model", "./tiny", command=(str(script),), cwd=tmp_path) as server:
        assert model.name == server.get("/health").json()["model"]
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert server.post("/v1/chat/completions", body).ok


def test_logs_for_machines_are_json_throughout(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "--log-format", "json") as server:
        lines = server.log.splitlines()
    assert any("Booting worker" in line for line in lines)
    assert all("message" in json.loads(line) for line in lines if not line.startswith("vlserve: "))


def test_help_lists_every_flag() -> None:
    code, printed = run(sys.executable, "-m", "app", "serve", "--help")
    assert code == 0
    assert "--max-concurrent" in printed
    assert "VLSERVE_" in printed
    assert run(sys.executable, "-m", "app")[1].startswith("usage")


def test_the_catalogue_is_listed() -> None:
    code, printed = run(sys.executable, "-m", "app", "models", "--model", "qwen3-4b")
    assert code == 0
    assert "* qwen3-4b " in printed
