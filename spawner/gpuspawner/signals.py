"""What one reading of the GPUs says of a slot: that it computes, or not, or nothing.

IDLE means that independent signals agree. Whoever stops a server for it destroys what
its user has in memory, so every doubt is UNKNOWN. The signals:

- utilisation: in what share of the last moment a kernel ran (driver; of a device);
- SM use of each program since the last reading (driver; not with MIG);
- mean power between two readings by the energy counter (hardware; of a device), against
  what the same device draws when nobody holds it, and against its limit;
- the programs on the slot (driver), and the memory that is used without any;
- the CPU time of these programs and of their children (kernel): without any, nobody
  launches kernels, nor prepares what the next one shall work on.

On a device that a lease has for itself the first four must be known, and none may say
busy. Power has four levels: as if nothing were on it; as low as without a server; so
high that the device computes; and between, where many cards stay while a program merely
holds a CUDA context. There, nobody may be on it, or those who are must not use the CPU.
Programs that use much CPU may be a training that is held up by it: then not one kernel
may have run, and as that may be a reading that is stuck, power must be lowest. A share
is judged by its own programs: a device that others keep busy says nothing against it.
With MIG there is neither utilisation nor SM use: programs that hold an instance must
not use the CPU, and the device must draw as little as without a server unless others on
it use the CPU; an instance without any must hold no memory. Through an MPS server
programs of any container compute: it may be anybody's, and its CPU time says nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.exits import human_bytes
from gpuspawner.handover import IDLE_MOST_BYTES
from gpuspawner.model import Slot, SlotKind
from gpuspawner.sample import GpuProcess, Sample, Sweep
from gpuspawner.watchdog import Server

NOT_TWICE = "It was not read for long enough yet."
STANDS_STILL = "Its energy counter stands still."
UNSEEN = (
    "The hub cannot see the host's processes, so it does not know which programs are "
    "on it: run it with pid: host."
)
MPS_SERVER = "nvidia-cuda-mps"  # nvidia-cuda-mps-server; names have 15 bytes at most
Key = tuple[int, int]  # a process: PID and start time


class Use(StrEnum):
    """Whether GPUs compute. UNKNOWN is never taken for IDLE."""

    BUSY = "busy"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a signal says something.

    Attributes:
        busy_share: Utilisation and SM use above it are busy. A loop that launches one
            small kernel a second reads 0 or 1 %, training that waits for its data 5 %
            and more.
        clear_share: Utilisation that the SM use of some program must show, too.
        quiet_cores: CPU cores that the programs of a slot use together at most, on the
            mean, if they launch nothing: a notebook kernel that waits uses 0.005.
        working_cores: CPU cores from which on the programs of a slot are at work on
            something.
        unused_power: Share of the way from a device's idle power to its limit up to
            which nothing can have run on it but for moments.
        low_power: Share of the way from a device's idle power to its limit up to which
            it draws as little as without a server.
        high_power: The share above which it computes. Cards that hold a context without
            computing are said to stay below a third (T4, L4, A10) or a tenth of it
            (A100, H100).
        empty_bytes: Memory that is used at most where no program is, beside what a
            device's driver keeps; less than a CUDA context takes.
        shortest: Between two readings whose counters are compared.
        seamless: Between two readings, if nothing can have happened unseen: the driver
            remembers the SM use of about fifteen seconds.
            Longer intervals between readings do not change that.
        longest: The same if the energy counter shows that nothing happened.
        contradiction: How long signals must contradict each other before it is said.
        undecided: How long nothing may be known of a server before it is said.
    """

    busy_share: float = 0.03
    clear_share: float = 0.5
    quiet_cores: float = 0.02
    working_cores: float = 0.2
    unused_power: float = 0.05
    low_power: float = 0.15
    high_power: float = 0.40
    empty_bytes: int = 128 * 2**20
    shortest: timedelta = timedelta(seconds=2)
    seamless: timedelta = timedelta(seconds=20)
    longest: timedelta = timedelta(seconds=60)
    contradiction: timedelta = timedelta(minutes=10)
    undecided: timedelta = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Found:
    """What one reading says of a slot.

    Attributes:
        state: See Use.
        why: A sentence.
        contradicts: Two signals contradict each other.
        is_unused: Since the mark the device drew no more than if nothing were on it,
            and who is on it used no CPU.
        is_guess: It is BUSY, but by the CPU time of its programs alone.
    """

    state: Use
    why: str
    contradicts: bool = False
    is_unused: bool = False
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Counters at one moment, with which later ones are compared.

    Attributes:
        at: When; aware UTC.
        energy: UUID of a device -> when it was read, joules.
        cpu_s: Process -> CPU seconds that it had used.
        free: UUIDs of devices that nobody held and on which nobody computed.
    """

    at: datetime
    energy: Mapping[str, tuple[datetime, float]] = field(default_factory=dict)
    cpu_s: Mapping[Key, float] = field(default_factory=dict)
    free: frozenset[str] = frozenset()


class _Level(StrEnum):
    """How much a device draws; see Thresholds."""

    UNUSED = "unused"
    LOW = "low"
    BETWEEN = "between"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class _Power:
    """What a device drew on the mean since the mark."""

    watts: float
    limit_w: float
    level: _Level

    def __str__(self) -> str:
        return f"{self.watts:.0f} W of {self.limit_w:.0f} W"


class Signals:
    """One reading, compared with earlier ones.

    Args:
        sweep: The reading.
        identities: PID -> who that was when it was made; a missing PID or None is
            unknown.
        cpu_s: PID -> CPU seconds that it and its children have used; likewise.
        now: Aware UTC.
        held: UUIDs of devices and MIG instances that are leased or not yet clean, and
            of devices with such instances.
        marks: Of earlier readings, the newest first.
        idle_w: UUID of a device -> what it draws when nobody holds it, as learnt.
        unused_bytes: UUID of a device -> its memory that is used when nobody uses it,
            as learnt.
        containers: Of all servers.
        is_hosts: Whether PIDs are looked up where the driver's mean something. If not,
            its lists are empty whoever is on a device, and are not believed.
        thresholds: See Thresholds.

    Attributes:
        marks: What later readings are compared with, the newest first, at most two.
        idle_w: With what this reading taught.
    """

    def __init__(
        self,
        sweep: Sweep,
        identities: Mapping[int, ProcessIdentity | None],
        cpu_s: Mapping[int, float | None],
        *,
        now: datetime,
        held: Set[str],
        marks: Sequence[Mark],
        idle_w: Mapping[str, float],
        unused_bytes: Mapping[str, int],
        containers: Set[str],
        is_hosts: bool,
        thresholds: Thresholds,
    ) -> None:
        self._samples = sweep.samples if is_hosts else _unseen(sweep.samples)
        self._identities, self._now = identities, now
        self._is_hosts, self._limits = is_hosts, thresholds
        self._unused_bytes, self._containers = unused_bytes, containers
        # One that was made a moment ago says too little, so there are two.
        old_enough = (m for m in marks if now - m.at >= thresholds.shortest)
        self._mark = next(old_enough, None)
        self._cpu_s = {
            (who.pid, who.start_time): used_s
            for pid, who in identities.items()
            if who is not None and (used_s := cpu_s.get(pid)) is not None
        }
        self._free = frozenset(
            uuid
            for uuid, sample in self._samples.items()
            if uuid not in held and self._rests(sample)
        )
        self.marks = self._next(marks)
        self.idle_w = {**idle_w, **dict(self._learn(idle_w))}

    def _rests(self, sample: Sample) -> bool:
        """Return whether nobody computes on a device that nobody holds.

        A monitoring program may be on it all the time.
        """
        least, sms = self._limits.busy_share, sample.sm
        if (sample.utilisation or 0) > least:
            return False
        is_calm = sms is not None and all(share <= least for share in sms.values())
        return sample.processes == () or (sample.processes is not None and is_calm)

    def _next(self, marks: Sequence[Mark]) -> tuple[Mark, ...]:
        newest = marks[0].at if marks else None
        if newest and newest <= self._now < newest + self._limits.shortest:
            return tuple(marks)
        energy = {
            uuid: (sample.at, sample.energy_j)
            for uuid, sample in self._samples.items()
            if sample.energy_j is not None
        }
        mark = Mark(self._now, energy, self._cpu_s, self._free)
        return (mark, *marks[:1])

    def _learn(self, known: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        """Yield what devices draw that nobody held since the mark."""
        for uuid in self._free & (self._mark.free if self._mark else frozenset()):
            sample = self._samples[uuid]
            watts = self._mean_w(sample)
            if watts is not None:
                yield uuid, min(watts, known.get(uuid, watts))

    # -- single signals ----------------------------------------------------------------

    def _mean_w(self, sample: Sample) -> float | None:
        """Return the mean power since the mark; None if unknown.

        A counter that stands still is broken: no device draws 0 W.
        """
        last = self._mark.energy.get(sample.uuid) if self._mark else None
        if last is None or sample.energy_j is None:
            return None
        at, energy_j = last
        passed = sample.at - at
        used_j = sample.energy_j - energy_j
        longest = self._limits.longest + self._limits.shortest  # a mark is a bit older
        if used_j <= 0 or not timedelta(0) < passed <= longest:
            return None
        return used_j / passed.total_seconds()

    def _power(self, sample: Sample) -> _Power | None:
        watts, limit_w = self._mean_w(sample), sample.power_limit_w
        if watts is None or not limit_w:
            return None
        idle_w = self.idle_w.get(sample.uuid)
        # Something that nobody saw may have computed while it was learnt.
        base = min(idle_w or 0.0, self._limits.high_power * limit_w)
        level = _Level.BETWEEN
        if watts > base + self._limits.high_power * (limit_w - base):
            level = _Level.HIGH
        elif idle_w is not None:
            share = (watts - base) / (limit_w - base)
            if share <= self._limits.unused_power:
                level = _Level.UNUSED
            elif share <= self._limits.low_power:
                level = _Level.LOW
        return _Power(watts, limit_w, level)

    def _powerless(self, sample: Sample) -> Found:
        """Return that the mean power is not known, although the driver tells energy."""
        last = self._mark.energy.get(sample.uuid) if self._mark else None
        is_still = last is not None and last[1] == sample.energy_j
        return Found(Use.UNKNOWN, STANDS_STILL if is_still else NOT_TWICE)

    def _cores(self, pid: int) -> float | None:
        """Return the CPU cores that a process used since the mark; None if unknown.

        Of one that is new everything counts that it ever used.
        """
        who = self._identities.get(pid)
        if who is None or self._is_mps(who) or self._mark is None:
            return None
        key = (who.pid, who.start_time)
        used_s = self._cpu_s.get(key)
        if used_s is None:
            return None
        used_s -= self._mark.cpu_s.get(key, 0.0)
        passed_s = (self._now - self._mark.at).total_seconds()
        return used_s / passed_s if used_s >= 0 else None

    def _is_quiet(
        self, processes: Iterable[GpuProcess], most: float | None = None
    ) -> bool | None:
        """Return whether these use no CPU worth speaking of; None if unknown.

        Args:
            processes: Which.
            most: Cores that they may use together; None: quiet_cores.
        """
        most = self._limits.quiet_cores if most is None else most
        cores = [self._cores(process.pid) for process in processes]
        known = [each for each in cores if each is not None]
        if sum(known) > most:
            return False
        return True if len(known) == len(cores) else None

    def _is_others(self, pid: int, server: Server) -> bool:
        """Return whether a process is surely none of this server's."""
        who = self._identities.get(pid)
        if who is None or self._is_mps(who):
            return False
        return server.container not in who.containers

    def _is_mps(self, who: ProcessIdentity) -> bool:
        """Return whether anybody may compute through a process.

        What users call theirs means nothing, and nobody else reaches it.
        """
        is_users = not self._containers.isdisjoint(who.containers)
        return who.name == MPS_SERVER and not is_users

    def _ours(self, sample: Sample, server: Server) -> list[GpuProcess]:
        """Return the processes of a sample that are this server's or may be."""
        found = sample.processes or ()
        return [row for row in found if not self._is_others(row.pid, server)]

    # -- all of them -------------------------------------------------------------------

    def judge(self, slot: Slot, server: Server) -> Found:
        """Return what this reading says of a slot of a server's lease."""
        device = self._samples.get(slot.device.uuid)
        part = self._samples.get(slot.id) if slot.kind is SlotKind.MIG else device
        if device is None or part is None or device.is_lost or part.is_lost:
            return Found(Use.UNKNOWN, "The driver cannot reach it.")
        if slot.kind is SlotKind.MIG:
            return self._judge_instance(part, device, server)
        return self._judge_device(slot, device, server)

    def _judge_device(self, slot: Slot, device: Sample, server: Server) -> Found:
        least, sms = self._limits.busy_share, device.sm or {}
        is_shared = slot.kind is SlotKind.SHARE
        others = {pid for pid in sms if is_shared and self._is_others(pid, server)}
        sm = max((sms[pid] for pid in sms.keys() - others), default=0.0)
        if sm > least:
            return Found(Use.BUSY, f"A program kept its SMs {sm:.0%} busy.")
        is_others = any(sms[pid] > least for pid in others)
        utilisation, power = device.utilisation, self._power(device)
        if utilisation is not None and utilisation > least and not is_others:
            return self._only_utilised(device, utilisation)
        if power and power.level is _Level.HIGH and not is_others:
            why = f"It draws {power}, but no program seems to compute."
            return Found(Use.UNKNOWN, why, contradicts=True)
        if untold := self._untold(device):
            return Found(Use.UNKNOWN, untold)
        if power is None:
            return self._powerless(device)
        if unlisted := self._unlisted(device):
            return Found(Use.UNKNOWN, unlisted)
        drawn, ours = f"the GPU draws {power}", self._ours(device, server)
        is_quiet = self._is_quiet(ours)
        is_calm = self._is_quiet(ours, self._limits.working_cores)
        is_unused = power.level is _Level.UNUSED
        if is_calm:
            is_low = is_unused or power.level is _Level.LOW
        else:  # readings of 0 may be stuck
            ran = sm > 0 or (bool(utilisation) and not is_others)
            is_low = is_unused and not ran
        if not ours or is_low or is_quiet:
            what = "No program of its server is on it"
            if ours:
                what = f"{_holding(ours)} and kept its SMs {sm:.0%} busy"
            is_unused = is_unused and is_quiet is True
            return Found(Use.IDLE, f"{what}; {drawn}.", is_unused=is_unused)
        cpu = "is not known" if is_quiet is None else "says that they do something"
        why = f"{_holding(ours)}; {drawn}, and their CPU time {cpu}."
        return Found(Use.UNKNOWN, why)

    def _only_utilised(self, device: Sample, utilisation: float) -> Found:
        """Return that a device is busy, although no program's SM use says so."""
        is_clear = device.sm is not None and utilisation > self._limits.clear_share
        if is_clear or device.processes == ():
            why = (
                f"A kernel ran {utilisation:.0%} of the time, but of no known program."
            )
            return Found(Use.BUSY, why, contradicts=True)
        return Found(Use.BUSY, f"A kernel ran {utilisation:.0%} of the time.")

    def _unlisted(self, device: Sample) -> str:
        """Return that somebody must be on a device who is not listed, "" if nobody."""
        kept = self._unused_bytes.get(device.uuid, IDLE_MOST_BYTES)
        held = (device.memory_used_bytes or 0) - kept
        if device.processes or held <= self._limits.empty_bytes:
            return ""
        return f"No program is on it, but {human_bytes(held)} of its memory is used."

    def _judge_instance(self, part: Sample, device: Sample, server: Server) -> Found:
        ours = self._ours(part, server)
        is_quiet = self._is_quiet(ours)
        if is_quiet is False:
            why = f"{_holding(ours)} and use the CPU. What they do on it is not told."
            return Found(Use.BUSY, why, is_guess=True)
        power, is_elsewhere = self._power(device), self._is_elsewhere(part, device)
        if power and power.level is _Level.HIGH and not is_elsewhere:
            why = f"The whole GPU draws {power}, but no program seems to compute."
            return Found(Use.UNKNOWN, why, contradicts=True)
        if untold := self._untold(device, part):
            return Found(Use.UNKNOWN, untold)
        if power is None:
            return self._powerless(device)
        if is_quiet is None:
            why = f"{_holding(ours)}; how much CPU time they use is not known."
            return Found(Use.UNKNOWN, why)
        drawn = f"the whole GPU draws {power}"
        is_unused = power.level is _Level.UNUSED
        # Kernels that run for long need no CPU. (Cards with MIG draw little for a
        # context, so between the levels something computes.)
        is_lifted = power.level is _Level.BETWEEN and device.uuid in self.idle_w
        if ours and is_lifted and not is_elsewhere:
            why = f"{_holding(ours)} and wait, but {drawn}, and nobody else on it uses "
            return Found(Use.UNKNOWN, f"{why}the CPU.")
        if ours:
            why = f"{_holding(ours)} and wait; {drawn}."
            return Found(Use.IDLE, why, is_unused=is_unused)
        held = part.memory_used_bytes
        if held is None or held > self._limits.empty_bytes:
            size = "an unknown amount" if held is None else human_bytes(held)
            why = f"No program is on it, but {size} of its memory is used."
            return Found(Use.UNKNOWN, why)
        why = f"No program is on it; {drawn}."
        return Found(Use.IDLE, why, is_unused=is_unused)

    def _is_elsewhere(self, part: Sample, device: Sample) -> bool:
        """Return whether a program on another instance may be what draws power."""
        here = {process.pid for process in part.processes or ()}
        there = [p for p in device.processes or () if p.pid not in here]
        return self._is_quiet(there) is False

    def _untold(self, device: Sample, part: Sample | None = None) -> str:
        """Return that a signal is missing which must be known, "" if none is."""
        if not self._is_hosts:
            return UNSEEN
        wanted: dict[str, object] = {
            "how much energy it uses": device.energy_j,
            "its power limit": device.power_limit_w or None,
            "which programs are on it": (part or device).processes,
        }
        if part is None:
            wanted["its utilisation"] = device.utilisation
            wanted["which programs use its SMs"] = device.sm
        missing = next((what for what, value in wanted.items() if value is None), "")
        return missing and f"The driver does not tell {missing}."


def _unseen(samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """Return samples without what they tell of programs."""
    return {
        uuid: replace(sample, processes=None, sm=None)
        for uuid, sample in samples.items()
    }


def _holding(processes: Sequence[GpuProcess]) -> str:
    """Return how many programs these are and how much memory they hold."""
    sizes = [row.memory_bytes for row in processes]
    known = [size for size in sizes if size is not None]
    held = human_bytes(sum(known)) if len(known) == len(sizes) else "an unknown part"
    if len(sizes) == 1:
        return f"1 program holds {held} of its memory"
    return f"{len(sizes)} programs hold {held} of its memory"
