"""Looks at the whole machine again and again, and does what follows from it.

One round reads every GPU, judges its health, hands clean slots back to the pool, lets
the watchdog look at every process, and notes which servers compute. Nothing here
decides: health.py, handover.py, watchdog.py and signals.py do.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gpuspawner import container as c
from gpuspawner import handover, idleness, watchdog
from gpuspawner.cgroups import ProcessIdentity, container_ids
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown, ProbeFailed
from gpuspawner.exits import Exit
from gpuspawner.faults import Finding
from gpuspawner.handover import Cleanness
from gpuspawner.health import Change, EndLease, HealthBook
from gpuspawner.idleness import Observed
from gpuspawner.model import Lease, LeaseState, SlotKind
from gpuspawner.pool import Pool
from gpuspawner.ports import Probe
from gpuspawner.processes import Processes, boot_id
from gpuspawner.sample import Sweep
from gpuspawner.signals import Thresholds

UNWATCHED = (
    "The hub cannot see the host's processes, so nobody looks whether servers keep to "
    "their share of a GPU's memory: run it with pid: host."
)
CUT_OFF_CURE = (
    "most likely systemctl daemon-reload took the device nodes away; attach GPUs with "
    "CDI or use the cgroupfs driver"
)
CUT_OFF = (
    "This server cannot reach its GPU any more: the machine took it away by accident. "
    "What runs may go on, but no new program finds the GPU. Save your work, stop the "
    "server and start it again. This is not your program's fault."
)
NAME_WAIT_S = 2.0
GONE = 3  # exit status of watchdog.end_command
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass
class Placing:
    """Which containers there are, as far as the hub knows.

    Attributes:
        of_lease: Lease id -> id of its container.
        names: Container id -> name, of every container on the engine.
        bystanders: Names of other containers that may be on any GPU.
    """

    of_lease: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    bystanders: frozenset[str] = frozenset()


class Rounds:
    """Makes rounds.

    Args:
        probe: Reads the GPUs.
        engine: Runs commands in containers.
        pool: Gets clean slots back and learns which devices are unfit.
        book: Judges devices.
        placing: See Placing.
        evict: Ends a lease's server for a reason that its user reads.
        tell: Leaves a message for a lease's user.
        clean_within: How long a returned slot may take to become clean.
        thresholds: From where on a GPU counts as busy.
        idle_w: What GPUs draw unused, as learnt before; see Observed.
        log: The hub's.

    Attributes:
        last: The last sweep, None before the first.
        took_s: Wall-clock seconds of the last round.
        observed: Whether the GPUs of leases compute.
        alarms: What admins must know, the newest last.
    """

    def __init__(
        self,
        *,
        probe: Probe,
        engine: DockerEngine,
        pool: Pool,
        book: HealthBook,
        placing: Placing,
        evict: Callable[[str, Exit], None],
        tell: Callable[[str, str], None],
        clean_within: timedelta = handover.LIMIT,
        thresholds: Thresholds = idleness.THRESHOLDS,
        idle_w: Mapping[str, float] | None = None,
        log: Log,
    ) -> None:
        self.last: Sweep | None = None
        self.took_s = 0.0
        self.observed = Observed(idle_w=idle_w or {})
        self.alarms: list[tuple[datetime, str]] = []
        self._probe, self._engine, self._pool, self._book = probe, engine, pool, book
        self._placing, self._evict, self._tell, self._log = placing, evict, tell, log
        self._clean_within, self._thresholds = clean_within, thresholds
        self._processes = Processes()
        self._watchdog = watchdog.Watchdog()
        self._baselines = handover.Baselines()
        self._cut_off: set[str] = set()
        self._sees_hosts: bool | None = None
        self._signals: set[asyncio.Task[None]] = set()
        self._judge()
        self._self = container_ids(_read(Path("/proc/self/cgroup")))

    async def once(self) -> None:
        """Make one round. A driver that does not answer is the pool's trouble."""
        began_s = time.monotonic()
        try:
            sweep = await self._probe.sweep()
        except ProbeFailed as error:
            self._log.warning("GPUs cannot be read: %s", error)
            self._pool.trouble = str(error)
            self._observe(None, {}, {}, datetime.now(UTC), time.monotonic())
            return
        now, steady_s = datetime.now(UTC), time.monotonic()
        self.last = sweep
        self._heal(sweep, now)  # before anything can fail: events come only once
        samples = sweep.samples.values()
        pids = {process.pid for sample in samples for process in sample.processes or ()}
        pids |= {pid for sample in samples for pid in sample.sm or ()}
        identities = await asyncio.to_thread(self._identify, pids)
        cpu_s = await asyncio.to_thread(self._cpu_s, identities)
        await self._learn_names(identities)
        self._hand_over(sweep, identities, now)
        self._watch(sweep, identities, now)
        self._observe(sweep, identities, cpu_s, now, steady_s)
        self.took_s = time.monotonic() - began_s

    def _identify(self, pids: set[int]) -> dict[int, ProcessIdentity | None]:
        return {pid: self._processes.identify(pid) for pid in pids}

    def _cpu_s(
        self, identities: Mapping[int, ProcessIdentity | None]
    ) -> dict[int, float | None]:
        known = ((pid, who) for pid, who in identities.items() if who is not None)
        return {pid: self._processes.cpu_s(who) for pid, who in known}

    async def _learn_names(
        self, identities: Mapping[int, ProcessIdentity | None]
    ) -> None:
        """Ask for the names of containers that came since the engine's last listing."""
        around = {who.containers[0] for who in identities.values()
                  if who and who.containers}  # fmt: skip
        for container in around - self._placing.names.keys() - set(self._self):
            try:
                async with asyncio.timeout(NAME_WAIT_S):
                    found = await self._engine.inspect(container)
            except (TimeoutError, EngineUnknown):
                return  # the alarm names the id
            if found:
                self._placing.names[container] = found.name

    # -- health ------------------------------------------------------------------

    def _heal(self, sweep: Sweep, now: datetime) -> None:
        holders: dict[str, set[str]] = {}
        for lease in self._pool.leases.values():
            for device in lease.devices:
                holders.setdefault(device.uuid, set()).add(lease.owner.user)
        verdicts = self._book.see(sweep, now=now, boot_id=boot_id(), holders=holders)
        for verdict in verdicts:
            if isinstance(verdict, Change):
                self._note_change(verdict)
            else:
                self._end_leases(verdict, now)
        self._judge()

    def _judge(self) -> None:
        self._pool.judge(
            {
                uuid: record.reason
                for uuid, record in self._book.records.items()
                if not self._book.is_leasable(uuid)
            }
        )

    def _note_change(self, change: Change) -> None:
        text = f"GPU {change.uuid} is {change.after}, was {change.before}"
        self._alarm(f"{text}: {change.reason}" if change.reason else text)

    def _end_leases(self, verdict: EndLease, now: datetime) -> None:
        for lease in self._leases_on(verdict.uuid):
            if lease.state is not LeaseState.RELEASING:
                ended = Exit(
                    "gpu_broke",
                    verdict.reason,
                    now.isoformat(),
                    is_refundable=verdict.is_refundable,
                    broke_at=verdict.since.isoformat(),
                )
                self._evict(lease.id, ended)

    def _leases_on(self, uuid: str) -> list[Lease]:
        return [
            lease
            for lease in self._pool.leases.values()
            if any(device.uuid == uuid for device in lease.devices)
        ]

    # -- hand-over ---------------------------------------------------------------

    def _hand_over(
        self,
        sweep: Sweep,
        identities: Mapping[int, ProcessIdentity | None],
        now: datetime,
    ) -> None:
        """Give clean slots back; report those that do not become clean."""
        held = self._held()
        back = [x.slot for x in self._pool.returned.values()]
        unclean = set()
        for returned in list(self._pool.returned.values()):
            slot = returned.slot
            sample = sweep.samples.get(slot.uuid) or sweep.samples.get(slot.device.uuid)
            found = handover.judge(
                slot,
                sample,
                self._baselines.lowest.get(sample.uuid) if sample else None,
                since=returned.since,
                now=now,
                others=self._rightful(slot.device.uuid, identities),
                limit=self._clean_within,
            )
            if found.cleanness is Cleanness.CLEAN:
                self._pool.cleaned([slot.id])
                continue
            unclean.add(slot.device.uuid)
            if found.cleanness is Cleanness.DIRTY:
                self._report(slot.device.uuid, Finding.UNCLEAN, found.reason, now)
        for uuid in {slot.device.uuid for slot in back} - unclean:
            self._book.clear(uuid, Finding.UNCLEAN)
        self._baselines.learn(sweep, held)

    def _held(self) -> Set[str]:
        """Return the UUIDs of what is leased or not yet clean, and of its devices."""
        slots = [slot for lease in self._pool.leases.values() for slot in lease.slots]
        slots += [returned.slot for returned in self._pool.returned.values()]
        return {uuid for slot in slots for uuid in (slot.uuid, slot.device.uuid)}

    def _rightful(
        self, uuid: str, identities: Mapping[int, ProcessIdentity | None]
    ) -> frozenset[int]:
        """Return the PIDs that may be on a device whoever holds a part of it."""
        live = {
            self._placing.of_lease[lease.id]
            for lease in self._leases_on(uuid)
            if lease.id in self._placing.of_lease
        }
        allowed = live | self._bystanders()
        return frozenset(
            pid
            for pid, who in identities.items()
            if who
            and (
                not allowed.isdisjoint(who.containers)
                or (not who.containers and who.name in watchdog.HOST_GRAPHICS)
            )
        )

    def _bystanders(self) -> set[str]:
        """Return the ids of containers that may be on any device: ours and named."""
        named = {
            container
            for container, name in self._placing.names.items()
            if name in self._placing.bystanders
        }
        return named | set(self._self)

    def _report(self, uuid: str, finding: Finding, text: str, now: datetime) -> None:
        for change in self._book.report(uuid, finding, text, now):
            if isinstance(change, Change):
                self._note_change(change)
        self._judge()

    # -- watchdog ----------------------------------------------------------------

    def _watch(
        self,
        sweep: Sweep,
        identities: Mapping[int, ProcessIdentity | None],
        now: datetime,
    ) -> None:
        scene = self._scene()
        self._check_sight(scene.servers)
        actions = self._watchdog.judge(now, sweep.samples, identities, scene)
        for action in actions:
            if isinstance(action, watchdog.Alarm):
                self._alarm(action.text)
            elif isinstance(action, watchdog.Warn):
                self._tell(action.lease_id, action.text)
            elif isinstance(action, watchdog.EndServer):
                ended = Exit("gpu_memory", action.text, now.isoformat())
                self._evict(action.lease_id, ended)
            else:
                # Not awaited: an engine that hangs must not hold up the next round.
                task = asyncio.create_task(self._end_process(action))
                self._signals.add(task)
                task.add_done_callback(self._signals.discard)

    def _scene(self) -> watchdog.Scene:
        servers = [
            watchdog.Server(lease, self._placing.of_lease[lease.id])
            for lease in self._pool.leases.values()
            if lease.id in self._placing.of_lease
        ]
        names = {slot.uuid: str(slot) for slot in self._pool.slots.values()}
        names |= {d.uuid: str(d) for d in self._pool.devices.values()}
        return watchdog.Scene(servers, names, self._placing.names, self._bystanders())

    def _check_sight(self, servers: Sequence[watchdog.Server]) -> None:
        """Raise an alarm, once, if shares are leased and nobody can watch them."""
        shares = any(
            slot.kind is SlotKind.SHARE
            for server in servers
            for slot in server.lease.slots
        )
        if shares and self._sees_hosts is None:
            self._sees_hosts = self._processes.is_hosts
            if not self._sees_hosts:
                self._alarm(UNWATCHED)

    async def _end_process(self, action: watchdog.EndProcess) -> None:
        container = self._placing.of_lease.get(action.lease_id)
        if container is None:
            return
        command = watchdog.end_command(action.process, by_force=action.by_force)
        try:
            status = await self._engine.run_check(
                container, command, user=str(action.process.uid)
            )
        except (EngineUnknown, EngineRefused) as error:
            self._log.warning("could not end %s: %s", action.process, error)
            return
        if status == 0:
            self._log.warning("ended lease_id=%s: %s", action.lease_id, action.process)
            self._tell(action.lease_id, action.text)
        elif status != GONE:
            self._watchdog.could_not_end(action)

    # -- idleness ----------------------------------------------------------------------

    def _observe(
        self,
        sweep: Sweep | None,
        identities: Mapping[int, ProcessIdentity | None],
        cpu_s: Mapping[int, float | None],
        now: datetime,
        steady_s: float,
    ) -> None:
        self.observed = idleness.observe(
            self.observed,
            sweep,
            self._scene().servers,
            identities,
            cpu_s,
            now=now,
            steady_s=steady_s,
            unused_bytes=self._baselines.lowest,
            held=self._held() | self._pool.foreign.keys(),
            is_hosts=self._processes.is_hosts,
            thresholds=self._thresholds,
        )
        for text in self.observed.alarms:
            self._alarm(text)

    # -- the driver inside containers --------------------------------------------------

    async def check_drivers(self) -> None:
        """Look whether running GPU servers can still open their devices."""
        self._cut_off &= self._pool.leases.keys()
        leases = [
            lease
            for lease in self._pool.leases.values()
            if lease.slots and lease.state is LeaseState.ACTIVE
        ]
        await asyncio.gather(*map(self._check_driver, leases))

    async def _check_driver(self, lease: Lease) -> None:
        container = self._placing.of_lease.get(lease.id)
        if container is None or lease.id in self._cut_off:
            return
        try:
            status = await self._engine.run_check(container, c.check_driver())
        except (EngineUnknown, EngineRefused) as error:
            self._log.debug("driver not checked lease_id=%s: %s", lease.id, error)
            return
        if status != 1:
            return
        self._cut_off.add(lease.id)
        now = datetime.now(UTC)
        text = f"the server of {lease.owner} cannot open it any more ({CUT_OFF_CURE})"
        for device in lease.devices:
            self._report(device.uuid, Finding.NVML_LOST_INSIDE, text, now)
        self._alarm(f"The server of {lease.owner} lost its GPU: {CUT_OFF_CURE}.")
        self._tell(lease.id, CUT_OFF)

    def _alarm(self, text: str) -> None:
        self._log.warning("%s", text)
        self.alarms = [*self.alarms, (datetime.now(UTC), text)][-100:]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
