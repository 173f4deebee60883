"""How leased GPUs are connected: NVLink, NVSwitch, or a level of PCIe."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torchroom_welcome.facts import Device
from torchroom_welcome.gpus import nvml_session
from torchroom_welcome.panel import Note, Table

# NVML's common-ancestor levels, with the short names that `nvidia-smi topo -m` uses.
_PCIE_LEVELS = {
    0: "PCIe, on one board (PIX)",
    10: "PCIe, one switch (PIX)",
    20: "PCIe, several switches (PXB)",
    30: "PCIe, through the CPU (PHB)",
    40: "PCIe, one NUMA node (NODE)",
    50: "PCIe, between CPU sockets (SYS)",
}


@dataclass(frozen=True)
class Link:
    """What NVML says about one pair; None means it would not tell."""

    a: Device
    b: Device
    nvlinks: int = 0
    through_nvswitch: bool = False
    pcie_level: int | None = None
    peer_access: bool | None = None


def name(link: Link) -> str:
    """A name for people, fastest way first."""
    if link.nvlinks:
        count = "1 link" if link.nvlinks == 1 else f"{link.nvlinks} links"
        return f"{'NVSwitch' if link.through_nvswitch else 'NVLink'}, {count}"
    if link.pcie_level is None:
        return "not known"
    return _PCIE_LEVELS.get(link.pcie_level, f"PCIe, level {link.pcie_level}")


def table(links: tuple[Link, ...]) -> Table:
    """One row per pair; people are shown the index."""
    access = {True: "yes", False: "no", None: "not known"}
    return Table(
        ("Between", "Link", "Peer access"),
        tuple(
            (
                f"GPU {one.a.index} and GPU {one.b.index}",
                name(one),
                access[one.peer_access],
            )
            for one in links
        ),
    )


def advice(links: tuple[Link, ...]) -> Note:
    """What the links mean for training on several GPUs."""
    if links and all(one.nvlinks for one in links):
        return Note("good", "NVLink between all of them: good for large models.")
    if any(one.peer_access is False for one in links):
        text = "Some pairs copy through the CPU's memory: prefer fewer, larger batches."
        return Note("info", text)
    return Note("info", "DistributedDataParallel hides most of the time of copying.")


def pairs(devices: tuple[Device, ...]) -> list[tuple[Device, Device]]:
    """Every pair once, in the order of the lease."""
    return list(combinations(devices, 2))


def look_links(devices: tuple[Device, ...]) -> tuple[Link, ...]:
    """Every pair of leased devices; raises ``gpus.NvmlUnavailable``."""
    with nvml_session() as nvml:
        handles = {d.uuid: nvml.nvmlDeviceGetHandleByUUID(d.uuid) for d in devices}
        return tuple(
            _look_pair(nvml, a, b, handles[a.uuid], handles[b.uuid])
            for a, b in pairs(devices)
        )


def _look_pair(nvml: Any, a: Device, b: Device, handle_a: Any, handle_b: Any) -> Link:
    direct, switched = _nvlinks(nvml, handle_a, handle_b)
    level = _ask(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, handle_a, handle_b)
    # NVML_P2P_CAPS_INDEX_READ, which nvidia-ml-py defines as a tuple by mistake.
    peer = _ask(nvml, nvml.nvmlDeviceGetP2PStatus, handle_a, handle_b, 0)
    return Link(
        a,
        b,
        nvlinks=direct or switched,
        through_nvswitch=not direct and switched > 0,
        pcie_level=level,
        peer_access=None if peer is None else peer == nvml.NVML_P2P_STATUS_OK,
    )


def _nvlinks(nvml: Any, handle_a: Any, handle_b: Any) -> tuple[int, int]:
    """(links from a straight to b, links that both have to an NVSwitch)."""
    bus_b = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle_b)
    direct, switched_a = 0, 0
    for number in _active_links(nvml, handle_a):
        if _to_switch(nvml, handle_a, number):
            switched_a += 1
            continue
        far = _ask(nvml, nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle_a, number)
        if far is not None and bus_b is not None and _place(far) == _place(bus_b):
            direct += 1
    switched_b = sum(
        _to_switch(nvml, handle_b, number) for number in _active_links(nvml, handle_b)
    )
    return direct, min(switched_a, switched_b)


def _active_links(nvml: Any, handle: Any) -> list[int]:
    enabled = nvml.NVML_FEATURE_ENABLED
    return [
        number
        for number in range(nvml.NVML_NVLINK_MAX_LINKS)
        if _ask(nvml, nvml.nvmlDeviceGetNvLinkState, handle, number) == enabled
    ]


def _to_switch(nvml: Any, handle: Any, number: int) -> bool:
    # Absent from old nvidia-ml-py, which also predates most NVSwitch machines.
    ask = getattr(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", None)
    kind = _ask(nvml, ask, handle, number) if ask else None
    return kind is not None and kind == getattr(
        nvml, "NVML_NVLINK_DEVICE_TYPE_SWITCH", 2
    )


def _place(pci: Any) -> tuple[int, int, int]:
    return pci.domain, pci.bus, pci.device


def _ask(nvml: Any, question: Any, *about: Any) -> Any:
    """NVML's answer, or None: a GPU without NVLink answers 'not supported'."""
    try:
        return question(*about)
    except nvml.NVMLError:
        return None
