"""Reads the machine's GPUs, in a process of its own. Nothing else imports pynvml.

An NVML call can hang on a sick GPU for ever, and only the end of its process ends it.
So the hub makes none: `gpuspawner.probe` runs ``python -m gpuspawner.nvml --serve`` and
kills it when it hangs. To start fast, this imports nothing else of the package.

Lines of JSON. In: ``{"id", "method", "arguments"}``, one at a time. Out, in any order:

    {"at", "of"}        GPU `at` of `of` is about to be touched; null: no single one
    {"event"}           as soon as the driver reports it; the fields of sample.Event
    {"id", "result"}    rows with the fields of the nouns in model.py and sample.py;
                        what is unknown is left out
    {"id", "absence"}   a sentence: there is no GPU to be read
    {"id", "failure"}   a sentence: NVML does not work

When stdin ends, so does the process, even inside a call that hangs.

``python -m gpuspawner.nvml [--json]`` prints the devices.
"""

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

import pynvml as n

Row = dict[str, Any]

NO_DRIVER = "This machine has no NVIDIA driver, so there are CPU servers only."
NOT_LOADED = (
    "The NVIDIA driver is installed but not loaded: run nvidia-smi as root on the host."
)
MISMATCH = (
    "The NVIDIA driver was upgraded while it was running: restart the machine, "
    "then the hub."
)
LOST = {n.NVML_ERROR_GPU_IS_LOST, n.NVML_ERROR_RESET_REQUIRED}
UNSUPPORTED = {n.NVML_ERROR_NOT_SUPPORTED, n.NVML_ERROR_FUNCTION_NOT_FOUND}
PCI_DEVICES = "/sys/bus/pci/devices"
SIMULATED = " (simulated)"  # the stand-in's mark, at the end of every name
PERCENT = 100
NO_ID = 0xFFFFFFFF  # NVML's "this is not about a MIG instance"
NUMA_WORDS = 16  # of 64 nodes each
WANTED_EVENTS = n.nvmlEventTypeXidCriticalError | n.nvmlEventTypeGpuRecoveryAction
EVENT_WAIT_MS = 5000
EVENT_PAUSE_S = 1.0  # after a wait that failed: a lost GPU must not make it spin


class Absent(Exception):
    """There is no GPU to be read; the text says why."""


class Trouble(Exception):
    """NVML does not work here; the text says why and what to do."""


class _Gpu:
    """A handle, whose it is, and what is remembered of it between two readings.

    Attributes:
        handle: NVML's.
        uuid: Of the GPU.
        links: The numbers of its NVLinks; None: not asked yet.
        seen_us: The driver's time of its newest SM use that was read, 0 at first.
    """

    def __init__(self, handle: Any, uuid: str) -> None:
        self.handle = handle
        self.uuid = uuid
        self.links: list[int] | None = None
        self.seen_us = 0


def read(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what NVML answers, None if it refuses.

    Raises:
        NVMLError: The GPU is lost or needs a reset.
    """
    try:
        return call(*arguments)
    except n.NVMLError as error:
        if error.value in LOST:
            raise
        return None


class Events:
    """Waits for what the drivers of the watched GPUs report.

    Args:
        report: Called in a thread with each event.
    """

    def __init__(self, report: Callable[[Row], None]) -> None:
        self._report = report
        self._set: Any = None
        # A GPU that has just been lost cannot be asked for its UUID any more.
        self._uuids: dict[int, str] = {}

    def watch(self, handle: Any, uuid: str) -> None:
        """Hear of this GPU what its driver can report; safe to call again.

        A driver that refuses is no failure: polls tell most of it a little later.
        """
        address = _address(handle)
        if address in self._uuids:
            return
        try:
            types = n.nvmlDeviceGetSupportedEventTypes(handle) & WANTED_EVENTS
            if not types:
                return
            self._set = self._set or n.nvmlEventSetCreate()
            n.nvmlDeviceRegisterEvents(handle, types, self._set)
        except n.NVMLError:
            return
        self._uuids[address] = uuid
        if len(self._uuids) == 1:
            threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                data = n.nvmlEventSetWait_v2(self._set, EVENT_WAIT_MS)
            except n.NVMLError as error:
                if error.value != n.NVML_ERROR_TIMEOUT:
                    time.sleep(EVENT_PAUSE_S)
                continue
            uuid = self._uuids.get(_address(data.device))
            if uuid is None:
                continue
            event: Row = {"uuid": uuid, "at": time.time()}
            if data.eventType == n.nvmlEventTypeXidCriticalError:
                event |= {"kind": "xid", "code": data.eventData}
            else:  # nvml.h: eventData is 0 for any other event
                event |= {"kind": "recovery", "code": _recovery_or_none(data.device)}
            if data.gpuInstanceId != NO_ID:
                event["gpu_instance"] = data.gpuInstanceId
            self._report(event)


class Reader:
    """Reads the GPUs of one machine. Every method blocks, perhaps for ever.

    NVML is initialised once and kept, and so are the handles of GPUs that answer.

    Args:
        at: Called with index and count before a GPU is touched; index None: none is.
        report: Called in a thread with each event; None: nobody listens.
        pci_devices: Folder in which the kernel describes PCI devices.
    """

    def __init__(
        self,
        at: Callable[[int | None, int], None] = lambda _index, _count: None,
        report: Callable[[Row], None] | None = None,
        pci_devices: str = PCI_DEVICES,
    ) -> None:
        self._at = at
        self._events = Events(report) if report else None
        self._pci_devices = pci_devices
        self._is_initialised = False
        self._gpus: dict[int, _Gpu] = {}
        self._uuids: dict[int, str] = {}

    # -- what can be asked

    def devices(self, avoid: Iterable[int] = (), of: int | None = None) -> Row:
        """Return the GPUs that can be read now.

        Args:
            avoid: Indexes of GPUs that must not be touched.
            of: The number of GPUs that `avoid` is about: with another number of GPUs
                the indexes mean others, and nothing is avoided.
        """
        rows = []
        for index in self._indexes(avoid, of):
            try:
                rows.append(self._device(index))
            except n.NVMLError:
                self._gpus.pop(index, None)
        return {"devices": rows}

    def sweep(self, avoid: Iterable[int] = (), of: int | None = None) -> Row:
        """Return a sample of every GPU and MIG instance; arguments as in `devices`.

        What NVML refuses is left out, one value at a time.
        """
        began = time.monotonic()
        samples: list[Row] = []
        for index in self._indexes(avoid, of):
            at = time.time()
            try:
                gpu = self._gpu(index)
                instances = list(_instances(gpu.handle))
                rows = [self._sample(gpu, at)]
                rows += [_instance_sample(*each, at) for each in instances]
                samples += rows
            except n.NVMLError:
                self._gpus.pop(index, None)
                if index in self._uuids:
                    uuid = self._uuids[index]
                    samples.append({"uuid": uuid, "at": at, "is_lost": True})
        return {"samples": samples, "took_s": time.monotonic() - began}

    def topology(self, avoid: Iterable[int] = (), of: int | None = None) -> Row:
        """Return links and NUMA nodes; arguments as in `devices`.

        ``links`` are [UUID, UUID, NVML's topology level or None, NVLinks]; what NVML
        refuses is None or 0. See `count_links` for how links are counted.
        """
        found: list[tuple[_Gpu, Any, list[Any]]] = []
        numa = {}
        for index in self._indexes(avoid, of):
            try:
                gpu = self._gpu(index)
                pci = read(n.nvmlDeviceGetPciInfo, gpu.handle)
                found.append((gpu, _place(pci), self._remotes(gpu)))
                node = self._numa(gpu.handle, pci)
            except n.NVMLError:
                self._gpus.pop(index, None)
                continue
            if node is not None:
                numa[gpu.uuid] = node
        links = []
        for i, (one, place, remotes) in enumerate(found):
            for other, other_place, other_remotes in found[i + 1 :]:
                count = count_links((place, remotes), (other_place, other_remotes))
                level = _level(one.handle, other.handle)
                links.append([one.uuid, other.uuid, level, count])
        return {"links": links, "numa": numa}

    def limit_memory(self, uuid: str, cgroup: str, limit_bytes: int) -> Row:
        """Let the processes of a cgroup hold at most this much of a GPU's memory.

        Args:
            uuid: Of the GPU; MIG instances cannot be limited (nvml.h).
            cgroup: Its folder, as this process sees it.
            limit_bytes: At most the GPU's memory.

        Returns:
            ``bytes``: the limit as NVML tells it afterwards, None if there is none;
            ``why``: what NVML said if so.
        """
        self._start()
        path = cgroup.encode()
        try:
            handle = n.nvmlDeviceGetHandleByUUID(uuid)
            limits = n.c_nvmlSetMemoryLimits_v1_t(path, 0, limit_bytes)
            n.nvmlDeviceSetMemoryLimits_v1(handle, limits)
            told = n.c_nvmlGetMemoryLimits_v1_t(path)
            n.nvmlDeviceGetMemoryLimits_v1(handle, told)
        except n.NVMLError as error:
            return {"bytes": None, "why": str(error)}
        if told.hardLimit == n.NVML_DEVICE_MEMORY_LIMIT_MAX:
            return {"bytes": None, "why": "the driver took the limit but keeps none"}
        return {"bytes": told.hardLimit, "why": ""}

    # -- which GPUs there are

    def _start(self) -> None:
        if self._is_initialised:
            return
        try:
            n.nvmlInit()
        except n.NVMLError as error:
            if error.value == n.NVML_ERROR_LIBRARY_NOT_FOUND:
                raise Absent(NO_DRIVER) from error
            if error.value == n.NVML_ERROR_DRIVER_NOT_LOADED:
                raise Absent(NOT_LOADED) from error
            if error.value == n.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
                raise Trouble(MISMATCH) from error
            raise
        self._is_initialised = True

    def _indexes(self, avoid: Iterable[int], of: int | None) -> Iterator[int]:
        self._start()
        count = n.nvmlDeviceGetCount()
        if not count:
            raise Absent(NO_DRIVER)
        skipped = set(avoid) if count == of else set()
        for index in range(count):
            if index not in skipped:
                self._at(index, count)
                yield index
        self._at(None, count)

    def _gpu(self, index: int) -> _Gpu:
        gpu = self._gpus.get(index)
        if gpu is None:
            handle = n.nvmlDeviceGetHandleByIndex(index)
            gpu = _Gpu(handle, n.nvmlDeviceGetUUID(handle))
            self._gpus[index] = gpu
            self._uuids[index] = gpu.uuid
            if self._events:
                self._events.watch(handle, gpu.uuid)
        return gpu

    def _device(self, index: int) -> Row:
        gpu = self._gpu(index)
        handle = gpu.handle
        pci = read(n.nvmlDeviceGetPciInfo, handle)
        instances = [_instance(*each) for each in _instances(handle)]
        return {
            "index": index,
            "uuid": n.nvmlDeviceGetUUID(handle),
            "name": n.nvmlDeviceGetName(handle),
            "memory_bytes": n.nvmlDeviceGetMemoryInfo(handle).total,
            "minor": n.nvmlDeviceGetMinorNumber(handle),
            "is_lost": False,
            "is_split": _is_split(handle),
            "instances": [row for row in instances if row],
            "pci_bus_id": pci.busId if pci else "",
        }

    # -- one GPU

    def _sample(self, gpu: _Gpu, at: float) -> Row:
        handle = gpu.handle
        utilisation = read(n.nvmlDeviceGetUtilizationRates, handle)
        power_mw = read(n.nvmlDeviceGetPowerUsage, handle)
        limit_mw = read(n.nvmlDeviceGetEnforcedPowerLimit, handle)
        energy_mj = read(n.nvmlDeviceGetTotalEnergyConsumption, handle)
        ecc = n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC
        values = {
            "utilisation": None if utilisation is None else utilisation.gpu / 100,
            "memory_used_bytes": _memory_used(handle),
            "processes": _processes(handle),
            "temperature_c": _temperature(handle),
            "power_w": None if power_mw is None else power_mw / 1000,
            "power_limit_w": None if limit_mw is None else limit_mw / 1000,
            "energy_j": None if energy_mj is None else energy_mj / 1000,
            "sm": _sm(gpu, at),
            "n_ecc_uncorrected": read(n.nvmlDeviceGetTotalEccErrors, handle, *ecc),
            "recovery": _recovery(handle),
            "remapping": read(n.nvmlDeviceGetRemappedRows, handle),
            "n_nvlinks": self._n_active_links(gpu),
        }
        return {"uuid": gpu.uuid, "at": at} | _known(values)

    def _links(self, gpu: _Gpu) -> list[int]:
        """Return the numbers of the NVLinks that this GPU has, active or not."""
        if gpu.links is not None:
            return gpu.links
        links, is_certain = [], True
        for link in range(n.NVML_NVLINK_MAX_LINKS):
            try:
                n.nvmlDeviceGetNvLinkState(gpu.handle, link)
                links.append(link)
            except n.NVMLError as error:
                if error.value == n.NVML_ERROR_INVALID_ARGUMENT:
                    break
                if error.value in LOST:
                    raise
                is_certain &= error.value in UNSUPPORTED
        if is_certain:
            gpu.links = links
        return links

    def _n_active_links(self, gpu: _Gpu) -> int | None:
        links = self._links(gpu)
        states = [read(n.nvmlDeviceGetNvLinkState, gpu.handle, i) for i in links]
        return None if None in states or not states else sum(states)

    def _remotes(self, gpu: _Gpu) -> list[Any]:
        """Return for every active NVLink the place of its other end, or "switch"."""
        remotes: list[Any] = []
        for link in self._links(gpu):
            if not read(n.nvmlDeviceGetNvLinkState, gpu.handle, link):
                continue
            kind = read(n.nvmlDeviceGetNvLinkRemoteDeviceType, gpu.handle, link)
            if kind == n.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                remotes.append("switch")
            else:
                pci = read(n.nvmlDeviceGetNvLinkRemotePciInfo, gpu.handle, link)
                remotes.append(_place(pci))
        return remotes

    def _numa(self, handle: Any, pci: Any) -> int | None:
        """Return the NUMA node that is near: NVML's memory affinity, else the kernel's.

        Not nvmlDeviceGetNumaNodeId: that is the node which a GPU's own memory *is* on
        machines like Grace Hopper, another one for every GPU.
        """
        scope = n.NVML_AFFINITY_SCOPE_NODE
        words = read(n.nvmlDeviceGetMemoryAffinity, handle, NUMA_WORDS, scope)
        for i, word in enumerate(words or ()):
            if word:
                return int(64 * i + (word & -word).bit_length() - 1)
        if pci is None:
            return None
        name = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
        try:
            with open(f"{self._pci_devices}/{name}/numa_node") as file:
                node = int(file.read())
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None  # -1: the firmware does not say


def count_links(one: tuple[Any, list[Any]], other: tuple[Any, list[Any]]) -> int:
    """Return the NVLinks that join two GPUs.

    Links that end at each other count as the side says that sees more of them. Through
    switches every GPU reaches every other with all its links, so the smaller number of
    the two GPUs' links to switches counts.

    Args:
        one: The GPU's place, and the other ends of its active links.
        other: The same of the other GPU.
    """
    (place, remotes), (other_place, other_remotes) = one, other
    seen = remotes.count(other_place) if other_place else 0
    other_seen = other_remotes.count(place) if place else 0
    switched = min(remotes.count("switch"), other_remotes.count("switch"))
    return max(seen, other_seen) + switched


def _known(values: Row) -> Row:
    return {key: value for key, value in values.items() if value is not None}


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _place(pci: Any) -> tuple[int, int, int] | None:
    """Return what is equal for equal PCI devices, however the id is written."""
    return (pci.domain, pci.bus, pci.device) if pci else None


def _level(one: Any, other: Any) -> int | None:
    try:
        level: int = n.nvmlDeviceGetTopologyCommonAncestor(one, other)
    except n.NVMLError:
        return None
    return level


def _memory_used(handle: Any) -> int | None:
    memory = read(n.nvmlDeviceGetMemoryInfo, handle)
    return int(memory.used) if memory else None


def _temperature(handle: Any) -> int | None:
    sensor = n.NVML_TEMPERATURE_GPU
    degrees = read(n.nvmlDeviceGetTemperatureV, handle, sensor)
    if degrees is None:  # drivers before R570
        degrees = read(n.nvmlDeviceGetTemperature, handle, sensor)
    return None if degrees is None else int(degrees)


def _recovery(handle: Any) -> int | None:
    """Return NVML's number of the recovery action that the GPU needs."""
    fields = [n.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION]
    values = read(n.nvmlDeviceGetFieldValues, handle, fields)
    if not values or values[0].nvmlReturn != n.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal)


def _recovery_or_none(handle: Any) -> int:
    try:
        return _recovery(handle) or n.NVML_GPU_RECOVERY_ACTION_NONE
    except n.NVMLError:
        return int(n.NVML_GPU_RECOVERY_ACTION_NONE)


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


def _sm(gpu: _Gpu, at: float) -> list[list[Any]] | None:
    """Return [PID, SM use] of every process that ran since the last reading.

    It is asked for by the driver's own times: what happened a moment ago is dated a
    second back, so that the time of the last reading would skip some of it.
    """
    if gpu.seen_us > at * 1e6:  # the clock was set back
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
        found[row.pid] = max(found.get(row.pid, 0.0), row.smUtil / PERCENT)
    return [[pid, share] for pid, share in found.items()]


# -- MIG


def _is_split(handle: Any) -> bool:
    mode = read(n.nvmlDeviceGetMigMode, handle)
    return bool(mode) and mode[0] == n.NVML_DEVICE_MIG_ENABLE


def _instances(handle: Any) -> Iterator[tuple[Any, str]]:
    """Yield handle and UUID of every MIG instance. Their indexes have holes."""
    if not _is_split(handle):
        return
    for index in range(read(n.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = read(n.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = part and read(n.nvmlDeviceGetUUID, part)
        if uuid:
            yield part, uuid


def _instance(part: Any, uuid: str) -> Row | None:
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


def _instance_sample(part: Any, uuid: str, at: float) -> Row:
    gpu_instance = read(n.nvmlDeviceGetGpuInstanceId, part)
    values = {
        "memory_used_bytes": _memory_used(part),
        "processes": _processes(part, gpu_instance),
    }
    return {"uuid": uuid, "at": at} | _known(values)


# -- the program


class Output:
    """The lines that this process says, whole ones, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # whatever a library prints is for the log

    def say(self, message: Row) -> None:
        """Write one line; end the process if nobody reads any more."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                os._exit(0)


def answer(reader: Reader, request: Row) -> Row:
    """Return the answer to one request."""
    said: Row = {"id": request["id"]}
    method: Callable[..., Row] = getattr(reader, request["method"])
    try:
        said["result"] = method(**request["arguments"])
    except Absent as error:
        said["absence"] = str(error)
    except Trouble as error:
        said["failure"] = str(error)
    except n.NVMLError as error:
        said["failure"] = f"NVML does not work here: {error}."
    return said


def serve() -> None:
    """Answer requests until stdin ends. Never returns."""
    output, requests = Output(), SimpleQueue[Row]()
    reader = Reader(
        at=lambda index, count: output.say({"at": index, "of": count}),
        report=lambda event: output.say({"event": event}),
    )

    def listen() -> None:
        for line in sys.stdin.buffer:
            requests.put(json.loads(line))
        os._exit(0)  # the hub is gone; a call that hangs must not keep this process

    threading.Thread(target=listen, daemon=True).start()
    while True:
        output.say(answer(reader, requests.get()))


def main() -> int:
    """Serve, or print the devices; exit 1 if the driver does not answer."""
    if "--serve" in sys.argv[1:]:
        serve()
    said = answer(Reader(), {"id": 0, "method": "devices", "arguments": {}})
    devices = said.get("result", {}).get("devices", [])
    reason = said.get("absence") or said.get("failure")
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps({"devices": devices, "reason": reason}) + "\n")
    else:
        lines = [f"GPU {d['index']} ({d['name']})  {d['uuid']}" for d in devices]
        sys.stdout.write("\n".join(lines or [str(reason)]) + "\n")
    return 1 if "failure" in said else 0


if __name__ == "__main__":
    sys.exit(main())
