"""What this process may take of the machine: cores and memory, cut by its container's limits."""

import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


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
