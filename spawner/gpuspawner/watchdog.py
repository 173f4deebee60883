"""Judges every sweep: who is over a share's cap, and who is on a GPU without a lease.

The ladder for a server over its cap on a device: it is warned; if the next sample is
over too, its largest process is asked to end (SIGTERM), then made to (SIGKILL); if
that does not help, the server is stopped. One sample below the cap and all is
forgotten. What is unknown is never judged: a sample in which the memory of any of its
processes is unknown changes nothing.

A number alone ends no process: PIDs are given again. Only one that was seen with the
same start time in the sample before is ended.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.exits import human_bytes
from gpuspawner.model import Lease, LeaseState, SlotKind
from gpuspawner.sample import GpuProcess, Sample

END_PROCESS_AT = 2  # consecutive samples over the cap
END_SERVER_AT = 6  # of which four had a process ended, or none that could be
ALARM_AGAIN = timedelta(hours=1)
HOST_GRAPHICS = frozenset(
    {"Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "nvidia-persiste"}
)
"""Names (15 bytes at most) of programs of the host that may be on any GPU."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its lease, and the id of the container that holds it."""

    lease: Lease
    container: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell the server's user."""

    lease_id: str
    text: str


@dataclass(frozen=True, slots=True)
class EndProcess:
    """End one process of a server, see `end_command`; then tell its user.

    Attributes:
        lease_id: Whose process it is.
        process: Which one; nothing must happen to another one with its PID.
        text: What the user reads.
        by_force: It was asked before and is still there.
    """

    lease_id: str
    process: ProcessIdentity
    text: str
    by_force: bool = False


@dataclass(frozen=True, slots=True)
class EndServer:
    """Stop a server for this reason. May come again until it has stopped."""

    lease_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Tell the admins about a process on a GPU without a lease for it.

    Attributes:
        text: A sentence that names both.
        uuid: Of the device or the MIG instance.
        process: None if nobody can tell whose it is.
    """

    text: str
    uuid: str
    process: ProcessIdentity | None


Action = Warn | EndProcess | EndServer | Alarm


@dataclass(frozen=True, slots=True)
class Scene:
    """What a sweep is judged against.

    Attributes:
        servers: Every server with a container, until its container is gone. One that
            is RELEASING is not ended again.
        names: UUID of a device or MIG instance -> what people call it.
        containers: Id -> name of every container, to name an intruder's.
        bystanders: Ids of containers that may be on any GPU: the hub's own, a
            monitoring exporter.
        graphics: Names of programs of the host that may be on any GPU.
    """

    servers: Sequence[Server] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    containers: Mapping[str, str] = field(default_factory=dict)
    bystanders: Set[str] = frozenset()
    graphics: Set[str] = HOST_GRAPHICS


@dataclass(frozen=True, slots=True)
class _Found:
    """A process on a device in one sample."""

    process: GpuProcess
    identity: ProcessIdentity | None
    server: Server | None

    @property
    def key(self) -> tuple[int, int]:
        return self.process.pid, self.identity.start_time if self.identity else 0


@dataclass(slots=True)
class _Excess:
    """A server over its cap on a device: for how long, and whom we asked to end."""

    n_samples: int = 0
    asked: set[tuple[int, int]] = field(default_factory=set)
    is_stuck: bool = False


class Watchdog:
    """Remembers from sweep to sweep only what a ladder and a repetition need."""

    def __init__(self) -> None:
        self._excess: dict[tuple[str, str], _Excess] = {}
        self._seen: dict[str, set[tuple[int, int]]] = {}
        self._alarmed: dict[tuple[str, int, int], datetime] = {}

    def judge(
        self,
        now: datetime,
        samples: Mapping[str, Sample],
        identities: Mapping[int, ProcessIdentity | None],
        scene: Scene,
    ) -> tuple[Action, ...]:
        """Return what must happen after this sweep.

        Args:
            now: Aware UTC.
            samples: UUID of a device or MIG instance -> its sample.
            identities: PID -> who that was when the sweep was read; a missing PID or
                None is unknown.
            scene: See Scene.
        """
        actions: list[Action] = []
        self._forget(scene)
        for uuid, sample in samples.items():
            if sample.processes is None:
                continue
            found = [_attribute(row, identities, scene) for row in sample.processes]
            before = self._seen.get(uuid, set())
            for server in scene.servers:
                actions += self._over(uuid, server, found, before, scene)
            actions += self._intruders(now, uuid, found, before, scene)
            self._seen[uuid] = {row.key for row in found}
        self._alarmed = {
            key: at
            for key, at in self._alarmed.items()
            if key[1:] in self._seen.get(key[0], ())
        }
        return tuple(actions)

    def could_not_end(self, action: EndProcess) -> None:
        """Note that a process did not get its signal: its server is stopped instead.

        Not for a process that was gone already.
        """
        for (lease_id, _), excess in self._excess.items():
            if lease_id == action.lease_id:
                excess.is_stuck = True

    def _forget(self, scene: Scene) -> None:
        known = {server.lease.id for server in scene.servers}
        self._excess = {
            key: excess for key, excess in self._excess.items() if key[0] in known
        }

    def _over(
        self,
        uuid: str,
        server: Server,
        found: Sequence[_Found],
        before: Set[tuple[int, int]],
        scene: Scene,
    ) -> Iterator[Action]:
        """Go one step up or down the ladder of a server on a device."""
        lease = server.lease
        cap = _cap(lease, uuid) if lease.state is not LeaseState.RELEASING else None
        theirs = [row for row in found if row.server is server]
        if cap is None or any(row.process.memory_bytes is None for row in theirs):
            return
        used = sum(row.process.memory_bytes or 0 for row in theirs)
        if used <= cap:
            self._excess.pop((lease.id, uuid), None)
            return
        excess = self._excess.setdefault((lease.id, uuid), _Excess())
        excess.n_samples += 1
        what = (
            f"{human_bytes(used)} of GPU memory on {scene.names.get(uuid, uuid)}, and "
            f"its share is {human_bytes(cap)}"
        )
        if excess.n_samples < END_PROCESS_AT:
            yield Warn(lease.id, _warning(what))
            return
        largest = _largest(theirs, before)
        cannot = excess.is_stuck or (largest is not None and largest.inner_pid == 1)
        if cannot or excess.n_samples >= END_SERVER_AT:
            yield EndServer(lease.id, _server_ended(what))
        elif largest is not None:
            key = (largest.pid, largest.start_time)
            by_force = key in excess.asked
            excess.asked.add(key)
            yield EndProcess(lease.id, largest, _ended(largest, what), by_force)

    def _intruders(
        self,
        now: datetime,
        uuid: str,
        found: Sequence[_Found],
        before: Set[tuple[int, int]],
        scene: Scene,
    ) -> Iterator[Alarm]:
        """Name every process that was here in the sample before too, once an hour."""
        is_leased = any(_holds(server.lease, uuid) for server in scene.servers)
        for row in found:
            key = (uuid, *row.key)
            if row.key not in before or _may(row, uuid, scene, is_leased=is_leased):
                continue
            last = self._alarmed.get(key)
            if last is None or now - last >= ALARM_AGAIN:
                self._alarmed[key] = now
                yield Alarm(_alarm(row, uuid, scene), uuid, row.identity)


def end_command(process: ProcessIdentity, *, by_force: bool) -> list[str]:
    """Return a command that ends a process from inside its container.

    It has to run there as the process's own uid, because a root without capabilities
    may signal nobody else's. It exits 0 if the signal was sent, 3 if the process is
    gone or its PID is another's now, and otherwise if it may not.
    """
    signal = "KILL" if by_force else "TERM"
    script = (
        f"stat=$(cat /proc/{process.inner_pid}/stat 2>/dev/null) || exit 3; "
        # What follows the name, which may hold anything; field 22 is the start time.
        'set -- ${stat##*")"}; '
        f'[ "${{20}}" = "{process.start_time}" ] || exit 3; '
        f"kill -{signal} {process.inner_pid}"
    )
    return ["sh", "-c", script]


def _attribute(
    row: GpuProcess,
    identities: Mapping[int, ProcessIdentity | None],
    scene: Scene,
) -> _Found:
    """Say whose process this is: the outermost of its containers that is a server."""
    identity = identities.get(row.pid)
    by_id = {server.container: server for server in scene.servers}
    around = identity.containers if identity else ()
    server = next((by_id[found] for found in around if found in by_id), None)
    return _Found(row, identity, server)


def _cap(lease: Lease, uuid: str) -> int | None:
    """Return how much of a device a lease may use; None where hardware sees to it."""
    shares = [
        slot.memory_bytes
        for slot in lease.slots
        if slot.kind is SlotKind.SHARE and slot.device.uuid == uuid
    ]
    return sum(shares) if shares else None


def _holds(lease: Lease, uuid: str) -> bool:
    """Return whether a lease covers a device, or a part of it, or this instance."""
    return any(uuid in {slot.uuid, slot.device.uuid} for slot in lease.slots)


def _largest(
    rows: Sequence[_Found], before: Set[tuple[int, int]]
) -> ProcessIdentity | None:
    """Return the largest process that was also there in the sample before."""
    known = [row for row in rows if row.identity is not None and row.key in before]
    known.sort(key=lambda row: (row.process.memory_bytes or 0, row.key))
    return known[-1].identity if known else None


def _may(row: _Found, uuid: str, scene: Scene, *, is_leased: bool) -> bool:
    """Return whether a process may be on a device, as far as is known."""
    if row.server is not None:
        return _holds(row.server.lease, uuid)
    if row.identity is None:
        return is_leased  # it may be the lease's own
    if row.identity.containers:
        return not scene.bystanders.isdisjoint(row.identity.containers)
    return row.identity.name in scene.graphics


def _warning(what: str) -> str:
    return (
        f"Your server uses {what}. Free some now: restart a kernel that you do not "
        "need, or delete tensors and call torch.cuda.empty_cache(). Otherwise its "
        "largest program is ended soon."
    )


def _ended(process: ProcessIdentity, what: str) -> str:
    return (
        f"Your program {process.command or process.name} (PID {process.inner_pid}) was "
        f"ended: your server used {what}. Use a smaller model or batch, or choose a "
        "larger share or a whole GPU."
    )


def _server_ended(what: str) -> str:
    return (
        f"Your server was stopped: it used {what}, also after a warning. Your files "
        "are safe. Start it again with a smaller model or batch, or choose a larger "
        "share or a whole GPU."
    )


def _alarm(row: _Found, uuid: str, scene: Scene) -> str:
    held = row.process.memory_bytes
    size = "an unknown amount of memory" if held is None else human_bytes(held)
    where = f"{scene.names.get(uuid, uuid)} without a lease for it and holds {size}"
    if row.identity is None:
        return f"Somebody's process with PID {row.process.pid} is on {where}."
    if row.server is not None:
        return (
            f"The server of {row.server.lease.owner} is on {where}: {row.identity}. "
            "Its container reaches a GPU that it was not given; check the NVIDIA "
            "Container Toolkit."
        )
    user = f"uid {row.identity.uid}"
    if not row.identity.containers:
        return (
            f"A program of the host, {row.identity} of {user}, is on {where}. "
            "End it, or take this GPU out of the pool."
        )
    around = row.identity.containers
    named = (scene.containers[found] for found in around if found in scene.containers)
    name = next(named, around[0][:12])
    return (
        f"The container {name} is on {where}: {row.identity} of {user}. Stop it, or "
        "name it in bystanders if it may be there."
    )
