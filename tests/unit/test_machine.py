"""What is told of a machine's GPUs before torch is imported."""

import importlib.machinery
import importlib.util
import pathlib
import platform

import pytest

from app.engine import machine


@pytest.fixture
def torch_of(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of a torch of another build, on Linux, and nothing of a GPU on the machine."""
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(machine, "GPUS", {str(tmp_path / "nvidiactl"): "libtorch_cuda.so"})
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    return tmp_path


def test_the_device_is_told_by_what_is_there_and_what_torch_can_use(
    torch_of: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.likely_device() == "cpu"
    (torch_of / "nvidiactl").touch()
    assert machine.likely_device() == "cpu (this torch is built without the GPU that is here)"
    (torch_of / "torch" / "lib" / "libtorch_cuda.so").touch()
    assert machine.likely_device() == "cuda"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert machine.likely_device() == "cpu"


def test_a_mac_with_apples_chip_has_its_gpu(torch_of: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert machine.likely_device() == "mps"
