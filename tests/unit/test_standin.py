"""The stand-in of the TPU's libraries: clean under the tools that look for errors in C, and strict."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests import standin
from tests.conftest import ROOT

DRIVER = """
import sys, json, pathlib
import numpy as np
from app.engine.bmrt import Libraries
from app.engine.tpu_device import Device
from app.engine.tpu_layout import layout
from app.engine.tpu_model import TpuModel
from app.engine.tpu_prompt import Vision, prompt
libraries, folder = sys.argv[1], pathlib.Path(sys.argv[2])
vision = Vision.of(json.loads((folder / "config" / "config.json").read_text()))
for _ in range(2):
    device = Device(Libraries(libraries), 0)
    device.load(next(folder.glob("*.bmodel")))
    model = TpuModel(device, layout(device.nets), folder / "config", vision)
    caches = model.caches(2)
    random, width = np.random.default_rng(0), device.nets["vit"].inputs[0].dims[1]
    asked = prompt({
        "input_ids": np.array([[5, 6, *[vision.image_token] * 15, 7, 8]]),
        "image_grid_thw": np.array([[1, 6, 10]]), "pixel_values": random.normal(size=(60, width)),
    }, vision, 3)
    for cache in caches:
        model.prefill(cache, asked)
    for step in range(3):
        model.decode(caches[1], int(model.logits().argmax()), asked.next_position + step)
    model.copy_cache(caches[0], caches[1], 5)
    device.close()
print("clean")
"""


def outside() -> dict[str, str]:
    """The environment without this process's control page, which counts what other programs leave behind."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLSTANDIN")}


def asan() -> str:
    command = ["gcc", "-print-file-name=libasan.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


RUNS: dict[str, dict[str, Any]] = {
    "static": {"input_length": 48, "length": 96, "patches": 64},
    "dynamic": {"layout": "history", "input_length": 32},
    "windows, 16 bits": {"family": "qwen2_5_vl", "dtype": "bfloat16", "input_length": 64, "length": 96,
                         "patches": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if not pathlib.Path(asan()).is_absolute():
        pytest.skip("gcc has no libasan here")
    checks = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return standin.build(tmp_path_factory.mktemp("sanitized"), checks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_whole_run_is_clean_under_the_address_sanitizer(
    compiled: Callable[..., pathlib.Path], sanitized: pathlib.Path, options: dict[str, str]
) -> None:
    environ = outside() | {"LD_PRELOAD": asan(), "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1"}
    command = [sys.executable, "-c", DRIVER, str(sanitized), str(compiled(**options))]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["clean"]), done.stderr[-3000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("program")
    target = folder / "program"
    sources = [str(standin.SOURCES / f"{name}.c") for name in ("program", "bmlib", "bmrt", "nets")]
    command = ["gcc", "-g", "-O1", "-pthread", "-o", str(target), *sources, "-lm"]
    subprocess.run(command, check=True, timeout=60)
    return target


@pytest.mark.parametrize(
    ("what", "said"),
    [(0, ""), (1, "freed twice"), (2, "never allocated"), (3, "never allocated"), (4, "no handle")],
)
def test_what_a_program_must_not_do_ends_it(program: pathlib.Path, what: int, said: str) -> None:
    done = subprocess.run([program, str(what)], env=outside(), capture_output=True, text=True, timeout=20)
    assert said in done.stderr
    assert (done.returncode == 0) == (what == 0)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind")
@pytest.mark.parametrize(("family", "nets"), [("", 0), ("qwen2_5_vl", 8), ("qwen3", 7)])
def test_memory_handles_and_every_network_are_clean_and_leak_nothing_under_valgrind(
    program: pathlib.Path, compiled: Callable[..., pathlib.Path], family: str, nets: int
) -> None:
    command = ["valgrind", "--error-exitcode=9", "--leak-check=full", "-q", str(program), "0"]
    if family:
        folder = compiled(family, input_length=16, length=24, patches=16, layout="dynamic")
        command.append(str(next(folder.glob("*.bmodel"))))
    done = subprocess.run(command, env=outside(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"ran {nets}\n" if family else "fine\n"), done.stderr
