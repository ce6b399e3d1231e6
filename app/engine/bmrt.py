"""The C interface of Sophgo's TPU runtime: the functions of libbmlib and libbmrt that are used, and no more.

Structures, names and codes are those of bmlib_runtime.h, bmdef.h and bmruntime_interface.h of libsophon 0.5.1
and later. Every call goes through `Runtime.call`, which turns a failure into a BmError; what the C side would
answer by ending the process (an assertion) has to be checked before, in tpu_device.py.
"""

import ctypes
from collections.abc import Sequence
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDERS = ("/opt/sophon/libsophon-current/lib", "/opt/sophon/lib")
"""Where the vendor's packages put the libraries."""
STATUS = (
    "success",
    "the device is not ready",
    "failure",
    "timeout",
    "a wrong parameter",
    "no device memory is left",
    "the data are corrupt",
    "the device is busy",
    "the device lacks this feature",
    "not supported",
)
"""What the codes of bm_status_t mean."""
SUCCESS, NO_MEMORY = 0, 5
STORE_1N = 0
SHARE_MEMORY = 1  # BM_RUNTIME_SHARE_MEM
MAX_DIMS = 8
FLOAT32, FLOAT16, INT32, BFLOAT16 = 0, 1, 6, 8
DATA_TYPES = {
    FLOAT32: "float32",
    FLOAT16: "float16",
    2: "int8",
    3: "uint8",
    4: "int16",
    5: "uint16",
    INT32: "int32",
    7: "uint32",
    BFLOAT16: "bfloat16",
}
"""bm_data_type_t."""


class DeviceMemory(Structure):
    """bm_device_mem_t: a piece of device memory. Flat, without the header's unions and bit fields: the same
    bytes, and passed by value the same way.
    """

    _fields_ = (
        ("address", c_uint64),
        ("reserved", c_uint32),
        ("dmabuf_fd", c_int32),
        ("flags", c_uint32),
        ("size", c_uint32),
    )


class Shape(Structure):
    """bm_shape_t."""

    _fields_ = (("num_dims", c_int), ("dims", c_int * MAX_DIMS))


class Tensor(Structure):
    """bm_tensor_t."""

    _fields_ = (("dtype", c_int), ("shape", Shape), ("memory", DeviceMemory), ("store_mode", c_int))


class StageInfo(Structure):
    """bm_stage_info_t; that of libsophon 0.4 ends after the shapes."""

    _fields_ = (
        ("input_shapes", POINTER(Shape)),
        ("output_shapes", POINTER(Shape)),
        ("input_memories", POINTER(DeviceMemory)),
        ("output_memories", POINTER(DeviceMemory)),
    )


class NetInfo(Structure):
    """bm_net_info_t; that of libsophon 0.4 ends after the zero points."""

    _fields_ = (
        ("name", c_char_p),
        ("is_dynamic", c_bool),
        ("input_num", c_int),
        ("input_names", POINTER(c_char_p)),
        ("input_dtypes", POINTER(c_int)),
        ("input_scales", POINTER(c_float)),
        ("output_num", c_int),
        ("output_names", POINTER(c_char_p)),
        ("output_dtypes", POINTER(c_int)),
        ("output_scales", POINTER(c_float)),
        ("stage_num", c_int),
        ("stages", POINTER(StageInfo)),
        ("max_input_bytes", POINTER(c_size_t)),
        ("max_output_bytes", POINTER(c_size_t)),
        ("input_zero_points", POINTER(c_int)),
        ("output_zero_points", POINTER(c_int)),
        ("input_devices", POINTER(c_int)),
        ("output_devices", POINTER(c_int)),
        ("core_num", c_int),
        ("addr_mode", c_int32),
    )


class HeapStat(Structure):
    """A heap in bm_dev_stat_t, in MB."""

    _fields_ = (("total", c_uint32), ("available", c_uint32), ("used", c_uint32))


class DeviceStat(Structure):
    """bm_dev_stat_t; memory in MB."""

    _fields_ = (
        ("memory_total", c_int),
        ("memory_used", c_int),
        ("tpu_util", c_int),
        ("heap_num", c_int),
        ("heaps", HeapStat * 4),
    )


SIZES: dict[type[Structure], int] = {
    DeviceMemory: 24,
    Shape: 36,
    Tensor: 72,
    StageInfo: 32,
    NetInfo: 144,
    HeapStat: 12,
    DeviceStat: 64,
}
"""Bytes of each structure in the headers, where pointers have 8."""

Answer = Literal["status", "bool", "pointer", "value"]
"""What tells that a call failed: a code, false, NULL, or nothing."""


@dataclass(frozen=True)
class Function:
    """One function: its library, how it answers and what it takes; `result` is the type of a value."""

    library: Literal["bmlib", "bmrt"]
    answer: Answer
    arguments: tuple[Any, ...]
    result: Any = None


FUNCTIONS: dict[str, Function] = {
    "bm_dev_getcount": Function("bmlib", "status", (POINTER(c_int),)),
    "bm_dev_request": Function("bmlib", "status", (POINTER(c_void_p), c_int)),
    "bm_dev_free": Function("bmlib", "value", (c_void_p,)),
    "bm_get_chipid": Function("bmlib", "status", (c_void_p, POINTER(c_uint32))),
    "bm_get_stat": Function("bmlib", "status", (c_void_p, POINTER(DeviceStat))),
    "bm_malloc_device_byte": Function("bmlib", "status", (c_void_p, POINTER(DeviceMemory), c_uint32)),
    "bm_free_device": Function("bmlib", "value", (c_void_p, DeviceMemory)),
    "bm_memcpy_s2d_partial_offset": Function(
        "bmlib", "status", (c_void_p, DeviceMemory, c_void_p, c_uint32, c_uint32)
    ),
    "bm_memcpy_d2s_partial_offset": Function(
        "bmlib", "status", (c_void_p, c_void_p, DeviceMemory, c_uint32, c_uint32)
    ),
    "bm_memcpy_d2d_byte": Function(
        "bmlib", "status", (c_void_p, DeviceMemory, c_size_t, DeviceMemory, c_size_t, c_size_t)
    ),
    "bm_memset_device_ext": Function("bmlib", "status", (c_void_p, c_void_p, c_int, DeviceMemory)),
    "bm_thread_sync": Function("bmlib", "status", (c_void_p,)),
    "bmrt_create": Function("bmrt", "pointer", (c_void_p,)),
    "bmrt_destroy": Function("bmrt", "value", (c_void_p,)),
    "bmrt_set_flags": Function("bmrt", "value", (c_void_p, c_uint32)),
    "bmrt_load_bmodel": Function("bmrt", "bool", (c_void_p, c_char_p)),
    "bmrt_get_network_number": Function("bmrt", "value", (c_void_p,), c_int),
    "bmrt_get_network_names": Function("bmrt", "value", (c_void_p, POINTER(POINTER(c_char_p)))),
    "bmrt_get_network_info": Function("bmrt", "pointer", (c_void_p, c_char_p), POINTER(NetInfo)),
    "bmrt_launch_tensor_ex": Function(
        "bmrt",
        "bool",
        (c_void_p, c_char_p, POINTER(Tensor), c_int, POINTER(Tensor), c_int, c_bool, c_bool),
    ),
}
"""All that is called. docs/tpu.md has a table of them, held by a test."""
NEWER = "bmrt_launch_tensor_multi_cores"
"""A function that is not called: it came with the last fields of NetInfo and StageInfo (libsophon 0.5), which
must not be read where they are not.
"""


class BmError(Exception):
    """A function of the runtime failed: its name, its code if it has one, what that means, and whether the
    device's memory was too small.
    """

    def __init__(
        self, function: str, code: int | None, meaning: str, *, is_out_of_memory: bool = False
    ) -> None:
        shown = "" if code is None else f" with code {code}"
        super().__init__(f"{function} failed{shown}: {meaning}.")
        self.function = function
        self.code = code
        self.is_out_of_memory = is_out_of_memory or (function, code) == ("bm_malloc_device_byte", NO_MEMORY)


class RuntimeMissingError(Exception):
    """The vendor's libraries are not there, or are not such as are needed; its text says how to get them."""


class Libraries:
    """libbmlib and libbmrt, loaded, with their functions declared.

    `folder` is where they are; without one the system's loader is asked, which knows LD_LIBRARY_PATH and what
    the vendor's package told ldconfig, then the vendor's folders. Raises RuntimeMissingError.
    """

    def __init__(self, folder: str = "") -> None:
        _check_sizes()
        bmlib = _load("libbmlib.so", folder, ctypes.RTLD_GLOBAL)  # libbmrt looks for its symbols there
        libraries = {"bmlib": bmlib, "bmrt": _load("libbmrt.so", folder, ctypes.RTLD_LOCAL)}
        self._functions: dict[str, Any] = {}
        for library, name in [("bmrt", NEWER), *((one.library, name) for name, one in FUNCTIONS.items())]:
            if not hasattr(libraries[library], name):
                raise RuntimeMissingError(
                    f"lib{library}.so has no {name}: it is older than libsophon 0.5.1, which is "
                    "the least that serves language models (docs/tpu.md)."
                )
        for name, function in FUNCTIONS.items():
            found = getattr(libraries[function.library], name)
            found.argtypes = function.arguments
            kinds = {"status": c_int, "bool": c_bool, "pointer": function.result or c_void_p}
            found.restype = kinds.get(function.answer, function.result)
            self._functions[name] = found
        self._free = ctypes.CDLL(None).free
        self._free.argtypes, self._free.restype = (c_void_p,), None

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; raises BmError where it says that it failed. Another thread may run meanwhile."""
        answer, result = FUNCTIONS[name].answer, self._functions[name](*arguments)
        if answer == "status" and result != SUCCESS:
            meaning = STATUS[result] if 0 <= result < len(STATUS) else "a code that its headers do not name"
            raise BmError(name, int(result), meaning)
        if answer == "bool" and not result:
            raise BmError(name, None, "it returned false; its reason is on the process's standard output")
        if answer == "pointer" and not result:
            raise BmError(name, None, "it returned NULL")
        return result

    def network_names(self, runtime: c_void_p) -> list[str]:
        """The names of the networks that a runtime has loaded."""
        count = self.call("bmrt_get_network_number", runtime)
        names = POINTER(c_char_p)()
        self.call("bmrt_get_network_names", runtime, byref(names))
        if count < 1 or not names:
            return []
        try:
            return [(names[index] or b"").decode() for index in range(count)]
        finally:
            self._free(names)  # the array is the caller's, the texts are not


def shape(dims: Sequence[int]) -> Shape:
    """A bm_shape_t; raises ValueError for more dimensions than it holds."""
    if len(dims) > MAX_DIMS:
        raise ValueError(f"{len(dims)} dimensions; a shape has {MAX_DIMS} at most")
    return Shape(len(dims), (c_int * MAX_DIMS)(*dims))


def _check_sizes() -> None:
    for kind, size in SIZES.items():
        if ctypes.sizeof(kind) != size:
            raise RuntimeMissingError(
                f"{kind.__name__} has {ctypes.sizeof(kind)} bytes on this machine and {size} in the runtime: "
                "only 64-bit Linux is supported."
            )


def _load(name: str, folder: str, mode: int) -> ctypes.CDLL:
    tried = [str(Path(folder) / name)] if folder else [name, *(f"{place}/{name}" for place in FOLDERS)]
    reasons = []
    for path in tried:
        try:
            return ctypes.CDLL(path, mode=mode)
        except OSError as error:
            if str(error) != f"{path}: cannot open shared object file: No such file or directory":
                reasons.append(str(error))  # it is there, for another machine, or lacks a library of its own
    if reasons:
        raise RuntimeMissingError(
            f"{name} cannot be loaded (docs/tpu.md). The loader says: {'; '.join(reasons)}"
        )
    where = folder or f"the system's library path and {' or '.join(FOLDERS)}"
    raise RuntimeMissingError(
        f"{name} is not in {where}: install the vendor's libsophon, 0.5.1 or later (docs/tpu.md), or name "
        "its folder by --tpu-libraries."
    )
