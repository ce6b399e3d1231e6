"""A stand-in for Sophgo's TPU: its libraries from C source, model files for them, and what they count."""

import atexit
import ctypes
import functools
import mmap
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

SOURCES = pathlib.Path(__file__).parent
HEADER = (SOURCES / "standin.h").read_text(encoding="utf-8")
FUNCTIONS = re.findall(r"X\((bm\w+)\)", HEADER)
"""All that it has, in the order of the control page; those that tell nothing cannot be made to fail."""
COUNTS = (
    "live_bytes", "live_blocks", "live_handles", "live_runtimes", "limit_bytes", "launches", "callers",
    "most_callers", "threads", "launch_micros", "devices", "host_refused",
)  # fmt: skip
FAULTS_AT = 16
FAST = (
    "-O3", "-march=native", "-fno-math-errno", "-fassociative-math", "-fno-signed-zeros",
    "-fno-trapping-math",
)  # fmt: skip
"""NaN stays NaN, which poison needs."""


def build(folder: pathlib.Path, flags: Sequence[str] = FAST) -> pathlib.Path:
    """libbmlib.so and libbmrt.so in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    common = [
        "gcc",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-format-nonliteral",
        "-shared",
        "-fPIC",
        *flags,
    ]
    for name, sources in (("libbmlib.so", ["bmlib.c"]), ("libbmrt.so", ["bmrt.c", "nets.c"])):
        paths = [str(SOURCES / source) for source in sources]
        command = [*common, "-pthread", "-o", str(folder / name), *paths, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@functools.cache
def libraries() -> pathlib.Path:
    """The folder of the stand-in's libraries, built once for each process of the tests."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vlserve-standin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build(folder)


class Control:
    """The stand-in's control page: counts by name, and faults. Its file is named by VLSTANDIN_CONTROL."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        size = 8 * (FAULTS_AT + 4 * len(FUNCTIONS))
        path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._values = (ctypes.c_int64 * (size // 8)).from_buffer(self._map)

    def __getitem__(self, name: str) -> int:
        return int(self._values[COUNTS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._values[COUNTS.index(name)] = value

    def fail(self, function: str, after: int = 1, *, code: int = 0, sticky: bool = False) -> None:
        """Make a call fail, the next one or a later one; with `sticky` also all that follow."""
        place = FAULTS_AT + 4 * FUNCTIONS.index(function)
        self._values[place + 1] = code
        self._values[place + 2] = int(sticky)
        self._values[place] = after

    def heal(self) -> None:
        """Let nothing fail any more."""
        for place in range(FAULTS_AT, len(self._values), 4):
            self._values[place] = 0

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return int(self._values[FAULTS_AT + 4 * FUNCTIONS.index(function) + 3])


@functools.cache
def control() -> Control:
    """The control page of this process, whose stand-in reads it; made before the libraries are first used."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vlserve-standin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Control(folder / "control")
    os.environ["VLSTANDIN_CONTROL"] = str(made.path)
    return made
