"""npm packages, installed once outside of the repository: `openai`, and scripts that use it."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "tests" / "api" / "node"
DESCRIPTION = ("package.json", "package-lock.json", ".npmrc")


def run(script: str, folder: pathlib.Path, *arguments: str, seconds: float = 100) -> str:
    """What a module that imports "openai" prints, run from the repository's root; `folder` is for its files.

    Skips the test where node or npm are missing.
    """
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed on this machine")
    modules = folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(installed(PACKAGE) / "node_modules")
    file = folder / "script.mjs"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [node, str(file), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(package: pathlib.Path) -> pathlib.Path:
    """The folder with the packages of a package.json, named by what is pinned; made beside it first."""
    pinned = b"".join((package / name).read_bytes() for name in DESCRIPTION)
    folder = _cache() / f"node-{hashlib.sha256(pinned).hexdigest()[:16]}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="node-") as new:
        for name in DESCRIPTION:
            shutil.copy(package / name, new)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=new, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        made = pathlib.Path(new) / "made"
        made.mkdir()
        (pathlib.Path(new) / "node_modules").rename(made / "node_modules")
        try:
            made.rename(folder)
        except OSError:  # another run was faster
            assert folder.exists()
    return folder


def _cache() -> pathlib.Path:
    """The user's cache, or where there is none that can be written to, the folder for temporary files."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for parent in (pathlib.Path(home), pathlib.Path(tempfile.gettempdir())):
        try:
            folder = parent / "vlserve"
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise AssertionError("there is no folder for the npm packages")
