"""All GPUs of one machine: which there are, and what can be asked of them."""

import time
from collections.abc import Callable, Iterable, Iterator

import pynvml as n

from gpuspawner.nvml import mig
from gpuspawner.nvml.calls import Row, read
from gpuspawner.nvml.driver import NO_DRIVER, Absent, initialise
from gpuspawner.nvml.events import Events
from gpuspawner.nvml.gpu import Gpu
from gpuspawner.nvml.sampling import instance_sample, sample
from gpuspawner.nvml.topology import PCI_DEVICES, Placed, links, numa_node, placed


class Reader:
    """Reads the GPUs of one machine. Every method blocks, perhaps for ever.

    NVML is initialised once and kept, and so are the handles of GPUs that answer.
    Every method may raise Absent, Trouble, or NVMLError: NVML does not work here.

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
        self._gpus: dict[int, Gpu] = {}
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
                instances = list(mig.instances(gpu.handle))
                rows = [sample(gpu, at)]
                rows += [instance_sample(*each, at) for each in instances]
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
        refuses is None or 0. See `ends.count_links` for how links are counted.
        """
        found: list[Placed] = []
        numa = {}
        for index in self._indexes(avoid, of):
            try:
                gpu = self._gpu(index)
                pci = read(n.nvmlDeviceGetPciInfo, gpu.handle)
                found.append(placed(gpu, pci))
                node = numa_node(gpu.handle, pci, self._pci_devices)
            except n.NVMLError:
                self._gpus.pop(index, None)
                continue
            if node is not None:
                numa[gpu.uuid] = node
        return {"links": links(found), "numa": numa}

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
        if not self._is_initialised:
            initialise()
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

    def _gpu(self, index: int) -> Gpu:
        gpu = self._gpus.get(index)
        if gpu is None:
            handle = n.nvmlDeviceGetHandleByIndex(index)
            gpu = Gpu(handle, n.nvmlDeviceGetUUID(handle))
            self._gpus[index] = gpu
            self._uuids[index] = gpu.uuid
            if self._events:
                self._events.watch(handle, gpu.uuid)
        return gpu

    def _device(self, index: int) -> Row:
        handle = self._gpu(index).handle
        pci = read(n.nvmlDeviceGetPciInfo, handle)
        instances = [mig.instance(*each) for each in mig.instances(handle)]
        return {
            "index": index,
            "uuid": n.nvmlDeviceGetUUID(handle),
            "name": n.nvmlDeviceGetName(handle),
            "memory_bytes": n.nvmlDeviceGetMemoryInfo(handle).total,
            "minor": n.nvmlDeviceGetMinorNumber(handle),
            "is_lost": False,
            "is_split": mig.is_split(handle),
            "instances": [row for row in instances if row],
            "pci_bus_id": pci.busId if pci else "",
        }
