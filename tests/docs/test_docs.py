"""The documents: their examples run, their tables are those of the code, their links lead somewhere."""

import argparse
import ctypes
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from app import create_app, settings
from app.bench.command import _parser
from app.engine import bmrt
from app.settings import Settings
from tests import node_client
from tests.conftest import ROOT, Server

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CALLS = ROOT / "docs" / "call.md"


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_tables_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "doc_tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_route_is_documented() -> None:
    text = CALLS.read_text(encoding="utf-8")
    rules = [str(rule) for rule in create_app(Settings()).url_map.iter_rules()]
    assert rules
    for rule in rules:
        assert f"`{re.sub(r'<[^>]+>', '{id}', rule)}`" in text, rule


def test_every_metric_is_documented_and_no_other() -> None:
    families = create_app(Settings()).extensions["metrics"].registry.collect()
    names = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    text = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(vlserve_[a-z_]+)` \|", text, re.MULTILINE)) == names
    queries = set(re.findall(r"vlserve_[a-z_]+", text))
    assert {re.sub("_bucket$", "", name) for name in queries} == names


def test_every_field_of_a_chat_completion_is_documented() -> None:
    from app.schemas.chat import ChatSchema

    text = CALLS.read_text(encoding="utf-8")
    for name in ChatSchema().fields:
        assert f"`{name}" in text, name


def test_every_field_of_the_simple_api_is_documented() -> None:
    from app.schemas.simple import SimpleChatSchema

    table = CALLS.read_text(encoding="utf-8").partition("| field of `/chat`")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(SimpleChatSchema().fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(server: Server, page: pathlib.Path) -> None:
    for block in blocks(page, "python"):
        code = block.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "red circle" in done.stdout, done.stdout


@pytest.mark.timeout(400)
def test_node_examples_run(server: Server, tmp_path: pathlib.Path) -> None:
    examples = [block for page in PAGES for block in blocks(page, "js")]
    assert examples
    for example in examples:
        printed = node_client.run(example.replace("http://127.0.0.1:8000", server.url), tmp_path)
        assert "red circle" in printed


def test_curl_examples_run(server: Server) -> None:
    commands = [block for block in blocks(CALLS, "sh") if block.startswith("curl")]
    assert len(commands) >= 2
    for command in commands:
        code = command.replace("http://127.0.0.1:8000", server.url).replace(
            "curl", "curl -sS --max-time 60", 1
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert re.search('"(choices|response)"', done.stdout), done.stdout
        assert '"error"' not in done.stdout


def test_flags_that_the_migration_notes_promise_are_taken() -> None:
    """Ours in the right column, theirs on the left where the right says that they are taken."""
    text = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
    known = {name.replace("_", "-") for command in (settings.parser(), _parser()) for name in _flags(command)}
    promised = []
    for there, here in re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE):
        promised += re.findall(r"`(--?[a-z_-]+)", here)
        if re.search(r"\btaken\b|^the same|with the same:", here):
            promised += [
                flag for code in re.findall("`(.+?)`", there) for flag in code.split() if flag[0] == "-"
            ]
    assert len(promised) > 40
    assert {flag for flag in promised if flag.replace("_", "-") not in known} == set()


def _flags(parser: argparse.ArgumentParser) -> Iterable[str]:
    return parser._option_string_actions


TPU_ROW = re.compile(r"^\| `(bm\w+)` \| `([^|]*?)\((.*)\)` \| `(\w+\.py)` \| yes", re.MULTILINE)


def test_the_table_of_the_tpus_functions_is_that_of_the_code_and_of_the_stand_in() -> None:
    rows = TPU_ROW.findall((ROOT / "docs" / "tpu.md").read_text(encoding="utf-8"))
    assert [name for name, *_ in rows] == list(bmrt.FUNCTIONS)
    for name, answer, arguments, file in rows:
        function = bmrt.FUNCTIONS[name]
        assert f'"{name}"' in (ROOT / "app" / "engine" / file).read_text(encoding="utf-8"), name
        assert (function.answer, function.result) == ANSWERS[answer.strip()], name
        assert function.arguments == tuple(_ctype(one) for one in arguments.split(", ")), name
    prototypes = "".join(f"{answer} {name}({arguments});\n" for name, answer, arguments, _ in rows)
    source = '#include "standin.h"\n' + prototypes + '#include "bmlib.c"\n#include "bmrt.c"\n'
    command = ["gcc", "-fsyntax-only", "-x", "c", "-I", str(ROOT / "tests" / "standin"), "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


ANSWERS: dict[str, tuple[str, Any]] = {
    "bm_status_t": ("status", None),
    "bool": ("bool", None),
    "void": ("value", None),
    "int": ("value", ctypes.c_int),
    "void *": ("pointer", None),
    "const bm_net_info_t *": ("pointer", ctypes.POINTER(bmrt.NetInfo)),
}
ARGUMENTS: dict[str, Any] = {
    "bm_handle_t": ctypes.c_void_p,
    "void": ctypes.c_void_p,
    "char": ctypes.c_char_p,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint32,
    "uint32_t": ctypes.c_uint32,
    "size_t": ctypes.c_size_t,
    "bool": ctypes.c_bool,
    "bm_device_mem_t": bmrt.DeviceMemory,
    "bm_dev_stat_t": bmrt.DeviceStat,
    "bm_tensor_t": bmrt.Tensor,
}


def _ctype(argument: str) -> Any:
    """What ctypes has for an argument as C writes it."""
    found = re.fullmatch(r"(?:const )?(unsigned int|\w+) ?(\**)\w*(\[\])?", argument)
    assert found, argument
    kind, stars = ARGUMENTS[found[1]], len(found[2]) + bool(found[3])
    for _ in range(stars - (found[1] in ("void", "char"))):  # c_void_p and c_char_p point already
        kind = ctypes.POINTER(kind)
    return kind
