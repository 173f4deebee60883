"""Since when a server's GPUs compute or do not, from reading to reading.

`signals` says what one reading means; here it is remembered. A reading is about all the
time since the one before, so a server is IDLE since the last reading that did not say
so of all its slots. Whatever breaks the row begins it anew: a reading that says
something else or nothing, a device that is lost, a restart of the hub, a step of the
clock, a sleep of the machine. A reading that failed only leaves a gap in it, if the gap
is short and the energy counter, which runs on, shows that nothing happened.

Nothing is ended here: the steward decides. Of a server that nobody can judge for hours
admins are told. `observe` is a pure function.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.model import LeaseState, Slot
from gpuspawner.sample import Sweep
from gpuspawner.signals import Found, Mark, Signals, Thresholds, Use
from gpuspawner.watchdog import Server

LONGEST_INTERVALS = 3
THRESHOLDS = Thresholds()
STEP = timedelta(seconds=2)
"""By which two clocks may differ between two readings: mean power is hardly wrong."""
NOT_YET = "It has not been read since its server started."
NOT_LATELY = "It has not been read for a while."
FAILED = "The GPUs could not be read."
CONTRADICTION = (
    "Its readings contradict each other, so it is not taken for idle. One of them is "
    "wrong; restarting the driver may help."
)
UNDECIDED = (
    "Nobody can tell for two hours whether it computes, so it is not taken for idle. "
    "Look at what runs there. If such servers shall end, set max_age_hours and "
    "max_age_stops_busy in the steward's policy."
)


def thresholds_for(interval_s: float) -> Thresholds:
    """Return the thresholds where GPUs are read every so many seconds."""
    longest = LONGEST_INTERVALS * timedelta(seconds=interval_s)
    return replace(THRESHOLDS, longest=max(THRESHOLDS.longest, longest))


def read_idle_w(kept: Mapping[str, Any]) -> dict[str, float]:
    """Return what GPUs draw unused, kept as {"idle_w": {uuid: watts}}.

    Raises:
        ValueError: The value is not of this kind.
    """
    found = kept.get("idle_w", {})
    is_known = isinstance(found, dict) and all(
        type(watts) in {int, float} and math.isfinite(watts) and watts > 0
        for watts in found.values()
    )
    if not is_known:
        raise ValueError("this is not the idle power of GPUs")
    return {str(uuid): float(watts) for uuid, watts in found.items()}


@dataclass(frozen=True, slots=True)
class SlotUse:
    """Whether one slot computes.

    Attributes:
        id: Of the slot.
        state: See Use.
        why: A sentence.
    """

    id: str
    state: Use
    why: str


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """Whether a lease's GPUs compute: one busy slot is enough, then one unknown one.

    Attributes:
        state: See Use.
        since: Since when it is this; aware UTC.
        idle_since: After this moment every reading of every slot said idle; None unless
            it is IDLE.
        why: A sentence.
        slots: In the order of the lease.
    """

    state: Use
    since: datetime
    idle_since: datetime | None
    why: str
    slots: tuple[SlotUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of one slot of one lease.

    Attributes:
        at: When it was last read.
        idle_since: After this moment every reading said idle; None if the last did not.
        contradicts_since: The first of the readings whose signals contradict each
            other, without one between them that did not.
    """

    at: datetime
    idle_since: datetime | None = None
    contradicts_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """How long nobody can tell whether a lease's GPUs compute.

    Attributes:
        at: When it was last read.
        since: No reading since then said that it computes, by more than the CPU time
            of a MIG instance's programs; nor was it idle for as long as contradictions
            may last.
    """

    at: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known after a reading. A new hub begins anew, but for `idle_w`.

    Attributes:
        at: Of the last reading, also of one that failed; None before the first.
        uses: Lease id -> its use, of running servers with a GPU.
        alarms: Sentences for admins that this reading brought.
        idle_w: UUID of a device -> the least mean watts it drew while nobody held it.
        marks: See Signals.
        records: Lease id and slot id -> what is remembered.
        doubts: Lease id -> since when nobody can judge it.
        alarmed: Ids of leases that an alarm was about.
        steady_s: As `at`, by a clock that is never set, in seconds.
    """

    at: datetime | None = None
    uses: Mapping[str, LeaseUse] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    idle_w: Mapping[str, float] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    records: Mapping[tuple[str, str], Record] = field(default_factory=dict)
    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    alarmed: frozenset[str] = frozenset()
    steady_s: float = 0.0

    def of(
        self, lease_id: str, now: datetime, longest: timedelta = THRESHOLDS.longest
    ) -> LeaseUse:
        """Return a GPU lease's use; UNKNOWN if it was never or not lately read."""
        found = self.uses.get(lease_id)
        if found is None or self.at is None:
            return LeaseUse(Use.UNKNOWN, now, None, NOT_YET)
        if now - self.at > longest:
            return _blind(found, self.at, NOT_LATELY)
        return found


def observe(
    before: Observed,
    sweep: Sweep | None,
    servers: Iterable[Server],
    identities: Mapping[int, ProcessIdentity | None],
    cpu_s: Mapping[int, float | None],
    *,
    now: datetime,
    steady_s: float,
    unused_bytes: Mapping[str, int],
    held: Set[str] = frozenset(),
    is_hosts: bool = True,
    thresholds: Thresholds = THRESHOLDS,
) -> Observed:
    """Return what is known after a reading of the whole machine.

    Args:
        before: What was known; `Observed()` at first.
        sweep: The reading; None: it failed.
        servers: Every server with a container; those that start or end are left out.
        identities: See Signals.
        cpu_s: See Signals.
        now: Aware UTC.
        steady_s: Now by a clock that is never set and stands still while the machine
            sleeps, in seconds.
        unused_bytes: See Signals.
        held: See Signals; of other devices idle power is learnt.
        is_hosts: See Signals.
        thresholds: See Thresholds.
    """
    servers = list(servers)
    running = [
        server
        for server in servers
        if server.lease.slots and server.lease.state is LeaseState.ACTIVE
    ]
    ids = {server.lease.id for server in running}
    if _is_step(before, now, steady_s):
        before = replace(before, marks=(), records={}, doubts={})
    if sweep is None:
        blind = {
            lease_id: _blind(use, now, FAILED)
            for lease_id, use in before.uses.items()
            if lease_id in ids
        }
        return replace(before, at=now, steady_s=steady_s, uses=blind, alarms=())
    signals = Signals(
        sweep,
        identities,
        cpu_s,
        now=now,
        held=held,
        marks=before.marks,
        idle_w=before.idle_w,
        unused_bytes=unused_bytes,
        containers={server.container for server in servers},
        is_hosts=is_hosts,
        thresholds=thresholds,
    )
    doubts: dict[str, Doubt] = {}
    uses: dict[str, LeaseUse] = {}
    records: dict[tuple[str, str], Record] = {}
    alarms: dict[str, str] = {}
    for server in running:
        lease, rows = server.lease, []
        for slot in lease.slots:
            found = signals.judge(slot, server)
            last = before.records.get((lease.id, slot.id))
            if last and not _goes_on(found, now - last.at, thresholds):
                last = None
            record = _remember(found, last, now)
            records[lease.id, slot.id] = record
            rows.append((slot, found, record))
            since = record.contradicts_since
            if since is not None and now - since >= thresholds.contradiction:
                text = f"{slot} of the server of {lease.owner}: {found.why}"
                alarms.setdefault(lease.id, f"{text} {CONTRADICTION}")
        use = uses[lease.id] = _together(rows, before.uses.get(lease.id), now)
        founds = [found for _, found, _ in rows]
        doubt = _doubt(use, founds, before.doubts.get(lease.id), now, thresholds)
        if doubt:
            doubts[lease.id] = doubt
            if use.state is not Use.IDLE and now - doubt.since >= thresholds.undecided:
                slot, found = next((s, f) for s, f, _ in rows if f.state is use.state)
                text = f"{slot} of the server of {lease.owner}: {found.why}"
                alarms.setdefault(lease.id, f"{text} {UNDECIDED}")
    new = alarms.keys() - before.alarmed
    return Observed(
        at=now,
        uses=uses,
        alarms=tuple(text for lease_id, text in alarms.items() if lease_id in new),
        idle_w=signals.idle_w,
        marks=signals.marks,
        records=records,
        doubts=doubts,
        alarmed=frozenset((before.alarmed & ids) | new),
        steady_s=steady_s,
    )


def _is_step(before: Observed, now: datetime, steady_s: float) -> bool:
    """Return whether the clock was set or the machine slept since it was read last."""
    if before.at is None:
        return False
    passed = timedelta(seconds=steady_s - before.steady_s)
    return abs(now - before.at - passed) > STEP


def _goes_on(found: Found, gap: timedelta, thresholds: Thresholds) -> bool:
    """Return whether nothing can have happened unseen since the reading before."""
    longest = thresholds.longest if found.is_unused else thresholds.seamless
    return timedelta(0) <= gap <= longest


def _remember(found: Found, before: Record | None, now: datetime) -> Record:
    """Return the record after a reading.

    Args:
        found: What it says.
        before: None if something may have happened unseen since.
        now: When it was made.
    """
    idle_since = contradicts_since = None
    if found.state is Use.IDLE:
        idle_since = (before.idle_since or before.at) if before else now
    if found.contradicts:
        contradicts_since = (before and before.contradicts_since) or now
    return Record(now, idle_since, contradicts_since)


def _doubt(
    use: LeaseUse,
    founds: Iterable[Found],
    before: Doubt | None,
    now: datetime,
    thresholds: Thresholds,
) -> Doubt | None:
    """Return how long nobody can judge a lease; None if somebody can."""
    if before and not timedelta(0) <= now - before.at <= thresholds.longest:
        before = None
    if any(found.state is Use.BUSY and not found.is_guess for found in founds):
        return None
    if use.idle_since is not None:
        is_long = now - use.idle_since > thresholds.contradiction
        return None if is_long or before is None else replace(before, at=now)
    return Doubt(now, before.since if before else now)


def _together(
    rows: Sequence[tuple[Slot, Found, Record]], before: LeaseUse | None, now: datetime
) -> LeaseUse:
    """Return the use of a lease with these slots."""
    states = {found.state for _, found, _ in rows}
    state = next(each for each in (Use.BUSY, Use.UNKNOWN, Use.IDLE) if each in states)
    slots = tuple(SlotUse(slot.id, found.state, found.why) for slot, found, _ in rows)
    slot, found, _ = next(row for row in rows if row[1].state is state)
    why = found.why if len(rows) == 1 else f"{slot}: {found.why}"
    if state is Use.IDLE:
        idle_since = max(record.idle_since or now for _, _, record in rows)
        return LeaseUse(state, idle_since, idle_since, why, slots)
    since = before.since if before and before.state is state else now
    return LeaseUse(state, since, None, why, slots)


def _blind(use: LeaseUse, since: datetime, why: str) -> LeaseUse:
    """Return the use of a lease of which nothing is known any more."""
    if use.state is Use.UNKNOWN:
        since = use.since
    slots = tuple(replace(slot, state=Use.UNKNOWN, why=why) for slot in use.slots)
    return LeaseUse(Use.UNKNOWN, since, None, why, slots)
