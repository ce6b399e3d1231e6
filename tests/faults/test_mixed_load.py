"""The soak of benchmarks/, short: mixed load with faults leaves nothing behind and gets no wrong answer."""

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_a_short_soak_loses_nothing() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--seconds", "20", "--clients", "6"]
    # Allocators are not level as soon as everything else is.
    done = subprocess.run([*command, "--memory", "160"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: nothing" in done.stdout
    assert re.search(r"^5xx +0 +0 +0$", done.stdout, re.MULTILINE), done.stdout
    assert "exit code of the server: 0" in done.stdout
