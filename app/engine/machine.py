"""What this process may take of the machine: cores and memory, cut by its container's limits, and a GPU."""

import importlib.util
import os
import platform
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
GPUS = {"/dev/nvidiactl": "libtorch_cuda.so", "/dev/dxg": "libtorch_cuda.so", "/dev/kfd": "libtorch_hip.so"}
"""What a machine with a GPU has, and what a build of torch that can use it has."""


def usable_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup, or "max": no quota
    return cores


def free_memory() -> int:
    """Bytes of memory that this process may still take."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        free = min(free, max(0, limit - int((CGROUP / "memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no cgroup, or "max": no limit
    return free


def process_memory() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def total_memory() -> int:
    """Bytes of memory that this process may hold."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int((CGROUP / "memory.max").read_text()))
    except (OSError, ValueError):
        return total  # no cgroup, or "max": no limit


def likely_device() -> str:
    """The device that auto means, for a person, told without torch, whose import takes seconds: by what the
    machine has and what torch was built for. Only torch knows whether the driver suits it.
    """
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return "mps"
    there = [library for place, library in GPUS.items() if Path(place).exists()]
    if not there or os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return "cpu"
    torch = importlib.util.find_spec("torch")
    folder = Path(torch.origin).parent / "lib" if torch and torch.origin else Path("lib")
    if any((folder / library).exists() for library in there):
        return "cuda"
    return "cpu (this torch is built without the GPU that is here)"
