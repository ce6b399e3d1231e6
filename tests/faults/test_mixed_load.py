"""The soak of benchmarks/, short: mixed load with faults leaves nothing behind and gets no 5xx."""

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_a_short_soak_loses_nothing() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--seconds", "30", "--clients", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert re.search(r"^5xx +0 +0$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert re.search(r"^places taken +0 +0$", done.stdout, re.MULTILINE), done.stdout
    assert "wrong:" not in done.stdout, done.stdout
    # Threads and memory are level only after a longer warm-up than this one.
    assert "exit code of the server: 0" in done.stdout
