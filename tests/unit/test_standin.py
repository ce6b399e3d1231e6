"""The stand-in of the TPU's libraries: clean under the tools that look for errors in C, and strict."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

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
token = vision.image_token
for _ in range(2):
    device = Device(Libraries(libraries), 0)
    device.load(next(folder.glob("*.bmodel")))
    model = TpuModel(device, layout(device.nets), folder / "config", vision)
    caches = model.caches(2)
    random = np.random.default_rng(0)
    asked = prompt({
        "input_ids": np.array([[5, 6, *[token] * 4, 7, 8]]),
        "image_grid_thw": np.array([[1, 4, 4]]), "pixel_values": random.normal(size=(16, 1536)),
    }, vision, 3)
    for cache in caches:
        model.prefill(cache, asked)
    for step in range(3):
        model.decode(caches[1], int(model.logits().argmax()), asked.next_position + step)
    model.copy_cache(caches[0], caches[1], 5)
    device.close()
print("clean", int(model.layout.layers))
"""

MISUSE = """
#include "standin.h"
#include <stdio.h>
#include <stdlib.h>
bm_status_t bm_dev_request(bm_handle_t *, int);
void bm_dev_free(bm_handle_t);
int main(int count, char **words) {
    bm_handle_t handle;
    bm_device_mem_t memory, other;
    bm_dev_request(&handle, 0);
    bm_malloc_device_byte(handle, &memory, 64);
    int what = count > 1 ? atoi(words[1]) : 0;
    if (what == 1) bm_free_device(handle, memory);
    other = memory;
    if (what == 2) other.u.device.device_addr += 8;
    if (what == 3) other.u.device.device_addr = (unsigned long)&other;
    if (what == 2 || what == 3) bm_free_device(handle, other);
    bm_free_device(handle, memory);
    if (what == 4) bm_dev_free(malloc(64));
    bm_dev_free(handle);
    if (standin_control()->live_bytes || standin_control()->live_handles) return 3;
    puts("fine");
    return 0;
}
"""


def outside() -> dict[str, str]:
    """The environment without this process's control page, which counts what other programs leave behind."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLSTANDIN")}


def asan() -> str:
    command = ["gcc", "-print-file-name=libasan.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "options", [{}, {"layout": "history", "input_length": 32}], ids=["static", "dynamic"]
)
def test_a_whole_run_is_clean_under_the_address_sanitizer(
    compiled: Callable[..., pathlib.Path], tmp_path: pathlib.Path, options: dict[str, object]
) -> None:
    if not pathlib.Path(asan()).is_absolute():
        pytest.skip("gcc has no libasan here")
    checks = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    folder = standin.build(tmp_path / "lib", checks)
    environ = outside() | {"LD_PRELOAD": asan(), "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1"}
    command = [sys.executable, "-c", DRIVER, str(folder), str(compiled(**options))]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["clean 4"]), done.stderr[-3000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("misuse")
    (folder / "misuse.c").write_text(MISUSE)
    sources = [str(folder / "misuse.c"), str(standin.SOURCES / "bmlib.c")]
    command = ["gcc", "-g", "-pthread", "-I", str(standin.SOURCES), "-o", str(folder / "misuse"), *sources]
    subprocess.run(command, check=True, timeout=60)
    return folder / "misuse"


@pytest.mark.parametrize(
    ("what", "said"),
    [(0, ""), (1, "freed twice"), (2, "never allocated"), (3, "never allocated"), (4, "no handle")],
)
def test_what_a_program_must_not_do_ends_it(program: pathlib.Path, what: int, said: str) -> None:
    done = subprocess.run([program, str(what)], env=outside(), capture_output=True, text=True, timeout=20)
    assert said in done.stderr
    assert (done.returncode == 0) == (what == 0)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind")
def test_memory_and_handles_are_clean_under_valgrind(program: pathlib.Path) -> None:
    command = ["valgrind", "--error-exitcode=9", "--leak-check=full", "-q", str(program), "0"]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
