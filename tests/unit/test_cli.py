"""The command line: python -m app."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.__main__ import main
from app.flags import ELSEWHERE
from app.settings import PROJECT, Settings, parser
from tests.conftest import ROOT

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and those that serve() sets are taken back."""
    for name in [*Settings().to_env(), "NANOVLLM_MODEL_PATH"]:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines with which gunicorn was started; it returns at once."""
    from gunicorn.app import wsgiapp

    calls: list[list[str]] = []
    monkeypatch.setattr(wsgiapp, "run", lambda: calls.append(sys.argv[:]))
    return calls


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_the_commands(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "serve" in text
    assert "models" in text


@pytest.mark.parametrize("command", ["server", "", "--port"])
def test_an_unknown_command_is_named(capsys: Captured, command: str) -> None:
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert f"there is no command {command}" in error
    assert "serve, chat, bench, models" in error


def test_the_flags_of_serve_are_listed() -> None:
    result = run("serve", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--max-concurrent" in result.stdout


def test_help_for_an_unknown_command_is_an_error() -> None:
    result = run("serf", "--help")
    assert result.returncode == 2
    assert "there is no command serf" in result.stderr


def test_the_models_are_listed_with_the_default_marked(capsys: Captured) -> None:
    assert main(["models", "--model", "qwen3-4b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "* qwen3-4b" in " ".join(" ".join(lines).split())
    assert sum(line.startswith("* ") and "Qwen/Qwen3-4B" in line for line in lines) == 1
    assert any("demo" in line and "text+image" in line and "models/demo" in line for line in lines)
    assert str(PROJECT) not in "\n".join(lines)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serve", "--prot", "1"], "did you mean --port?"),
        (["serve", "--device", "cdua"], "did you mean cuda?"),
        (["serve", "--max_num_seqs=4"], "there is no flag --max_num_seqs; here that is --max-concurrent"),
        (["bench", "--max-num-seqs"], "there is no flag --max-num-seqs"),
        (["serve", "--dtype", "int8"], "did you mean --quantization int8?"),
        (["serve", "--tpu-libraries", "/no/such"], "--tpu-libraries /no/such: is no folder"),
        (["serve", "demo"], "did you mean --model demo?"),
        (
            ["bench", "--case", "pictrue"],
            "--case pictrue: choose one of text, picture, mixed; did you mean picture?",
        ),
        (["chat", "--think", "onn"], "--think onn: choose one of on, off; did you mean on?"),
        (["serve", "--port", "70000"], "the most is 65535"),
        (["serve", "--model", "nosuch"], "--model nosuch"),
        (["serve", "--catalog", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["models", "--catalog", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["serve", "--api-keys-file", "/no/such/keys"], "--api-keys-file /no/such/keys: No such file"),
        (["serve", "--database", "/no/such/folder/a.db"], "there is no folder /no/such/folder"),
        (["serve", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["serve", "--host", "a" * 64 + ".example"], "cannot listen on"),
        (["serve", "--host", "203.0.113.9"], "cannot listen on 203.0.113.9"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    capsys: Captured, started: list[list[str]], arguments: list[str], part: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert part in captured.err
    assert captured.err.startswith("vlserve: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert started == []


def test_a_misspelt_variable_is_named(
    capsys: Captured, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLSERVE_APIKEY", "VLSERVE_URL", "VLSERVE_SERVICE_PORT"):  # the latter two are others'
        monkeypatch.setenv(name, "x")
    assert main(["serve", "--port", "0"]) == 0
    assert capsys.readouterr().err == (
        "vlserve: VLSERVE_APIKEY is no setting; did you mean VLSERVE_API_KEY?\n"
    )
    assert len(started) == 1


def test_a_port_that_is_taken_is_named(capsys: Captured, started: list[list[str]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err
    assert started == []


def test_serve_starts_gunicorn_with_the_settings_in_the_environment(
    capsys: Captured, started: list[list[str]]
) -> None:
    assert main(["serve", "--port", "0", "--max_queue", "7", "--model", "qwen3-4b"]) == 0
    assert started == [["gunicorn", "--config", str(PROJECT / "gunicorn.conf.py"), "wsgi:application"]]
    settings = Settings.from_env()
    assert (settings.max_queue, settings.model) == (7, "qwen3-4b")
    assert settings.port > 0
    out = capsys.readouterr().out
    assert f"vlserve: qwen3-4b on http://127.0.0.1:{settings.port} " in out


@pytest.mark.parametrize(
    ("host", "url"),
    [("localhost", "http://localhost:"), ("::1", "http://[::1]:"), ("0.0.0.0", "http://0.0.0.0:")],
)
def test_the_address_is_told(capsys: Captured, started: list[list[str]], host: str, url: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    assert main(["serve", "--port", "0", "--host", host]) == 0
    assert url in capsys.readouterr().out
    assert len(started) == 1


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (
            [],
            [
                r"model   demo from models/demo/weights, \d\d MB; is loaded by the first request",
                r"device  (cpu|cuda|mps).*, in float32",
                r"memory  [\d.]+ of [\d.]+ GB are free, \d+ cores",
                r"load    32 streams at once, 128 more may wait",
                r"keys    none asked for: only this machine can call",
            ],
        ),
        (
            ["-mqwen3-4b", "-dcpu", "--quantization=int8", "--preload", "-c2", "--api-key=sk-secret"],
            [
                r"model   qwen3-4b from Qwen/Qwen3-4B \(hub or its cache\); is loaded now",
                r"device  cpu, in int8",
                r"load    2 streams at once",
                r"keys    1 known, sent as Authorization: Bearer KEY",
            ],
        ),
        (
            ["--model", "qwen3-vl-instruct", "--devid", "3"],
            [
                r"model   .* from models/qwen3vl_2b( \(which is not there\)|, \d+ MB); is",
                r"device  tpu:3, in the form it was",
            ],
        ),
        (["--devid", "0"], [r"device  (cpu|mps|cuda:0)"]),
        (["--host", "0.0.0.0"], [r"keys    none set: one is made, and printed below"]),
        (["--host", "0.0.0.0", "--disable-api-auth"], [r"keys    none asked for \(--disable-api-auth\)"]),
    ],
)
def test_a_start_tells_what_will_be_served_and_to_whom(
    capsys: Captured, started: list[list[str]], flags: list[str], lines: list[str]
) -> None:
    assert main(["serve", "--port", "0", *flags]) == 0
    out = capsys.readouterr().out
    assert [line for line in lines if not re.search(f"^vlserve:   {line}", out, re.MULTILINE)] == []
    assert all(line.startswith("vlserve: ") for line in out.splitlines())
    assert "sk-secret" not in out


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("caht", "did you mean chat?"),
        ("Serv", "did you mean serve?"),
        ("-p", "did you mean serve -p?"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(capsys: Captured, command: str, hint: str) -> None:
    assert main([command]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "chat", "bench", "models"])
def test_every_command_has_a_help_in_groups(capsys: Captured, command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m app {command} [flags]")
    assert len(re.findall(r"^[a-z].*:$", out, re.MULTILINE)) >= 2
    assert "VLSERVE_" in out


def test_the_help_of_models_has_its_own_flags_only(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["models", "--help"])
    out = capsys.readouterr().out
    assert "--catalog" in out
    assert "--port" not in out


def test_files_that_are_named_are_found_from_any_folder(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("sk-one\n")
    monkeypatch.chdir(tmp_path)
    files = ("--api-keys-file", "keys", "--database", "talk.db")
    folders = ("--tpu-libraries", ".", "--allowed-media-path", ".")
    assert main(["serve", "--port", "0", *files, *folders]) == 0
    assert len(started) == 1
    assert Path.cwd() == PROJECT
    settings = Settings.from_env()
    assert (settings.api_keys_file, settings.database) == (str(tmp_path / "keys"), str(tmp_path / "talk.db"))
    assert (settings.tpu_libraries, settings.allowed_media_path) == (str(tmp_path), (str(tmp_path),))


def test_flags_of_other_servers_are_those_of_the_guide() -> None:
    guide = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
    known = {name.replace("_", "-") for name in parser()._option_string_actions}
    told = {}
    for there, here in re.findall(r"^\| (`--[^|]+) \| ([^|]+) \|", guide, re.MULTILINE):
        for flag in re.findall(r"`(--[\w-]+)", there):
            if flag.replace("_", "-") not in known:
                told[flag.replace("_", "-")] = re.findall(r"`([\w-]+)", here)
    assert set(told) <= set(ELSEWHERE)
    for flag, names in told.items():
        assert any(name in ELSEWHERE[flag] for name in names), flag


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m app models | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode in (0, 141), done.stderr) == (True, b"")


def test_gunicorns_settings_follow_the_applications() -> None:
    code = "import runpy, json; found = runpy.run_path('gunicorn.conf.py');" + (
        "print(json.dumps([found[name] for name in ('bind', 'threads', 'workers', 'graceful_timeout')]))"
    )
    environ = Settings(host="::1", port=9, max_concurrent=3, max_queue=4, drain_timeout=8).to_env()
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout.strip() == '["[::1]:9", 23, 1, 16]'  # ours and 8 seconds
    assert Path(ROOT / "gunicorn.conf.py").exists()
