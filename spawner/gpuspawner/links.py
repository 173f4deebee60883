"""How the devices of a machine are connected, as far as the driver tells."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Path(IntEnum):
    """The PCIe way between two devices, near is larger.

    The names are those of `nvidia-smi topo -m`; NVML calls them system, node,
    hostbridge, multiple, single and internal.
    """

    UNKNOWN = 0
    SYS = 1
    NODE = 2
    PHB = 3
    PXB = 4
    PIX = 5
    BOARD = 6


@dataclass(frozen=True, slots=True)
class Link:
    """What joins two devices.

    Attributes:
        path: See Path.
        n_nvlinks: Active NVLinks, direct or through switches; the larger of what the
            two sides tell.
    """

    path: Path = Path.UNKNOWN
    n_nvlinks: int = 0

    def __str__(self) -> str:
        if self.n_nvlinks:
            return f"NV{self.n_nvlinks}"
        return self.path.name if self.path else "unknown link"


NO_LINK = Link()


@dataclass(frozen=True, slots=True)
class Topology:
    """The links of a machine.

    Attributes:
        links: Two device UUIDs in sorted order -> link; a missing pair is unknown.
        numa: UUID -> NUMA node; a missing UUID is unknown.
    """

    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    numa: Mapping[str, int] = field(default_factory=dict)

    def link(self, one: str, other: str) -> Link:
        """Return what joins two devices, in either order."""
        return self.links.get((min(one, other), max(one, other)), NO_LINK)
