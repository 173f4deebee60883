"""Machines as `nvidia-smi topo -m` and NVML tell them, as plain data."""

from dataclasses import dataclass

from gpuspawner.links import Link, Path, Topology
from gpuspawner.model import Device

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine's GPUs and their links.

    Attributes:
        types: Product name and memory in GiB, for each GPU.
        numa: NUMA node of each GPU.
        paths: Matrix of PCIe paths, a row a GPU.
        nvlinks: Matrix of NVLink counts; or one count for all, behind NVSwitches.
    """

    types: tuple[tuple[str, int], ...]
    numa: tuple[int, ...]
    paths: str
    nvlinks: str | int = 0

    @property
    def devices(self) -> list[Device]:
        """The GPUs; the order of their UUIDs is not that of their indices."""
        return [
            Device(i, f"GPU-{(i * 7 + 3) % 97:08x}", name, memory * GIB, i)
            for i, (name, memory) in enumerate(self.types)
        ]

    @property
    def topology(self) -> Topology:
        """The links, as the probe gives them."""
        uuids = [device.uuid for device in self.devices]
        paths = _rows(self.paths)
        links = {}
        for i, one in enumerate(uuids):
            for j, other in enumerate(uuids):
                n = self.nvlinks
                if isinstance(n, str):
                    n = int(_rows(n)[i][j].replace("X", "0"))
                if one < other:
                    links[one, other] = Link(Path[paths[i][j]], n)
        return Topology(links, dict(zip(uuids, self.numa, strict=True)))


def _rows(matrix: str) -> list[list[str]]:
    return [line.split() for line in matrix.split("\n") if line.strip()]


# A hybrid cube mesh: 0, 1 or 2 NVLinks between two GPUs.
DGX_1V = Machine(
    types=(("Tesla V100-SXM2-16GB", 16),) * 8,
    numa=(0, 0, 0, 0, 1, 1, 1, 1),
    paths="""
        X PIX PHB PHB SYS SYS SYS SYS
        PIX X PHB PHB SYS SYS SYS SYS
        PHB PHB X PIX SYS SYS SYS SYS
        PHB PHB PIX X SYS SYS SYS SYS
        SYS SYS SYS SYS X PIX PHB PHB
        SYS SYS SYS SYS PIX X PHB PHB
        SYS SYS SYS SYS PHB PHB X PIX
        SYS SYS SYS SYS PHB PHB PIX X
    """,
    nvlinks="""
        X 1 1 2 2 0 0 0
        1 X 2 1 0 2 0 0
        1 2 X 2 0 0 1 0
        2 1 2 X 0 0 0 1
        2 0 0 0 X 1 1 2
        0 2 0 0 1 X 2 1
        0 0 1 0 1 2 X 2
        0 0 0 1 2 1 2 X
    """,
)

# Behind NVSwitches.
DGX_2 = Machine(
    types=(("Tesla V100-SXM3-32GB", 32),) * 16,
    numa=(0,) * 8 + (1,) * 8,
    paths="""
        X PIX PXB PXB NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PIX X PXB PXB NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PXB PXB X PIX NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PXB PXB PIX X NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE X PIX PXB PXB SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PIX X PXB PXB SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PXB PXB X PIX SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PXB PXB PIX X SYS SYS SYS SYS SYS SYS SYS SYS
        SYS SYS SYS SYS SYS SYS SYS SYS X PIX PXB PXB NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PIX X PXB PXB NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PXB PXB X PIX NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PXB PXB PIX X NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE X PIX PXB PXB
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PIX X PXB PXB
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PXB PXB X PIX
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PXB PXB PIX X
    """,
    nvlinks=6,
)

# Behind NVSwitches, two GPUs to a NUMA node.
HGX_A100 = Machine(
    types=(("NVIDIA A100-SXM4-80GB", 80),) * 8,
    numa=(3, 3, 1, 1, 7, 7, 5, 5),
    paths="""
        X PXB SYS SYS SYS SYS SYS SYS
        PXB X SYS SYS SYS SYS SYS SYS
        SYS SYS X PXB SYS SYS SYS SYS
        SYS SYS PXB X SYS SYS SYS SYS
        SYS SYS SYS SYS X PXB SYS SYS
        SYS SYS SYS SYS PXB X SYS SYS
        SYS SYS SYS SYS SYS SYS X PXB
        SYS SYS SYS SYS SYS SYS PXB X
    """,
    nvlinks=12,
)

# Behind NVSwitches, each GPU on a host bridge of its own.
HGX_H100 = Machine(
    types=(("NVIDIA H100 80GB HBM3", 80),) * 8,
    numa=(0, 0, 0, 0, 1, 1, 1, 1),
    paths="""
        X NODE NODE NODE SYS SYS SYS SYS
        NODE X NODE NODE SYS SYS SYS SYS
        NODE NODE X NODE SYS SYS SYS SYS
        NODE NODE NODE X SYS SYS SYS SYS
        SYS SYS SYS SYS X NODE NODE NODE
        SYS SYS SYS SYS NODE X NODE NODE
        SYS SYS SYS SYS NODE NODE X NODE
        SYS SYS SYS SYS NODE NODE NODE X
    """,
    nvlinks=18,
)

# PCIe GPUs that bridges of 12 NVLinks join in pairs.
BRIDGED = Machine(
    types=(("NVIDIA A100 80GB PCIe", 80),) * 8,
    numa=(0, 0, 0, 0, 1, 1, 1, 1),
    paths="""
        X PIX PHB PHB SYS SYS SYS SYS
        PIX X PHB PHB SYS SYS SYS SYS
        PHB PHB X PIX SYS SYS SYS SYS
        PHB PHB PIX X SYS SYS SYS SYS
        SYS SYS SYS SYS X PIX PHB PHB
        SYS SYS SYS SYS PIX X PHB PHB
        SYS SYS SYS SYS PHB PHB X PIX
        SYS SYS SYS SYS PHB PHB PIX X
    """,
    nvlinks="""
        X 12 0 0 0 0 0 0
        12 X 0 0 0 0 0 0
        0 0 X 12 0 0 0 0
        0 0 12 X 0 0 0 0
        0 0 0 0 X 12 0 0
        0 0 0 0 12 X 0 0
        0 0 0 0 0 0 X 12
        0 0 0 0 0 0 12 X
    """,
)

# No NVLink; two GPUs behind each PCIe switch.
DUAL_SOCKET = Machine(
    types=(("NVIDIA L40S", 45),) * 8,
    numa=(0, 0, 0, 0, 1, 1, 1, 1),
    paths="""
        X PIX PHB PHB SYS SYS SYS SYS
        PIX X PHB PHB SYS SYS SYS SYS
        PHB PHB X PIX SYS SYS SYS SYS
        PHB PHB PIX X SYS SYS SYS SYS
        SYS SYS SYS SYS X PIX PHB PHB
        SYS SYS SYS SYS PIX X PHB PHB
        SYS SYS SYS SYS PHB PHB X PIX
        SYS SYS SYS SYS PHB PHB PIX X
    """,
)

# Five GPUs, no two alike.
UNLIKE = Machine(
    types=(
        ("NVIDIA A100-PCIE-40GB", 40),
        ("NVIDIA RTX A6000", 48),
        ("NVIDIA GeForce RTX 3090", 24),
        ("Tesla V100-PCIE-16GB", 16),
        ("Tesla T4", 15),
    ),
    numa=(0, 0, 0, 1, 1),
    paths="""
        X NODE NODE SYS SYS
        NODE X NODE SYS SYS
        NODE NODE X SYS SYS
        SYS SYS SYS X NODE
        SYS SYS SYS NODE X
    """,
)

# Bridged pairs of A100 on one socket, T4 on the other.
TWO_TYPES = Machine(
    types=(("NVIDIA A100 80GB PCIe", 80),) * 4 + (("Tesla T4", 15),) * 4,
    numa=(0, 0, 0, 0, 1, 1, 1, 1),
    paths="""
        X PIX PHB PHB SYS SYS SYS SYS
        PIX X PHB PHB SYS SYS SYS SYS
        PHB PHB X PIX SYS SYS SYS SYS
        PHB PHB PIX X SYS SYS SYS SYS
        SYS SYS SYS SYS X PIX PHB PHB
        SYS SYS SYS SYS PIX X PHB PHB
        SYS SYS SYS SYS PHB PHB X PIX
        SYS SYS SYS SYS PHB PHB PIX X
    """,
    nvlinks="""
        X 12 0 0 0 0 0 0
        12 X 0 0 0 0 0 0
        0 0 X 12 0 0 0 0
        0 0 12 X 0 0 0 0
        0 0 0 0 X 0 0 0
        0 0 0 0 0 X 0 0
        0 0 0 0 0 0 X 0
        0 0 0 0 0 0 0 X
    """,
)

# Sixteen PCIe GPUs that bridges of 4 NVLinks join in pairs.
BRIDGED_16 = Machine(
    types=(("NVIDIA A40", 48),) * 16,
    numa=(0,) * 8 + (1,) * 8,
    paths="""
        X PIX PXB PXB NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PIX X PXB PXB NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PXB PXB X PIX NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        PXB PXB PIX X NODE NODE NODE NODE SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE X PIX PXB PXB SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PIX X PXB PXB SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PXB PXB X PIX SYS SYS SYS SYS SYS SYS SYS SYS
        NODE NODE NODE NODE PXB PXB PIX X SYS SYS SYS SYS SYS SYS SYS SYS
        SYS SYS SYS SYS SYS SYS SYS SYS X PIX PXB PXB NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PIX X PXB PXB NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PXB PXB X PIX NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS PXB PXB PIX X NODE NODE NODE NODE
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE X PIX PXB PXB
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PIX X PXB PXB
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PXB PXB X PIX
        SYS SYS SYS SYS SYS SYS SYS SYS NODE NODE NODE NODE PXB PXB PIX X
    """,
    nvlinks="""
        X 4 0 0 0 0 0 0 0 0 0 0 0 0 0 0
        4 X 0 0 0 0 0 0 0 0 0 0 0 0 0 0
        0 0 X 4 0 0 0 0 0 0 0 0 0 0 0 0
        0 0 4 X 0 0 0 0 0 0 0 0 0 0 0 0
        0 0 0 0 X 4 0 0 0 0 0 0 0 0 0 0
        0 0 0 0 4 X 0 0 0 0 0 0 0 0 0 0
        0 0 0 0 0 0 X 4 0 0 0 0 0 0 0 0
        0 0 0 0 0 0 4 X 0 0 0 0 0 0 0 0
        0 0 0 0 0 0 0 0 X 4 0 0 0 0 0 0
        0 0 0 0 0 0 0 0 4 X 0 0 0 0 0 0
        0 0 0 0 0 0 0 0 0 0 X 4 0 0 0 0
        0 0 0 0 0 0 0 0 0 0 4 X 0 0 0 0
        0 0 0 0 0 0 0 0 0 0 0 0 X 4 0 0
        0 0 0 0 0 0 0 0 0 0 0 0 4 X 0 0
        0 0 0 0 0 0 0 0 0 0 0 0 0 0 X 4
        0 0 0 0 0 0 0 0 0 0 0 0 0 0 4 X
    """,
)

SMALL = {
    "DGX-1V": DGX_1V,
    "HGX A100": HGX_A100,
    "HGX H100": HGX_H100,
    "8 x PCIe, bridged": BRIDGED,
    "dual-socket PCIe": DUAL_SOCKET,
    "unlike": UNLIKE,
    "two types": TWO_TYPES,
}
LARGE = {"DGX-2": DGX_2, "16 x PCIe, bridged": BRIDGED_16}
