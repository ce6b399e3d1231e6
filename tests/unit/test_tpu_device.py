"""A device: its memory is apart from ours, what does not fit is refused, closing leaves nothing behind."""

import ctypes
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from app.engine import bmrt
from app.engine.bmrt import BFLOAT16, FLOAT16, FLOAT32, INT32, BmError, DeviceMemory, Libraries
from app.engine.tpu_device import Device, UnknownModelError, View, numbers, part, stored
from tests import standin
from tests.standin import Control

LIVE = ("live_bytes", "live_blocks", "live_handles", "live_runtimes")


@pytest.fixture
def control() -> Iterator[Control]:
    found = standin.control()
    yield found
    found.heal()
    assert [found[name] for name in LIVE] == [0, 0, 0, 0]


@pytest.fixture
def device(control: Control) -> Iterator[Device]:
    made = Device(Libraries(str(standin.libraries())), 0)
    yield made
    made.close()


@pytest.fixture
def loaded(device: Device, compiled: Callable[..., pathlib.Path]) -> Device:
    device.load(next(compiled().glob("*.bmodel")))
    return device


def test_bytes_come_back_as_they_went(device: Device) -> None:
    memory = device.allocate(4000)
    values = np.arange(1000, dtype=np.int32)
    device.write(memory, values)
    assert (device.read(memory, INT32, 10, offset=400) == values[100:110]).all()


def test_fresh_memory_is_poison(device: Device) -> None:
    assert np.isnan(device.read(device.allocate(16), FLOAT32, 4)).all()


def test_zero_and_copies_on_the_device(device: Device) -> None:
    one, other = device.allocate(64), device.allocate(64)
    device.zero(one)
    device.write(other, np.arange(16, dtype=np.int32))
    device.copy(one, other, 8, to=4, start=12)
    assert device.read(one, INT32, 4).tolist() == [0, 3, 4, 0]


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (60, 8), (-4, 4), (64, 4), (0, 0)])
def test_what_lies_beyond_a_piece_is_refused_before_the_call(device: Device, offset: int, size: int) -> None:
    memory = device.allocate(64)
    with pytest.raises(ValueError, match=r"of 64$"):
        part(memory, offset, size)


def test_neither_writes_nor_reads_nor_copies_go_beyond_a_piece(device: Device, control: Control) -> None:
    memory, calls = device.allocate(64), control.calls("bm_memcpy_s2d_partial_offset")
    with pytest.raises(ValueError, match="of 64"):
        device.write(memory, np.zeros(17, np.float32))
    with pytest.raises(ValueError, match="of 64"):
        device.read(memory, FLOAT32, 17)
    with pytest.raises(ValueError, match="of 64"):
        device.copy(memory, memory, 32, start=48)
    assert control.calls("bm_memcpy_s2d_partial_offset") == calls


def test_a_host_pointer_is_no_device_memory(device: Device) -> None:
    values = np.zeros(16, np.float32)
    mine = DeviceMemory(values.ctypes.data, 0, 0, 0, 64)
    with pytest.raises(BmError, match=r"bm_memcpy_s2d_partial_offset failed with code 4: a wrong parameter"):
        device.write(mine, values)


def test_memory_that_was_freed_is_gone(device: Device) -> None:
    memory = device.allocate(64)
    device.free([memory])
    with pytest.raises(BmError, match="code 4"):
        device.read(memory, FLOAT32, 1)


def test_the_devices_memory_has_an_end(device: Device, control: Control) -> None:
    control["limit_bytes"] = 1 << 20
    try:
        with pytest.raises(BmError, match="no device memory is left") as told:
            device.allocate(2 << 20)
    finally:
        control["limit_bytes"] = 0
    assert told.value.is_out_of_memory


def test_a_device_that_is_not_there(control: Control) -> None:
    with pytest.raises(UnknownModelError, match="no tpu:3 on this machine, it has 1"):
        Device(Libraries(str(standin.libraries())), 3)


def test_its_chip_and_its_memory(device: Device) -> None:
    device.allocate(8 << 20)
    assert device.chip_id() == 0x1686
    assert device.memory() == (8 << 20, (15 << 30) + (8 << 20))
    assert device.free_bytes() == (15 << 30) - (8 << 20)


def test_networks_are_read_as_they_were_compiled(loaded: Device) -> None:
    block, cache = loaded.nets["block_0"], loaded.nets["block_cache_3"]
    assert [port.dims for port in block.inputs] == [(1, 256, 256), (3, 256), (1, 1, 256, 256)]
    assert [port.dtype for port in block.inputs] == [FLOAT32, INT32, FLOAT32]
    assert [port.dims for port in cache.inputs[3:]] == [(1, 512, 2, 64)] * 2
    assert not block.is_dynamic


def test_a_launch_in_a_wrong_shape_or_format_is_refused_before_the_call(
    loaded: Device, control: Control
) -> None:
    head, launches = loaded.nets["lm_head"], control["launches"]
    state, answer = loaded.allocate(4 * 256), loaded.allocate(4 * 2400)
    with pytest.raises(ValueError, match="lm_head takes 1 inputs"):
        loaded.launch(head, [], [answer])
    with pytest.raises(ValueError, match="input 0 of lm_head"):
        loaded.launch(head, [View(state, INT32, (1, 256))], [answer])
    with pytest.raises(ValueError, match="input 0 of lm_head"):
        loaded.launch(head, [View(state, FLOAT32, (1, 257))], [answer])
    with pytest.raises(ValueError, match="output 0 of lm_head has 9600 bytes"):
        loaded.launch(head, [View(state, FLOAT32, (1, 256))], [part(answer, 0, 40)])
    assert control["launches"] == launches


def test_the_runtime_itself_refuses_another_shape(loaded: Device) -> None:
    state, answer = loaded.allocate(4 * 256), loaded.allocate(4 * 2400)
    with pytest.raises(BmError, match="bmrt_launch_tensor_ex failed: it returned false"):
        loaded.launch(loaded.nets["lm_head"], [View(state, FLOAT32, (1, 255))], [answer])


def test_what_was_launched_is_read_only_after_a_sync(loaded: Device, control: Control) -> None:
    ids, states = loaded.allocate(4), loaded.allocate(4 * 256)
    loaded.write(ids, np.array([[5]], np.int32))
    syncs = control.calls("bm_thread_sync")
    loaded.launch(loaded.nets["embedding_cache"], [View(ids, INT32, (1, 1))], [states])
    assert np.isfinite(loaded.read(states, FLOAT32, 256)).all()
    loaded.read(states, FLOAT32, 256)
    assert control.calls("bm_thread_sync") == syncs + 1


def test_what_was_launched_outlives_another_handle_of_the_chip(
    loaded: Device, compiled: Callable[..., pathlib.Path]
) -> None:
    def launched(device: Device, token: int) -> DeviceMemory:
        ids, states = device.allocate(4), device.allocate(4 * 256)
        device.write(ids, np.array([[token]], np.int32))
        device.launch(device.nets["embedding_cache"], [View(ids, INT32, (1, 1))], [states])
        return states

    wanted = loaded.read(launched(loaded, 5), FLOAT32, 256)
    queued = launched(loaded, 5)
    other = Device(Libraries(str(standin.libraries())), 0)
    other.load(next(compiled().glob("*.bmodel")))
    launched(other, 7)
    other.close()
    assert (loaded.read(queued, FLOAT32, 256) == wanted).all()


@pytest.mark.parametrize("function", ["bm_dev_getcount", "bm_dev_request"])
def test_a_device_that_cannot_be_requested(control: Control, function: str) -> None:
    control.fail(function, code=1)
    with pytest.raises(BmError, match=f"{function} failed with code 1: the device is not ready"):
        Device(Libraries(str(standin.libraries())), 0)


@pytest.mark.parametrize("function", ["bmrt_create", "bmrt_load_bmodel", "bmrt_get_network_info"])
def test_a_model_that_cannot_be_loaded_leaves_nothing(
    device: Device, control: Control, compiled: Callable[..., pathlib.Path], function: str
) -> None:
    control.fail(function)
    with pytest.raises(BmError, match=f"{function} failed"):
        device.load(next(compiled().glob("*.bmodel")))


@pytest.mark.parametrize("kept", [0, 7, 100, 100_000])
def test_a_file_that_is_cut_is_no_model(
    device: Device, compiled: Callable[..., pathlib.Path], tmp_path: pathlib.Path, kept: int
) -> None:
    cut = tmp_path / "cut.bmodel"
    cut.write_bytes(next(compiled().glob("*.bmodel")).read_bytes()[:kept])
    with pytest.raises(BmError, match="bmrt_load_bmodel failed"):
        device.load(cut)


def test_structures_of_an_unknown_runtime_are_no_crash(
    loaded: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bmrt.NetInfo(name=b"block_0", stage_num=1, stages=ctypes.pointer(bmrt.StageInfo()))
    info.input_num, info.input_dtypes = 1, (ctypes.c_int * 1)(FLOAT32)
    monkeypatch.setattr(loaded, "_call", lambda *_: ctypes.pointer(info))
    with pytest.raises(UnknownModelError, match="no shapes or memory: this libsophon lays its structures"):
        loaded._net("block_0")
    shape, memory = bmrt.shape((4, 4)), bmrt.DeviceMemory(size=60)
    info.stages[0].input_shapes = ctypes.pointer(shape)
    info.stages[0].input_memories = ctypes.pointer(memory)
    with pytest.raises(UnknownModelError, match=r"a tensor of \(4, 4\) in 60 bytes: this libsophon"):
        loaded._net("block_0")


def test_closing_twice_is_harmless(loaded: Device) -> None:
    loaded.close()
    loaded.close()


def test_numbers_of_sixteen_bits_are_rounded_to_nearest() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([np.random.default_rng(0).normal(0, 100, 10_000), [-10000.0, 0.0, 1e-3]])
    exact = torch.from_numpy(values.astype(np.float32))
    for dtype, kind in ((BFLOAT16, torch.bfloat16), (FLOAT16, torch.float16)):
        assert (numbers(stored(exact.numpy(), dtype), dtype) == exact.to(kind).float().numpy()).all()
    assert stored(np.float32(-10000.0), BFLOAT16).tolist() == [0xC61C]
