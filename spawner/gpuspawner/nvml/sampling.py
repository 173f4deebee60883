"""What is read of one GPU or MIG instance in a sweep. A refused value is left out.

Everything here raises NVMLError if the GPU is lost or needs a reset.
"""

from typing import Any

import pynvml as n

from gpuspawner.nvml import nvlink
from gpuspawner.nvml.calls import LOST, NO_ID, UNSUPPORTED, Row, read
from gpuspawner.nvml.gpu import Gpu

PERCENT = 100
US_PER_S = 1_000_000


def sample(gpu: Gpu, at: float) -> Row:
    """Return what a GPU tells at this moment, in seconds since 1970."""
    handle = gpu.handle
    utilisation = read(n.nvmlDeviceGetUtilizationRates, handle)
    power_mw = read(n.nvmlDeviceGetPowerUsage, handle)
    limit_mw = read(n.nvmlDeviceGetEnforcedPowerLimit, handle)
    energy_mj = read(n.nvmlDeviceGetTotalEnergyConsumption, handle)
    ecc = n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC
    values = {
        "utilisation": None if utilisation is None else utilisation.gpu / PERCENT,
        "memory_used_bytes": _memory_used(handle),
        "processes": _processes(handle),
        "temperature_c": _temperature(handle),
        "power_w": None if power_mw is None else power_mw / 1000,
        "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
        "sm": _sm(gpu, at),
        "n_ecc_uncorrected": read(n.nvmlDeviceGetTotalEccErrors, handle, *ecc),
        "recovery": recovery_action(handle),
        "remapping": read(n.nvmlDeviceGetRemappedRows, handle),
        "n_nvlinks": nvlink.n_active(gpu),
    }
    return {"uuid": gpu.uuid, "at": at} | _known(values)


def instance_sample(part: Any, uuid: str, at: float) -> Row:
    """Return what a MIG instance tells at this moment, in seconds since 1970."""
    gpu_instance = read(n.nvmlDeviceGetGpuInstanceId, part)
    values = {
        "memory_used_bytes": _memory_used(part),
        "processes": _processes(part, gpu_instance),
    }
    return {"uuid": uuid, "at": at} | _known(values)


def recovery_action(handle: Any) -> int | None:
    """Return NVML's number of the recovery action that a GPU needs."""
    fields = [n.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
    values = read(n.nvmlDeviceGetFieldValues, handle, fields)
    if not values or values[0].nvmlReturn != n.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal)


def _known(values: Row) -> Row:
    return {key: value for key, value in values.items() if value is not None}


def _memory_used(handle: Any) -> int | None:
    memory = read(n.nvmlDeviceGetMemoryInfo, handle)
    return int(memory.used) if memory else None


def _temperature(handle: Any) -> int | None:
    sensor = n.NVML_TEMPERATURE_GPU
    degrees = read(n.nvmlDeviceGetTemperatureV, handle, sensor)
    if degrees is None:  # drivers before R570
        degrees = read(n.nvmlDeviceGetTemperature, handle, sensor)
    return None if degrees is None else int(degrees)


def _processes(handle: Any, gpu_instance: int | None = None) -> list[list[Any]] | None:
    """Return [PID, memory, GPU instance] of each process; None if that is unknown.

    A process with both a compute and a graphics context is listed once.
    """
    found: dict[tuple[int, int | None], int | None] = {}
    for call in (
        n.nvmlDeviceGetComputeRunningProcesses_v3,
        n.nvmlDeviceGetGraphicsRunningProcesses_v3,
        n.nvmlDeviceGetMPSComputeRunningProcesses_v3,
    ):
        try:
            listed = call(handle)
        except n.NVMLError as error:
            if error.value in LOST:
                raise
            has_none = call is not n.nvmlDeviceGetComputeRunningProcesses_v3
            if has_none and error.value in UNSUPPORTED:
                continue
            return None
        for process in listed:
            gi = process.gpuInstanceId
            key = process.pid, gpu_instance if gi == NO_ID else gi
            sizes = found.get(key), process.usedGpuMemory
            found[key] = max((s for s in sizes if s is not None), default=None)
    return [[pid, size, gi] for (pid, gi), size in found.items()]


def _sm(gpu: Gpu, at: float) -> list[list[Any]] | None:
    """Return [PID, use] of every process that ran since the last reading.

    Use of the SMs or of a video engine, whichever is more: who decodes needs no SM.

    It is asked for by the driver's own times: what happened a moment ago is dated a
    second back, so that the time of the last reading would skip some of it.
    """
    if gpu.seen_us > at * US_PER_S:  # the clock was set back
        gpu.seen_us = 0
    try:
        rows = n.nvmlDeviceGetProcessUtilization(gpu.handle, gpu.seen_us)
    except n.NVMLError as error:
        if error.value in LOST:
            raise
        return [] if error.value == n.NVML_ERROR_NOT_FOUND else None
    found: dict[int, float] = {}
    for row in rows:
        if row.smUtil > PERCENT:  # some drivers leave rows unset
            return None
        gpu.seen_us = max(gpu.seen_us, row.timeStamp)
        video = (use for use in (row.encUtil, row.decUtil) if use <= PERCENT)
        share = max([row.smUtil, *video]) / PERCENT
        found[row.pid] = max(found.get(row.pid, 0.0), share)
    return [[pid, share] for pid, share in found.items()]
