"""The C interface: the layout of its structures, how libraries are found, what their failures become."""

import contextlib
import ctypes
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from app.engine import bmrt
from app.engine.bmrt import FUNCTIONS, SIZES, BmError, Libraries, RuntimeMissingError
from app.engine.tpu_device import Device
from tests import standin
from tests.conftest import ROOT

C_NAMES = {
    "DeviceMemory": "bm_device_mem_t",
    "Shape": "bm_shape_t",
    "Tensor": "bm_tensor_t",
    "StageInfo": "bm_stage_info_t",
    "NetInfo": "bm_net_info_t",
    "HeapStat": "bm_heap_stat_t",
    "DeviceStat": "bm_dev_stat_t",
}
C_FIELDS = {
    "DeviceMemory": {"address": "u.device.device_addr", "dmabuf_fd": "u.device.dmabuf_fd",
                     "reserved": "u.device.reserved"},
    "Tensor": {"memory": "device_mem", "store_mode": "st_mode"},
    "StageInfo": {"input_memories": "input_mems", "output_memories": "output_mems"},
    "NetInfo": {"input_zero_points": "input_zero_point", "output_zero_points": "output_zero_point",
                "input_devices": "input_loc_devices", "output_devices": "output_loc_devices"},
    "HeapStat": {"total": "mem_total", "available": "mem_avail", "used": "mem_used"},
    "DeviceStat": {"memory_total": "mem_total", "memory_used": "mem_used", "heaps": "heap_stat"},
}  # fmt: skip


@pytest.fixture
def libraries() -> Libraries:
    assert standin.control()
    return Libraries(str(standin.libraries()))


def test_every_field_lies_where_c_puts_it(tmp_path: pathlib.Path) -> None:
    lines, expected = [], []
    for kind in SIZES:
        c_name = C_NAMES[kind.__name__]
        lines.append(f'printf("%zu\\n", sizeof({c_name}));')
        expected.append(ctypes.sizeof(kind))
        for field in kind._fields_:
            c_field = C_FIELDS.get(kind.__name__, {}).get(field[0], field[0])
            lines.append(f'printf("%zu\\n", offsetof({c_name}, {c_field}));')
            expected.append(getattr(kind, field[0]).offset)
    source = tmp_path / "layout.c"
    body = "\n".join(lines)
    source.write_text(f'#include "standin.h"\n#include <stdio.h>\nint main(void) {{ {body} return 0; }}')
    command = ["gcc", "-I", str(standin.SOURCES), "-o", str(tmp_path / "layout"), str(source)]
    subprocess.run(command, check=True, timeout=60)
    done = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True, timeout=10)
    assert [int(line) for line in done.stdout.split()] == expected
    assert {kind: ctypes.sizeof(kind) for kind in SIZES} == SIZES


def test_libraries_that_are_missing_are_one_clear_line(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        RuntimeMissingError, match=r"libbmlib\.so is not in .*libsophon.*--tpu-libraries"
    ) as told:
        Libraries(str(tmp_path))
    assert "\n" not in str(told.value)


def test_a_library_that_is_there_and_cannot_be_loaded_is_told_with_the_reason(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libbmlib.so").write_bytes(b"of another machine")
    told = r"^libbmlib\.so cannot be loaded .*: .*libbmlib\.so: (file too short|invalid ELF header)$"
    with pytest.raises(RuntimeMissingError, match=told):
        Libraries(str(tmp_path))
    monkeypatch.setattr(bmrt, "FOLDERS", (str(tmp_path), str(tmp_path / "nowhere")))
    with pytest.raises(RuntimeMissingError, match=told):
        Libraries()


def test_the_systems_library_path_is_asked_where_no_folder_is_named() -> None:
    code = "from app.engine.bmrt import Libraries; Libraries(); print('found')"
    environ = os.environ | {"LD_LIBRARY_PATH": str(standin.libraries())}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout == "found\n", done.stderr


@pytest.mark.parametrize("gone", ["bm_dev_request", "bmrt_launch_tensor_multi_cores"])
def test_an_older_runtime_is_refused_by_name(tmp_path: pathlib.Path, gone: str) -> None:
    standin.build(tmp_path, ["-O0", f"-D{gone}={gone}_of_another_name"])
    # In a process of its own: here its symbols would be global, and found by the libbmrt of later tests.
    code = "import sys; from app.engine.bmrt import Libraries; Libraries(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "RuntimeMissingError" in done.stderr, done.stderr
    assert f"has no {gone}: it is older than libsophon 0.5.1" in done.stderr


def test_the_array_of_names_is_freed(libraries: Libraries, compiled: Callable[..., pathlib.Path]) -> None:
    free, freed = libraries._free, list[int | None]()

    def watched(names: Any) -> None:
        freed.append(ctypes.cast(names, ctypes.c_void_p).value)
        free(names)

    libraries._free = watched  # type: ignore[assignment]
    with contextlib.closing(Device(libraries, 0)) as device:
        device.load(next(compiled().glob("*.bmodel")))
    assert len(freed) == 1
    assert freed[0]


def test_a_code_is_named_with_its_function_and_its_meaning(libraries: Libraries) -> None:
    handle = ctypes.c_void_p()
    with pytest.raises(BmError, match=r"bm_dev_request failed with code 2: failure\.") as told:
        libraries.call("bm_dev_request", ctypes.byref(handle), 99)
    assert (told.value.function, told.value.code) == ("bm_dev_request", 2)


@pytest.mark.parametrize(
    ("code", "meaning"), [(3, "timeout"), (5, "no device memory is left"), (77, "a code")]
)
def test_each_code_has_a_meaning(libraries: Libraries, code: int, meaning: str) -> None:
    standin.control().fail("bm_dev_getcount", code=code)
    with pytest.raises(BmError, match=meaning) as told:
        libraries.call("bm_dev_getcount", ctypes.byref(ctypes.c_int()))
    assert not told.value.is_out_of_memory  # of which only an allocation tells


def test_every_function_says_what_it_takes(libraries: Libraries) -> None:
    for name, function in FUNCTIONS.items():
        found = libraries._functions[name]
        assert found.argtypes == function.arguments
        assert (found.restype is None) == (function.answer == "value" and function.result is None)


def test_a_shape_has_eight_dimensions_at_most() -> None:
    assert list(bmrt.shape((2, 3)).dims)[:2] == [2, 3]
    with pytest.raises(ValueError, match="9 dimensions"):
        bmrt.shape(range(9))
