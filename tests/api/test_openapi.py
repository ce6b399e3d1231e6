"""The server against its own document: schemathesis asks whatever the document allows, and what it forbids.

`--examples 700` asks for so many random cases of each operation: thousands instead of hundreds.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.conftest import ROOT, Server, running


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model says three words where nobody asks for more: there are many requests."""
    folder = tmp_path_factory.mktemp("brief")
    entry = {
        "id": "demo",
        "source": str(ROOT / "models" / "demo" / "weights"),
        "modalities": ["text", "image", "video"],
        "dtype": "float32",
        "defaults": {"temperature": 0.0, "max_tokens": 3},
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"models": [entry]}), encoding="utf-8")
    with running(
        folder, "--preload", "--catalog", str(folder / "catalog.yaml"), env={"OMP_NUM_THREADS": "1"}
    ) as started:
        yield started


@pytest.mark.timeout(3600)  # --examples may be many
def test_no_answer_contradicts_the_document(
    brief: Server, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    examples: int = request.config.getoption("--examples")
    report = tmp_path / "report.json"
    command = [
        "run",
        f"{brief.url}/openapi.json",
        "--max-examples",
        str(examples),
        "--request-timeout",
        "120",
    ]
    command += ["--continue-on-failure", "--report", "json", "--report-json-path", str(report)]
    # The same cases at each run of the suite; a long one goes where none has been.
    command += ["--seed", "1"] if examples == 10 else []
    done = subprocess.run(
        [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", *command],
        cwd=tmp_path,  # where it leaves files
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.api.openapi_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    print(done.stdout)  # the summary, for those who ask for it by -s
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["operations"]["tested"] == found["operations"]["total"]
    assert found["test_cases"]["generated"] > 300
    assert found["test_cases"]["errored"] == 0
    assert "Traceback" not in brief.log
