"""One GPU's NVLinks: which it has, which are active, and where those end."""

from typing import Any

import pynvml as n

from gpuspawner.nvml.calls import LOST, UNSUPPORTED, read
from gpuspawner.nvml.ends import SWITCH, End, Place
from gpuspawner.nvml.gpu import Gpu


def n_active(gpu: Gpu) -> int | None:
    """Return how many of a GPU's links are active; None if unknown or without any."""
    links = _links(gpu)
    states = [read(n.nvmlDeviceGetNvLinkState, gpu.handle, i) for i in links]
    return None if None in states or not states else sum(states)


def ends(gpu: Gpu) -> list[End]:
    """Return for every active link of a GPU what is at its other end."""
    found: list[End] = []
    for link in _links(gpu):
        if not read(n.nvmlDeviceGetNvLinkState, gpu.handle, link):
            continue
        kind = read(n.nvmlDeviceGetNvLinkRemoteDeviceType, gpu.handle, link)
        if kind == n.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            found.append(SWITCH)
        else:
            pci = read(n.nvmlDeviceGetNvLinkRemotePciInfo, gpu.handle, link)
            found.append(place(pci))
    return found


def place(pci: Any) -> Place | None:
    """Return where a PCI device is, None if NVML does not tell."""
    return (pci.domain, pci.bus, pci.device) if pci else None


def _links(gpu: Gpu) -> list[int]:
    """Return the numbers of the links that a GPU has, active or not."""
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
