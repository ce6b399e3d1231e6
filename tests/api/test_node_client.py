"""The official Node client: every case of tests/api/node/conformance.mjs, in one run of it."""

import json
import re
from typing import Any

import pytest

from tests import node_client
from tests.conftest import ROOT, Server

SCRIPT = (node_client.PACKAGE / "conformance.mjs").read_text(encoding="utf-8")
CASES = re.findall(r'^  "([^"]+)": async', SCRIPT, re.MULTILINE)

pytestmark = pytest.mark.timeout(400)  # the first test installs the package and waits for all cases


@pytest.fixture(scope="module")
def lines(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script says of each case."""
    folder = tmp_path_factory.mktemp("node")
    picture = str(ROOT / "docs" / "scene.png")
    printed = node_client.run(SCRIPT, folder, server.url, picture, seconds=180)
    return {line["case"]: line for line in map(json.loads, printed.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_the_node_client_is_served(lines: dict[str, Any], case: str) -> None:
    assert lines[case]["ok"], lines[case]["error"]


def test_every_case_is_looked_at(lines: dict[str, Any]) -> None:
    assert list(lines) == CASES
    assert len(CASES) > 15
