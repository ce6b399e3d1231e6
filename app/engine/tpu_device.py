"""A Sophon TPU and the networks that it has loaded: device memory, copies and launches, checked beforehand.

The C side copies as many bytes as a descriptor says and ends the process where an assertion fails, so sizes
are compared here. All calls of a device come from one thread: a sync waits for what its own thread launched.
Devices of several models on one chip call one after another.
"""

import contextlib
import ctypes
from collections.abc import Iterable, Sequence
from ctypes import byref, c_int, c_uint32, c_void_p
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.bmrt import (
    BFLOAT16,
    DATA_TYPES,
    FLOAT16,
    FLOAT32,
    INT32,
    SHARE_MEMORY,
    STORE_1N,
    BmError,
    DeviceMemory,
    DeviceStat,
    Libraries,
    Tensor,
    shape,
)
from app.engine.tpu_chip import chip

Array = npt.NDArray[Any]

STORED: dict[int, type[np.generic]] = {
    FLOAT32: np.float32,
    FLOAT16: np.float16,
    INT32: np.int32,
    BFLOAT16: np.uint16,
}
"""How numpy holds the formats that language models use: it has no bfloat16."""
OTHER_LAYOUT = "this libsophon lays its structures out in another way"
LARGEST = 2**32 - 1
"""Bytes of one piece of device memory, whose size is a 32-bit number."""


class UnknownModelError(Exception):
    """A .bmodel that this server cannot run; its text says why."""


def stored(values: npt.ArrayLike, dtype: int) -> Array:
    """Numbers as a device's format has them, bfloat16 as the upper halves of float32, rounded to nearest."""
    if dtype != BFLOAT16:
        return np.ascontiguousarray(values, STORED[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def numbers(values: Array, dtype: int) -> Array:
    """Numbers of a device's format as float32, or as they are if they are integers."""
    if dtype == BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values if dtype == INT32 else values.astype(np.float32)


@dataclass(frozen=True)
class Port:
    """An input or output of a network's stage: its format, its largest shape, its compiled memory."""

    dtype: int
    dims: tuple[int, ...]
    memory: DeviceMemory

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(STORED[self.dtype]).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all numbers."""
        return prod(self.dims) * self.itemsize


@dataclass(frozen=True)
class Stage:
    """One set of shapes that a network was compiled for."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Net:
    """A network as the runtime describes it."""

    name: str
    is_dynamic: bool
    stages: tuple[Stage, ...]

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Those of the first stage."""
        return self.stages[0].inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Those of the first stage."""
        return self.stages[0].outputs


@dataclass(frozen=True)
class View:
    """Numbers in device memory as a network is given them."""

    memory: DeviceMemory
    dtype: int
    dims: tuple[int, ...]


def part(memory: DeviceMemory, offset: int, size: int) -> DeviceMemory:
    """So many bytes of a piece of device memory; raises ValueError beyond its end."""
    if offset < 0 or size < 1 or offset + size > memory.size:
        raise ValueError(f"bytes {offset} to {offset + size} of {memory.size}")
    return DeviceMemory(memory.address + offset, 0, memory.dmabuf_fd, memory.flags, size)


class Device:
    """One chip, and one .bmodel on it. Raises BmError, or UnknownModelError for a file of another kind;
    `close` frees all that was allocated here.
    """

    def __init__(self, libraries: Libraries, number: int) -> None:
        self._libraries = libraries
        self._owned: dict[int, DeviceMemory] = {}
        self._runtime: c_void_p | None = None
        self._handle: c_void_p | None = None
        self._launched = False  # since the last sync
        self.chip = chip(number)
        self.nets: dict[str, Net] = {}
        if told := self.chip.hangs():
            raise UnknownModelError(f"tpu:{number} hangs: {told}")
        count, handle = c_int(), c_void_p()
        self._call("bm_dev_getcount", byref(count))
        if not 0 <= number < count.value:
            raise UnknownModelError(f"there is no tpu:{number} on this machine, it has {count.value}")
        self._call("bm_dev_request", byref(handle), number)
        self._handle = handle

    def load(self, path: Path) -> None:
        """Load a .bmodel and read what its networks are."""
        self._runtime = c_void_p(self._call("bmrt_create", self._handle))
        self._call("bmrt_set_flags", self._runtime, SHARE_MEMORY)
        self._call("bmrt_load_bmodel", self._runtime, str(path).encode())
        self._call("bm_thread_sync", self._handle)
        with self.chip.calling("bmrt_get_network_names"):
            names = self._libraries.network_names(self._runtime)
        self.nets = {name: self._net(name) for name in names}

    def chip_id(self) -> int:
        """The chip's number: 0x1686 is a BM1684X."""
        chip = c_uint32()
        self._call("bm_get_chipid", self._handle, byref(chip))
        return chip.value

    def memory(self) -> tuple[int, int]:
        """Bytes of the device that are in use, by whomever, and bytes there are."""
        stat = self._stat()
        return stat.memory_used << 20, stat.memory_total << 20

    def free_bytes(self) -> int:
        """Bytes that are free in the heap that has most of them: nothing lies in two."""
        stat = self._stat()
        heaps: list[int] = [heap.available for heap in stat.heaps[: stat.heap_num]]
        return max(heaps, default=stat.memory_total - stat.memory_used) << 20

    def held(self) -> int:
        """Bytes that were allocated here and not given back; asked from any thread."""
        return sum(memory.size for memory in list(self._owned.values()))

    def allocate(self, size: int) -> DeviceMemory:
        """A piece of device memory, whose contents are undefined."""
        if not 0 < size <= LARGEST:
            raise ValueError(f"{size} bytes; a piece of device memory has at most {LARGEST}")
        memory = DeviceMemory()
        self._call("bm_malloc_device_byte", self._handle, byref(memory), size)
        self._owned[memory.address] = memory
        return memory

    def free(self, memories: Iterable[DeviceMemory]) -> None:
        """Give pieces back."""
        for memory in memories:
            self._call("bm_free_device", self._handle, self._owned.pop(memory.address))

    def write(self, memory: DeviceMemory, values: Array, offset: int = 0) -> None:
        """Copy an array to the device, after whatever still reads there."""
        self.sync()
        values = np.ascontiguousarray(values)
        part(memory, offset, values.nbytes)
        source = values.ctypes.data_as(c_void_p)
        self._call("bm_memcpy_s2d_partial_offset", self._handle, memory, source, values.nbytes, offset)

    def read(self, memory: DeviceMemory, dtype: int, count: int, offset: int = 0) -> Array:
        """So many numbers of a format from the device, once they are computed."""
        self.sync()
        values = np.empty(count, STORED[dtype])
        part(memory, offset, values.nbytes)
        target = values.ctypes.data_as(c_void_p)
        self._call("bm_memcpy_d2s_partial_offset", self._handle, target, memory, values.nbytes, offset)
        return numbers(values, dtype)

    def copy(
        self, target: DeviceMemory, source: DeviceMemory, size: int, *, to: int = 0, start: int = 0
    ) -> None:
        """Copy bytes on the device, from `start` of the source to `to` of the target."""
        part(target, to, size)
        part(source, start, size)
        self.sync()
        self._call("bm_memcpy_d2d_byte", self._handle, target, to, source, start, size)

    def zero(self, memory: DeviceMemory) -> None:
        """Fill with zeros."""
        self.sync()
        self._call("bm_memset_device_ext", self._handle, byref(ctypes.c_uint8(0)), 1, memory)

    def sync(self) -> None:
        """Wait for what was launched."""
        if self._launched:
            self._call("bm_thread_sync", self._handle)
            self._launched = False

    def launch(
        self, net: Net, inputs: Sequence[View], outputs: Sequence[DeviceMemory], stage: int = 0
    ) -> None:
        """Queue a network on these inputs, in a stage's shapes or, where it is dynamic, in smaller ones."""
        shapes = net.stages[stage]
        if len(inputs) != len(shapes.inputs) or len(outputs) != len(shapes.outputs):
            raise ValueError(f"{net.name} takes {len(shapes.inputs)} inputs and gives {len(shapes.outputs)}")
        taken = (Tensor * len(inputs))()
        for index, (view, port) in enumerate(zip(inputs, shapes.inputs, strict=True)):
            size = prod(view.dims) * np.dtype(STORED[view.dtype]).itemsize
            wanted = (port.dtype, len(port.dims))
            if (view.dtype, len(view.dims)) != wanted or not 0 < size <= view.memory.size:
                raise ValueError(f"input {index} of {net.name} is {view}")
            taken[index] = Tensor(view.dtype, shape(view.dims), view.memory, STORE_1N)
        given = (Tensor * len(outputs))()
        for index, (memory, port) in enumerate(zip(outputs, shapes.outputs, strict=True)):
            if memory.size < port.bytes and not net.is_dynamic:
                raise ValueError(f"output {index} of {net.name} has {port.bytes} bytes, not {memory.size}")
            given[index] = Tensor(port.dtype, shape(port.dims), memory, STORE_1N)
        self._launched = True
        name, mine = net.name.encode(), (True, False)  # our memory for the outputs, stored as usual
        counts = (taken, len(inputs), given, len(outputs))
        self._call("bmrt_launch_tensor_ex", self._runtime, name, *counts, *mine)

    def close(self) -> None:
        """Free everything, also after a failure; called once more it does nothing."""
        owned, self._owned, self.nets = list(self._owned.values()), {}, {}
        handle, runtime, self._handle, self._runtime = self._handle, self._runtime, None, None
        if handle is None:
            return
        if self._launched:
            with contextlib.suppress(BmError):  # a device that hangs: nothing runs there any more
                self._call("bm_thread_sync", handle)
        if runtime is not None:
            self._call("bmrt_destroy", runtime)
        for memory in owned:
            self._call("bm_free_device", handle, memory)
        self._call("bm_dev_free", handle)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self.chip.calling(name):
            return self._libraries.call(name, *arguments)

    def _stat(self) -> DeviceStat:
        stat = DeviceStat()
        self._call("bm_get_stat", self._handle, byref(stat))
        return stat

    def _net(self, name: str) -> Net:
        info = self._call("bmrt_get_network_info", self._runtime, name.encode()).contents
        try:
            kinds = [*info.input_dtypes[: info.input_num], *info.output_dtypes[: info.output_num]]
            if unknown := [DATA_TYPES.get(kind, str(kind)) for kind in kinds if kind not in STORED]:
                raise UnknownModelError(f"its network {name} has tensors of {unknown[0]}")
            stages = tuple(_stage(info, number) for number in range(info.stage_num))
        except ValueError:  # a pointer of it is NULL
            raise UnknownModelError(f"its network {name} has no shapes or memory: {OTHER_LAYOUT}") from None
        return Net(name, info.is_dynamic, stages)


def _stage(info: Any, number: int) -> Stage:
    stage = info.stages[number]

    def ports(count: int, dtypes: Any, shapes: Any, memories: Any) -> tuple[Port, ...]:
        found = []
        for index in range(count):
            dims = tuple(shapes[index].dims[: shapes[index].num_dims])
            found.append(Port(dtypes[index], dims, DeviceMemory.from_buffer_copy(memories[index])))
            if not all(0 < size < 2**31 for size in dims) or found[-1].bytes > memories[index].size:
                raise UnknownModelError(
                    f"its network {info.name.decode()} has a tensor of {dims} in {memories[index].size} "
                    f"bytes: {OTHER_LAYOUT}"
                )
        return tuple(found)

    return Stage(
        ports(info.input_num, info.input_dtypes, stage.input_shapes, stage.input_memories),
        ports(info.output_num, info.output_dtypes, stage.output_shapes, stage.output_memories),
    )
