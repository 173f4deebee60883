"""MIG: the instances that a GPU is split into."""

from collections.abc import Iterator
from typing import Any

import pynvml as n

from gpuspawner.nvml.calls import Row, read

SIMULATED = " (simulated)"  # the stand-in's mark, at the end of every name


def is_split(handle: Any) -> bool:
    """Return whether a GPU is in MIG mode, with or without instances."""
    mode = read(n.nvmlDeviceGetMigMode, handle)
    return bool(mode) and mode[0] == n.NVML_DEVICE_MIG_ENABLE


def instances(handle: Any) -> Iterator[tuple[Any, str]]:
    """Yield handle and UUID of every MIG instance. Their indexes have holes."""
    if not is_split(handle):
        return
    for index in range(read(n.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = read(n.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = part and read(n.nvmlDeviceGetUUID, part)
        if uuid:
            yield part, uuid


def instance(part: Any, uuid: str) -> Row | None:
    """Return a MIG instance; None if it went away meanwhile."""
    memory = read(n.nvmlDeviceGetMemoryInfo, part)
    gpu_instance = read(n.nvmlDeviceGetGpuInstanceId, part)
    profile = _profile(part)
    if memory is None or gpu_instance is None or profile is None:
        return None
    return {
        "uuid": uuid,
        "profile": profile,
        "memory_bytes": memory.total,
        "gpu_instance": gpu_instance,
        "compute_instance": read(n.nvmlDeviceGetComputeInstanceId, part) or 0,
    }


def _profile(part: Any) -> str | None:
    """Return like "3g.40gb": the end of the name, else made of slices and memory."""
    name = read(n.nvmlDeviceGetName, part) or ""
    _, mark, profile = name.removesuffix(SIMULATED).partition(" MIG ")
    if mark:
        return str(profile)
    shape = read(n.nvmlDeviceGetAttributes_v2, part)
    if shape is None:
        return None
    # NVIDIA rounds up: a 1g.10gb has 9728 MiB.
    return f"{shape.gpuInstanceSliceCount}g.{-(-shape.memorySizeMB // 1024)}gb"
