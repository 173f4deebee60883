"""How a machine's GPUs are joined to each other, and to its NUMA nodes."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import pynvml as n

from gpuspawner.nvml import nvlink
from gpuspawner.nvml.calls import read
from gpuspawner.nvml.ends import End, Place, count_links
from gpuspawner.nvml.gpu import Gpu

PCI_DEVICES = "/sys/bus/pci/devices"
NUMA_WORDS = 16  # of 64 nodes each


class Placed(NamedTuple):
    """A GPU, its place on the PCI bus, and the other ends of its active NVLinks."""

    gpu: Gpu
    place: Place | None
    ends: list[End]


def placed(gpu: Gpu, pci: Any) -> Placed:
    """Return where a GPU is and what it is linked to.

    Raises:
        NVMLError: The GPU is lost.
    """
    return Placed(gpu, nvlink.place(pci), nvlink.ends(gpu))


def links(found: Sequence[Placed]) -> list[list[Any]]:
    """Return for every pair [UUID, UUID, NVML's topology level or None, NVLinks]."""
    return [
        [
            one.gpu.uuid,
            other.gpu.uuid,
            _level(one.gpu.handle, other.gpu.handle),
            count_links((one.place, one.ends), (other.place, other.ends)),
        ]
        for one, other in combinations(found, 2)
    ]


def numa_node(handle: Any, pci: Any, pci_devices: str = PCI_DEVICES) -> int | None:
    """Return the NUMA node that is near: NVML's memory affinity, else the kernel's.

    Not nvmlDeviceGetNumaNodeId: that is the node which a GPU's own memory *is* on
    machines like Grace Hopper, another one for every GPU.

    Args:
        handle: The GPU's.
        pci: What NVML says of its PCI device; None if it refuses.
        pci_devices: Folder in which the kernel describes PCI devices.

    Raises:
        NVMLError: The GPU is lost.
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
        with open(f"{pci_devices}/{name}/numa_node") as file:
            node = int(file.read())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None  # -1: the firmware does not say


def _level(one: Any, other: Any) -> int | None:
    try:
        level: int = n.nvmlDeviceGetTopologyCommonAncestor(one, other)
    except n.NVMLError:
        return None
    return level
