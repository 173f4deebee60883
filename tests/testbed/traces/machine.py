"""One server's GPUs as the hub's reader sees them: from timelines to sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.model import Device, Lease, LeaseState, Owner, Slot, SlotKind
from gpuspawner.sample import GpuProcess, Sample, Sweep
from gpuspawner.watchdog import Server

from testbed.traces.load import Timeline

START = datetime(2026, 6, 1, 8, tzinfo=UTC)
IDLE_W, LIMIT_W = 50.0, 400.0
GIB = 2**30
CONTEXT_BYTES = GIB // 2
FIRST_PID = 4000
CONTAINER = "c" * 64
LEASE = "ls_trace"


@dataclass(frozen=True)
class Machine:
    """A server and its slots; each slot has a program of its own.

    Attributes:
        timelines: What goes on, slot by slot.
        kind: Devices, or MIG instances of one device.
        hidden: Fields of samples that the driver does not tell.
        stuck: Fields that always say the same.
    """

    timelines: Sequence[Timeline]
    kind: SlotKind = SlotKind.DEVICE
    hidden: frozenset[str] = frozenset()
    stuck: Mapping[str, object] | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What the server holds."""
        n = len(self.timelines)
        if self.kind is SlotKind.MIG:
            device = _device(0)
            return tuple(
                Slot(device, f"MIG-{i}", self.kind, 10 * GIB, "1g.10gb")
                for i in range(n)
            )
        return tuple(
            Slot(_device(i), _device(i).uuid, self.kind, 80 * GIB) for i in range(n)
        )

    @property
    def server(self) -> Server:
        """The server, running."""
        owner = Owner("alice", "")
        lease = Lease(LEASE, owner, self.slots, LeaseState.ACTIVE, since=START)
        return Server(lease, CONTAINER)

    @property
    def uuids(self) -> frozenset[str]:
        """What is held while it runs."""
        return frozenset(
            uuid for slot in self.slots for uuid in (slot.id, slot.device.uuid)
        )

    def sweep(self, at_s: float, since_s: float) -> Sweep:
        """Return the reading at a moment.

        Args:
            at_s: Seconds from the start; negative: before the server was there.
            since_s: Of the reading before.
        """
        samples: dict[str, Sample] = {}
        at = START + timedelta(seconds=at_s)
        is_mig = self.kind is SlotKind.MIG
        for i, (slot, line) in enumerate(zip(self.slots, self.timelines, strict=True)):
            load, pid = line.at(at_s), FIRST_PID + i
            mine = (GpuProcess(pid, CONTEXT_BYTES),) if load.holds else ()
            sm = line.sm(since_s, at_s) if at_s > 0 else 0.0
            read = Sample(
                slot.id,
                at,
                utilisation=None if is_mig else line.utilisation(at_s),
                memory_used_bytes=CONTEXT_BYTES * len(mine),
                processes=mine,
                power_limit_w=LIMIT_W,
                energy_j=self._energy([line], at_s),
                sm=None if is_mig else {pid: sm} if sm > 0 else {},
            )
            samples[slot.id] = self._told(read)
        if is_mig:
            device = _device(0)
            everybody = tuple(p for s in samples.values() for p in s.processes or ())
            whole = Sample(
                device.uuid,
                at,
                memory_used_bytes=sum(
                    s.memory_used_bytes or 0 for s in samples.values()
                ),
                processes=everybody,
                power_limit_w=LIMIT_W,
                energy_j=self._energy(self.timelines, at_s),
            )
            samples[device.uuid] = self._told(whole)
        return Sweep(samples)

    def _energy(self, lines: Sequence[Timeline], at_s: float) -> float:
        """Return a device's counter; on a split one each instance has its part."""
        own = sum(line.energy(at_s) for line in lines) / len(lines)
        return 1e6 + IDLE_W * (at_s + 1e5) + (LIMIT_W - IDLE_W) * own

    def _told(self, sample: Sample) -> Sample:
        hidden: dict[str, object] = dict.fromkeys(self.hidden)
        return replace(sample, **hidden, **(self.stuck or {}))  # type: ignore[arg-type]

    def identities(self) -> dict[int, ProcessIdentity | None]:
        """Who the programs are."""
        return {
            pid: ProcessIdentity(pid, 1, 1000, "python3", "python3", (CONTAINER,), 7)
            for pid in range(FIRST_PID, FIRST_PID + len(self.timelines))
        }

    def cpu_s(self, at_s: float) -> dict[int, float | None]:
        """What CPU time they have used."""
        return {
            FIRST_PID + i: line.cpu_s(at_s) for i, line in enumerate(self.timelines)
        }


def _device(i: int) -> Device:
    return Device(i, f"GPU-{i}", "NVIDIA A100-SXM4-80GB", 80 * GIB, i)
