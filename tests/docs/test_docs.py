"""The documents: their examples run, their tables are those of the code, their links lead somewhere."""

import pathlib
import re
import subprocess
import sys

import pytest

from app import create_app
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


def test_the_table_of_the_tpus_functions_is_whole() -> None:
    from app.engine.bmrt import FUNCTIONS

    text = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(bm\w+)` \| `[^|]+` \| `(\w+\.py)` \|", text, re.MULTILINE))
    assert list(rows) == list(FUNCTIONS)
    for function, file in rows.items():
        assert f'"{function}"' in (ROOT / "app" / "engine" / file).read_text(encoding="utf-8"), function
