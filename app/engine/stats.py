"""The numbers of an engine that /metrics reads at each scrape."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds, and the pictures that it knew since it was loaded, for /metrics; zeros where it
    has no such thing.

    The KV cache is counted in tokens: what running sequences own, what finished ones left, and its size.
    `device_memory` is bytes held by this process and bytes there are, None where the device is the CPU.
    """

    kv_running: int = 0
    kv_kept: int = 0
    kv_capacity: int = 0
    vision_hits: int = 0
    vision_misses: int = 0
    device_memory: tuple[int, int] | None = None


def device_memory(device: str) -> tuple[int, int] | None:
    """Bytes that this process holds on a GPU and bytes there are; asks torch alone, never the device, which
    may be in the middle of a graph's capture.
    """
    import torch

    if device.startswith("cuda"):
        there = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.memory_reserved(device), there
    if device.startswith("mps"):
        return torch.mps.driver_allocated_memory(), torch.mps.recommended_max_memory()
    return None
