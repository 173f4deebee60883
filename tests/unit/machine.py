"""A machine in memory for tests of host.py and rounds.py: its engine and its GPUs."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from gpuspawner import container as c
from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.clock import Clock
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown, ProbeFailed
from gpuspawner.host import Host
from gpuspawner.links import Topology
from gpuspawner.model import Container, Device, Lease, Owner, SlotRequest
from gpuspawner.policy import Policy
from gpuspawner.ports import Meter
from gpuspawner.processes import Processes
from gpuspawner.sample import Event, GpuProcess, Sample, Sweep
from unit.meters import Clocks

HUB = "test"
GIB = 2**30
LOG = logging.getLogger("test")


def device(index: int) -> Device:
    """A GPU."""
    return Device(index, f"GPU-{index}", "A100", 80 * GIB, index)


class FakeEngine:
    """Containers in a dict. `gate` holds stops up until it is set."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.check_gate = asyncio.Event()
        self.check_gate.set()
        self.is_down = False
        self.n_failing = 0  # stops that fail before one works
        self.deaths: dict[str, datetime] = {}  # that the engine remembers, by lease
        self.status = 0
        self.wall: Callable[[], datetime] = lambda: datetime.now(UTC)

    def make(self, lease: Lease, *, running: bool = True) -> Container:
        """A container of ours for a lease."""
        name = f"{HUB}-{lease.owner.user}"
        status = "running" if running else "created"
        labels = c.labels(HUB, lease, name)
        started_at = self.wall() if running else None
        made = Container(
            f"id-{lease.id}", name, status, labels=labels, started_at=started_at
        )
        self.containers[made.id] = made
        return made

    def named(self, *what: str) -> list[tuple[Any, ...]]:
        """The calls of these methods."""
        return [call for call in self.calls if call[0] in what]

    async def list(self) -> list[Container]:
        self.calls.append(("list",))
        await asyncio.sleep(0)
        if self.is_down:
            raise EngineUnknown("down")
        return list(self.containers.values())

    async def inspect(self, name: str) -> Container | None:
        self.calls.append(("inspect", name))
        await asyncio.sleep(0)
        found = (x for x in self.containers.values() if name in {x.id, x.name})
        return next(found, None)

    async def stop(self, name: str, *, timeout_s: int = 10) -> Container | None:
        self.calls.append(("stop", name, timeout_s))
        await self.gate.wait()
        if self.n_failing:
            self.n_failing -= 1
            raise EngineUnknown("down")
        found = await self.inspect(name)
        if found is not None and found.is_running:
            found = replace(found, status="exited", finished_at=self.wall())
            self.containers[found.id] = found
        return found

    async def remove(self, name: str) -> None:
        self.calls.append(("remove", name))
        await asyncio.sleep(0)
        self.containers.pop(name, None)

    async def died_at(self, labels: Mapping[str, str]) -> datetime | None:
        self.calls.append(("died_at", dict(labels)))
        await asyncio.sleep(0)
        if self.is_down:
            raise EngineUnknown("down")
        return self.deaths.get(labels[c.LEASE])

    async def run_check(
        self, name: str, command: Sequence[str], *, user: str = "0"
    ) -> int:
        self.calls.append(("run_check", name, tuple(command), user))
        await self.check_gate.wait()
        if name not in self.containers:
            raise EngineRefused("no such container", 404)
        return self.status

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, *args))
        return {}


class FakeProbe:
    """GPUs that are idle unless a test says otherwise."""

    def __init__(self, n_devices: int) -> None:
        self.devices = tuple(device(i) for i in range(n_devices))
        self.processes: dict[str, tuple[GpuProcess, ...]] = {}
        self.utilisation: dict[str, float] = {}
        self.watts: dict[str, float] = {}  # of GPUs that tell how busy they are
        self.joules: dict[str, float] = {}
        self.used: dict[str, int] = {}  # bytes of memory
        self.read_at = datetime.now(UTC)
        self.events: list[Event] = []
        self.absence: str | None = None
        self.why = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.n_sweeps = 0

    async def list_devices(self) -> tuple[Device, ...]:
        await self.gate.wait()
        if self.why:
            raise ProbeFailed(self.why)
        return self.devices

    async def topology(self) -> Topology:
        return Topology()

    async def sweep(self) -> Sweep:
        self.n_sweeps += 1
        await self.gate.wait()
        if self.why:
            raise ProbeFailed(self.why)
        now = datetime.now(UTC)
        events, self.events = tuple(self.events), []
        passed_s, self.read_at = (now - self.read_at).total_seconds(), now
        for uuid, watts in self.watts.items():
            self.joules[uuid] = self.joules.get(uuid, 0.0) + watts * passed_s
        samples = {d.uuid: self._sample(d.uuid, now) for d in self.devices}
        return Sweep(samples, events)

    def _sample(self, uuid: str, now: datetime) -> Sample:
        processes = self.processes.get(uuid, ())
        used = self.used.get(uuid, 0)
        sample = Sample(uuid, now, memory_used_bytes=used, processes=processes)
        if uuid not in self.watts:
            return sample
        return replace(
            sample,
            utilisation=self.utilisation.get(uuid, 0.0),
            power_limit_w=400.0,
            energy_j=self.joules[uuid],
            sm={},
        )

    async def limit_memory(
        self,
        uuid: str,  # noqa: ARG002 - the port's signature
        cgroup: str,  # noqa: ARG002
        limit_bytes: int,  # noqa: ARG002
    ) -> int | None:
        return None


class FakeProcesses(Processes):
    """A process table in a dict."""

    table: dict[int, ProcessIdentity]
    used_s: dict[int, float]
    is_whole: bool

    def __init__(self) -> None:
        object.__setattr__(self, "table", {})
        object.__setattr__(self, "used_s", {})
        object.__setattr__(self, "is_whole", True)

    @property
    def is_hosts(self) -> bool:
        return self.is_whole

    def identify(self, pid: int) -> ProcessIdentity | None:
        return self.table.get(pid)

    def cpu_s(self, identity: ProcessIdentity) -> float | None:
        return self.used_s.get(identity.pid)


def process(pid: int, *containers: str, name: str = "python3") -> ProcessIdentity:
    """Somebody's process."""
    return ProcessIdentity(pid, 100 + pid, 1000, name, name, containers, 7)


class Machine:
    """A hub's host on a fake engine and fake GPUs."""

    def __init__(
        self,
        folder: Path,
        n_devices: int = 2,
        meter: Meter | None = None,
        clocks: Clocks | None = None,
        **policy: Any,
    ) -> None:
        self.folder = folder
        self.meter = meter
        self.clocks = clocks
        self.engine = FakeEngine()
        self.probe = FakeProbe(n_devices)
        self.policy = Policy(state_dir=folder, **policy)
        self.processes = FakeProcesses()
        self.hosts: list[Host] = []
        self.host = self._host()

    def _host(self) -> Host:
        host = Host(
            HUB,
            cast("DockerEngine", self.engine),
            self.probe,
            LOG,
            self.policy,
            meter=self.meter,
        )
        host.rounds._processes = self.processes
        if clocks := self.clocks:
            self.engine.wall = lambda: clocks.wall
            clock = Clock(self.folder / "clock.json", LOG, clocks.read)
            host.metering._clock = host.metering.closing._clock = clock
        self.hosts.append(host)
        return host

    def restart(self) -> Host:
        """A new hub on the same machine, without its loops."""
        self.host = self._host()
        return self.host

    async def settle(self) -> None:
        """Read containers and GPUs once, as the loops do."""
        await self.host.reconcile()
        await self.host.look_round()

    def lease(self, user: str, n: int = 1, **request: Any) -> Lease:
        """A lease whose start has not come further yet, claimed by its spawner."""
        lease = self.host.pool.acquire(
            f"ls_{user}", Owner(user, ""), SlotRequest(n, **request), datetime.now(UTC)
        )
        self.host.claims.add(lease.id)
        return lease

    def server(self, user: str, n: int = 1, **request: Any) -> Lease:
        """A running server."""
        lease = self.lease(user, n, **request)
        made = self.engine.make(lease)
        self.host.placing.of_lease[lease.id] = made.id
        self.host.pool.activate(lease.id)
        return self.host.pool.leases[lease.id]

    def end(self) -> None:
        """End the loops of every hub there was."""
        for host in self.hosts:
            for task in (*host._loops.tasks.values(), *host._removals.tasks.values()):
                task.cancel()
