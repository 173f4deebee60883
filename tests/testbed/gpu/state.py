"""What the simulated GPUs are and do: the file that the stand-in NVML reads.

``GpuState(path, hgx_a100())`` describes machines; its methods change them, and every
change is seen by running programs at their next NVML call. The file is replaced by a
rename, so a reader sees the old state or the new one, never a half.

The format is one record a line, ``kind key=value ...``, values percent-encoded.
"""

import contextlib
import fcntl
import os
import tempfile
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

GIB = 1024**3
MIB = 1024**2
SIMULATED = " (simulated)"
# NVML codes that tests script most (nvml.h has them all).
NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED, UNKNOWN = 3, 4, 15, 16, 999
FUNCTION_NOT_FOUND = 13
XID_EVENT, RECOVERY_EVENT = 0x8, 0x8000
# What nvml.c has room for; more would be dropped there in silence.
_LIMITS = {"gpu": 32, "mig": 224, "proc": 512, "event": 256, "fault": 64}
_BYTES_MAX = 1024**2
_T = TypeVar("_T")


@dataclass
class NvLink:
    """``count`` links of GPU ``uuid`` to ``peer`` (a UUID, or "switch")."""

    uuid: str
    peer: str = "switch"
    count: int = 1
    down: int = 0


@dataclass
class Mig:
    """A MIG instance of the GPU with the UUID ``gpu``."""

    gpu: str
    uuid: str
    index: int
    gi: int
    ci: int = 0
    name: str = ""
    mem: int = 10 * GIB
    sms: int = 14
    slices: int = 1


@dataclass
class Gpu:
    """A GPU as NVML tells it; bytes, milliwatts, millijoules, degrees C, percent.

    ``path`` is numa/hostbridge[/switch...]: the common head of two paths is their
    PCIe topology level. ``mig`` is -1 (cannot), 0 (off) or 1 (on); ``since`` (epoch
    microseconds) lets the energy counter run with the power from then on. ``recovery``
    is what field 230 answers, -1 for a driver that does not know it.
    """

    uuid: str
    name: str
    index: int = 0
    minor: int = 0
    pci: str = "00000000:00:00"
    path: str = "0/0"
    board: str = ""
    serial: str = ""
    numa: int = 0
    cpus: str = "-1"
    cc: str = "8.0"
    brand: int = 14
    pciid: int = 0x20B510DE
    mem: int = 80 * GIB
    reserved: int = 600 * MIB
    used: int = 0
    util: int = 0
    memutil: int = 0
    temp: int = 32
    power: int = 55_000
    limit: int = 300_000
    energy: int = 0
    since: int = 0
    clock: int = 1410
    throttle: int = 0
    mig: int = -1
    migmax: int = 7
    lost: int = 0
    persistence: int = 1
    computemode: int = 0
    nvlinkver: int = 0
    ecc: int = 1
    sbe_vol: int = 0
    dbe_vol: int = 0
    sbe_agg: int = 0
    dbe_agg: int = 0
    remap_cor: int = 0
    remap_unc: int = 0
    remap_pending: int = 0
    remap_failure: int = 0
    retired_pending: int = 0
    recovery: int = 0
    links: list[NvLink] = field(default_factory=list)
    migs: list[Mig] = field(default_factory=list)


@dataclass
class Process:
    """A process that NVML reports on a GPU or MIG instance.

    With ``live`` it is reported only while the host has a process with this PID. A
    ``mem`` of -1 is "not available", as some drivers say. ``sm`` is the percent of the
    SMs' time that it uses, ``enc`` and ``dec`` of the video engines'; ``ran`` is when
    it last stopped using the SMs (epoch microseconds), and ``ransm`` what it used until
    then.
    """

    uuid: str
    pid: int
    mem: int = 0
    sm: int = 0
    enc: int = 0
    dec: int = 0
    memutil: int = 0
    ran: int = 0
    ransm: int = 0
    kind: str = "compute"
    live: int = 0


@dataclass
class Event:
    """Something that event sets deliver once, in the order of ``seq``.

    ``gi`` is the GPU instance concerned, -1 for the whole GPU.
    """

    uuid: str
    seq: int
    type: int = XID_EVENT
    data: int = 0
    gi: int = -1


@dataclass
class Fault:
    """A scripted answer: wait ``delay_ms``, then return ``code`` if it is not 0."""

    fn: str = "*"
    uuid: str = "*"
    code: int = 0
    delay_ms: int = 0


@dataclass
class System:
    """The driver."""

    driver: str = "550.163.01"
    nvml: str = "12.550.163.01"
    cuda: int = 12040
    mismatch: int = 0
    nodriver: int = 0


def _line(kind: str, item: object) -> str:
    words = [kind]
    for each in fields(item):  # type: ignore[arg-type]
        value = getattr(item, each.name)
        if not isinstance(value, list):
            words.append(f"{each.name}={quote(str(value), safe='/:.-*')}")
    return " ".join(words)


def _item(kind: Callable[..., _T], words: Sequence[str]) -> _T:
    values: dict[str, Any] = {}
    types = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    for word in words:
        key, _, text = word.partition("=")
        value = unquote(text)
        values[key] = int(value) if types[key] is int else value
    return kind(**values)


class GpuState:
    """The state of all simulated GPUs of one machine, kept in one file.

    Every method that changes something writes the file at once. Two programs that
    change the same file take turns with ``edit``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        gpus: Sequence[Gpu] = (),
        *,
        system: System | None = None,
    ) -> None:
        self.path = Path(path)
        self.gpus = list(gpus)
        self.system = system or System()
        self.processes: list[Process] = []
        self.events: list[Event] = []
        self.faults: list[Fault] = []

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "GpuState":
        """Read what ``write`` wrote, by this process or another."""
        state = cls(path)
        for line in Path(path).read_text().splitlines():
            kind, *words = line.split() or ["#"]
            match kind:
                case "system":
                    state.system = _item(System, words)
                case "gpu":
                    state.gpus.append(_item(Gpu, words))
                case "nvlink":
                    link = _item(NvLink, words)
                    state.gpu(link.uuid).links.append(link)
                case "mig":
                    mig = _item(Mig, words)
                    state.gpu(mig.gpu).migs.append(mig)
                case "proc":
                    state.processes.append(_item(Process, words))
                case "event":
                    state.events.append(_item(Event, words))
                case "fault":
                    state.faults.append(_item(Fault, words))
        return state

    def text(self) -> str:
        """Give the file's contents."""
        records: dict[str, Sequence[object]] = {
            "system": [self.system],
            "gpu": self.gpus,
            "nvlink": [link for gpu in self.gpus for link in gpu.links],
            "mig": [mig for gpu in self.gpus for mig in gpu.migs],
            "proc": self.processes,
            "event": self.events[-_LIMITS["event"] :],
            "fault": self.faults,
        }
        for kind, items in records.items():
            if len(items) > _LIMITS.get(kind, len(items)):
                raise ValueError(f"more than {_LIMITS[kind]} {kind} records")
        lines = [_line(kind, item) for kind, items in records.items() for item in items]
        text = "\n".join(["# Simulated GPUs; see state.py.", *lines, ""])
        if len(text) > _BYTES_MAX:
            raise ValueError("the state is too long for nvml.c")
        return text

    def write(self) -> None:
        """Replace the file in one step."""
        text = self.text()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self.path.parent, prefix=".state-")
        with os.fdopen(fd, "w") as file:
            file.write(text)
        Path(name).chmod(0o644)  # containers read it as any user
        Path(name).replace(self.path)

    # -- what there is

    @property
    def uuids(self) -> list[str]:
        """The UUIDs of all GPUs, in the order of their indexes."""
        return [gpu.uuid for gpu in self.gpus]

    @property
    def mig_uuids(self) -> list[str]:
        """The UUIDs of all MIG instances."""
        return [mig.uuid for gpu in self.gpus for mig in gpu.migs]

    def gpu(self, uuid: str) -> Gpu:
        """Give the GPU; KeyError if there is none."""
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise KeyError(uuid)

    # -- what happens to it

    def change(self, uuid: str, **values: int | str) -> None:
        """Set fields of a GPU; the energy used so far is kept."""
        gpu = self.gpu(uuid)
        if gpu.since:
            now = time.time_ns() // 1000
            gpu.energy += gpu.power * ((now - gpu.since) // 1000) // 1000
            gpu.since = now
        for key, value in values.items():
            if not hasattr(gpu, key):
                raise AttributeError(key)
            setattr(gpu, key, value)
        self.write()

    def lose(self, uuid: str) -> None:
        """Let the GPU fall off the bus: it still counts, and every call fails."""
        self.change(uuid, lost=1)

    def restore(self, uuid: str) -> None:
        """Bring a lost GPU back."""
        self.change(uuid, lost=0)

    def set_utilisation(
        self, uuid: str, gpu: int, memory: int = 0, *, power: int | None = None
    ) -> None:
        """Set percent busy; power follows it unless given (milliwatts)."""
        limit = self.gpu(uuid).limit
        idle = min(55_000, limit)
        if power is None:
            power = idle + (limit - idle) * gpu // 100
        self.change(uuid, util=gpu, memutil=memory, power=power)

    def process(
        self,
        uuid: str,
        pid: int,
        mem: int,
        *,
        sm: int = 0,
        enc: int = 0,
        dec: int = 0,
        kind: str = "compute",
        live: bool = False,
    ) -> None:
        """Let a process use a GPU or MIG instance; again changes it.

        What it used of the SMs until it is set to 0 is still told once, as by a driver.
        """
        if uuid not in self.uuids and uuid not in self.mig_uuids:
            raise KeyError(uuid)
        if kind not in {"compute", "graphics", "mps"}:
            raise ValueError(kind)
        same = (uuid, pid, kind)
        found = Process(uuid, pid, mem, sm, enc, dec, kind=kind, live=int(live))
        for old in [p for p in self.processes if (p.uuid, p.pid, p.kind) == same]:
            self.processes.remove(old)
            found.ran, found.ransm = old.ran, old.ransm
            if old.sm and not sm:
                found.ran, found.ransm = time.time_ns() // 1000, old.sm
        self.processes.append(found)
        self.write()

    def end_process(self, pid: int) -> None:
        """Take the process from every GPU."""
        self.processes = [p for p in self.processes if p.pid != pid]
        self.write()

    def xid(self, uuid: str, code: int, *, gi: int = -1) -> None:
        """Raise the driver's error event with this XID."""
        self.event(uuid, XID_EVENT, code, gi=gi)

    def event(self, uuid: str, kind: int, data: int = 0, *, gi: int = -1) -> None:
        """Deliver an event once to every event set that waits for it."""
        seq = 1 + max((event.seq for event in self.events), default=0)
        self.events.append(Event(self.gpu(uuid).uuid, seq, kind, data, gi))
        self.events = self.events[-_LIMITS["event"] :]
        self.write()

    def need_recovery(self, uuid: str, action: int) -> None:
        """Ask for a recovery action (field 230) and raise its event."""
        self.gpu(uuid).recovery = action
        self.event(uuid, RECOVERY_EVENT)

    def fault(
        self, fn: str, uuid: str | None = None, *, code: int = 0, delay_ms: int = 0
    ) -> None:
        """Script a function's answer ("*": all of them) for one GPU or for all.

        A hang is a long ``delay_ms``; it ends at once when the fault is cleared.
        Functions that take no GPU are reached only with ``uuid=None``.
        """
        self.faults.append(Fault(fn, uuid or "*", code, delay_ms))
        self.write()

    def clear_faults(self) -> None:
        """Forget all scripted answers."""
        self.faults = []
        self.write()

    def driver(self, *, mismatch: bool = False, loaded: bool = True) -> None:
        """Let new processes meet an upgraded (mismatch) or missing driver."""
        self.system.mismatch = int(mismatch)
        self.system.nodriver = int(not loaded)
        self.write()


@contextlib.contextmanager
def edit(path: str | os.PathLike[str]) -> Iterator[GpuState]:
    """Load the state for changes while no other ``edit`` of it runs."""
    with Path(f"{os.fspath(path)}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = GpuState.load(path)
        yield state
        state.write()


# -- presets: machines that exist, with their real link matrices


def _uuid(prefix: str, *parts: object) -> str:
    name = "/".join(["torchroom-simulated-gpu", *map(str, parts)])
    return f"{prefix}-{uuids.uuid5(uuids.NAMESPACE_URL, name)}"


def _gpu(machine: str, index: int, name: str, **values: Any) -> Gpu:
    values.setdefault("pci", f"00000000:{0x10 + 8 * index:02X}:00")
    values.setdefault("path", f"0/{index}")
    values["numa"] = int(str(values["path"]).split("/")[0])
    values.setdefault("serial", f"{1320900000000 + index}")
    return Gpu(
        uuid=_uuid("GPU", machine, index),
        name=name + SIMULATED,
        index=index,
        minor=index,
        **values,
    )


_V100 = {
    "cc": "7.0", "brand": 2, "mem": 16 * GIB, "limit": 300_000, "clock": 1530,
    "nvlinkver": 2, "pciid": 0x1DB110DE, "mig": -1, "reserved": 300 * MIB,
}  # fmt: skip
_A100_SXM = {"limit": 400_000, "nvlinkver": 3, "pciid": 0x20B210DE, "mig": 0}
_H100_SXM = {
    "cc": "9.0", "mem": 81559 * MIB, "limit": 700_000, "clock": 1980,
    "nvlinkver": 4, "pciid": 0x233010DE, "mig": 0,
}  # fmt: skip


def _switched(gpu: Gpu, links: int) -> Gpu:
    gpu.links.append(NvLink(gpu.uuid, "switch", links))
    return gpu


def _joined(gpus: list[Gpu], pairs: dict[tuple[int, int], int]) -> list[Gpu]:
    """Put ``count`` links between each pair, seen from both ends."""
    for (a, b), count in pairs.items():
        gpus[a].links.append(NvLink(gpus[a].uuid, gpus[b].uuid, count))
        gpus[b].links.append(NvLink(gpus[b].uuid, gpus[a].uuid, count))
    return gpus


def simple(count: int) -> list[Gpu]:
    """Independent PCIe GPUs, no NVLink, nobody closer to anybody."""
    return [_gpu("simple", i, "NVIDIA A100 80GB PCIe", mig=0) for i in range(count)]


def dgx1v() -> list[Gpu]:
    """Eight V100 in a hybrid cube mesh: 0, 1 or 2 links between two of them."""
    buses = ("06", "07", "0A", "0B", "85", "86", "89", "8A")
    gpus = [
        _gpu(
            "dgx1v",
            i,
            "Tesla V100-SXM2-16GB",
            pci=f"00000000:{bus}:00",
            path=f"{i // 4}/{i // 4}/{i // 2}",
            **_V100,
        )
        for i, bus in enumerate(buses)
    ]
    half = {(0, 1): 1, (0, 2): 1, (0, 3): 2, (1, 2): 2, (1, 3): 1, (2, 3): 2}
    pairs = half | {(a + 4, b + 4): count for (a, b), count in half.items()}
    return _joined(gpus, pairs | {(0, 4): 2, (1, 5): 2, (2, 6): 1, (3, 7): 1})


def dgx2() -> list[Gpu]:
    """Sixteen V100 behind NVSwitches."""
    buses = [
        "34",
        "36",
        "39",
        "3B",
        "57",
        "59",
        "5C",
        "5E",
        "B7",
        "B9",
        "BC",
        "BE",
        "E0",
        "E2",
        "E5",
        "E7",
    ]
    values = _V100 | {"mem": 32 * GIB, "limit": 350_000, "pciid": 0x1DB810DE}
    return [
        _switched(
            _gpu(
                "dgx2",
                i,
                "Tesla V100-SXM3-32GB",
                pci=f"00000000:{bus}:00",
                path=f"{i // 8}/{i // 4}/{i // 4}/{i // 2}",
                **values,
            ),
            6,
        )
        for i, bus in enumerate(buses)
    ]


def hgx_a100() -> list[Gpu]:
    """Eight A100 behind NVSwitches; PCIe pairs on four NUMA nodes."""
    buses = ("07", "0F", "47", "4E", "87", "90", "B7", "BD")
    nodes = (3, 3, 1, 1, 7, 7, 5, 5)
    return [
        _switched(
            _gpu(
                "hgx_a100",
                i,
                "NVIDIA A100-SXM4-80GB",
                pci=f"00000000:{bus}:00",
                path=f"{node}/0/0/{i % 2}",
                cpus=f"{node * 16}-{node * 16 + 15}",
                **_A100_SXM,
            ),
            12,
        )
        for i, (bus, node) in enumerate(zip(buses, nodes, strict=True))
    ]


def hgx_h100() -> list[Gpu]:
    """Eight H100 behind NVSwitches, each on its own host bridge."""
    buses = ("1B", "43", "52", "61", "9D", "C3", "D1", "DF")
    return [
        _switched(
            _gpu(
                "hgx_h100",
                i,
                "NVIDIA H100 80GB HBM3",
                pci=f"00000000:{bus}:00",
                path=f"{i // 4}/{i}/{i}",
                cpus=f"{i // 4 * 56}-{i // 4 * 56 + 55}",
                **_H100_SXM,
            ),
            18,
        )
        for i, bus in enumerate(buses)
    ]


def _two_sockets(machine: str, name: str, **values: Any) -> list[Gpu]:
    return [
        _gpu(machine, i, name, path=f"{i // 4}/{i // 4}/{i // 2}", **values)
        for i in range(8)
    ]


def pcie8_bridged() -> list[Gpu]:
    """Eight PCIe A100 on two sockets; NVLink bridges join them in pairs."""
    values = {"mig": 0, "nvlinkver": 3}
    gpus = _two_sockets("pcie8_bridged", "NVIDIA A100 80GB PCIe", **values)
    return _joined(gpus, {(i, i + 1): 12 for i in range(0, 8, 2)})


def dual_socket_pcie() -> list[Gpu]:
    """Eight L40S on two sockets, two behind each PCIe switch, no NVLink."""
    values = {"cc": "8.9", "mem": 46068 * MIB, "limit": 350_000, "pciid": 0x26B910DE}
    return _two_sockets("dual_socket_pcie", "NVIDIA L40S", **values)


def mixed() -> list[Gpu]:
    """Five unlike GPUs, as a department collects them."""
    a100, rtx, geforce, volta, turing = range(5)
    no_ecc = {"ecc": -1, "persistence": 0}
    return [
        _gpu("mixed", a100, "NVIDIA A100-PCIE-40GB", mem=40 * GIB, mig=0),
        _gpu("mixed", rtx, "NVIDIA RTX A6000", cc="8.6", mem=48 * GIB),
        _gpu(
            "mixed", geforce, "NVIDIA GeForce RTX 3090",
            cc="8.6", brand=5, mem=24 * GIB, limit=350_000, **no_ecc,
        ),
        _gpu("mixed", volta, "Tesla V100-PCIE-16GB", path="1/3", **_V100),
        _gpu(
            "mixed", turing, "Tesla T4",
            cc="7.5", brand=2, mem=15360 * MIB, limit=70_000, path="1/4",
        ),
    ]  # fmt: skip


def mig() -> list[Gpu]:
    """Two A100: the first whole, the second cut into 3g+2g+1g+1g, indexes sparse."""
    whole, cut = (
        _gpu("mig", i, "NVIDIA A100-SXM4-80GB", **_A100_SXM) for i in range(2)
    )
    cut.mig = 1
    shapes = ((0, 2, 3, 40), (1, 3, 2, 20), (3, 9, 1, 10), (4, 10, 1, 10))
    for index, gi, slices, gib in shapes:
        cut.migs.append(
            Mig(
                gpu=cut.uuid,
                uuid=_uuid("MIG", "mig", 1, index),
                index=index,
                gi=gi,
                name=f"NVIDIA A100-SXM4-80GB MIG {slices}g.{gib}gb{SIMULATED}",
                mem=gib * GIB,
                sms=14 * slices,
                slices=slices,
            )
        )
    return [whole, cut]


PRESETS: dict[str, Callable[[], list[Gpu]]] = {
    "dgx1v": dgx1v,
    "dgx2": dgx2,
    "hgx_a100": hgx_a100,
    "hgx_h100": hgx_h100,
    "pcie8_bridged": pcie8_bridged,
    "dual_socket_pcie": dual_socket_pcie,
    "mixed": mixed,
    "mig": mig,
}
