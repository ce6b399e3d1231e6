"""A chromium for the tests: the system's, else npm's, unpacked once into the user's cache."""

import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field

import pytest

from tests import node_client
from tests.conftest import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE = ROOT / "tests" / "browser" / "npm"
UNPACK = """
const fs = require("fs"), zlib = require("zlib"), { execFileSync } = require("child_process");
const [from, to] = process.argv.slice(1);
const unpacked = (name) => zlib.brotliDecompressSync(fs.readFileSync(`${from}/${name}.br`));
fs.writeFileSync(`${to}/chromium`, unpacked("chromium"), { mode: 0o755 });
for (const name of ["al2023.tar", "swiftshader.tar"]) {
  execFileSync("tar", ["x", "-C", to], { input: unpacked(name) });
}
"""


@dataclass(frozen=True)
class Chromium:
    """Where it is, and what it wants in its environment."""

    path: str
    environment: dict[str, str] = field(default_factory=dict)


def find() -> Chromium:
    """A chromium; skips the tests where there is none and none can be had."""
    if path := next(filter(None, map(shutil.which, NAMES)), None):
        return Chromium(path)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("there is no chromium on this machine, and npm's is for Linux on x86-64")
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip(
            "there is no chromium on this machine (Debian: apt-get install chromium), nor node and npm"
        )
    folder = _unpacked(node, node_client.installed(PACKAGE))
    libraries = [str(folder / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return Chromium(str(folder / "chromium"), {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))})


def _unpacked(node: str, installed: pathlib.Path) -> pathlib.Path:
    folder = installed / "unpacked"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=installed, prefix="unpacking-") as new:
        source = installed / "node_modules" / "@sparticuz" / "chromium" / "bin"
        command = [node, "-e", UNPACK, str(source), new]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        made = pathlib.Path(new) / "made"
        made.mkdir()
        for part in set(pathlib.Path(new).iterdir()) - {made}:
            part.rename(made / part.name)
        try:
            made.rename(folder)
        except OSError:  # another run was faster
            assert folder.exists()
    return folder
