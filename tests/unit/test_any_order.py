"""Starts, ends, crashes and broken GPUs in any order, against a model of the engine.

I1: a slot is in at most one running container. I2: after a reconciliation containers
and leases agree one to one. What is granted is what was asked for, and nothing that was
not clean, fit and unused. No ticket is lost or doubled.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

from gpuspawner import container as c
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.links import Link, Path, Topology
from gpuspawner.model import (
    Container,
    Device,
    DeviceClaim,
    Instance,
    Lease,
    LeaseState,
    Owner,
    Slot,
    SlotKind,
    SlotRequest,
)
from gpuspawner.pool import Pool
from gpuspawner.recovery import plan
from gpuspawner.slots import slots_of
from gpuspawner.tickets import Ticket
from gpuspawner.waiting import RETURN_S, Queue
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

GIB = 2**30
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
HUB = "here"
GROUP = 4  # the size of the groups to be kept
LIMIT_S = 3600.0
N_SHARES = 3  # or 2, after a change of the configuration
USERS = [f"u{i}" for i in range(6)]
TYPES = {"A100": 40, "T4": 16}
REQUESTS = [
    SlotRequest(0),
    SlotRequest(1),
    SlotRequest(1),
    SlotRequest(1, type="T4"),
    SlotRequest(1, min_memory_bytes=20 * GIB),
    SlotRequest(2),
    SlotRequest(2, must_be_connected=True),
    SlotRequest(3, type="A100"),
    SlotRequest(4),
    SlotRequest(4, must_be_connected=True),
    SlotRequest(6),
    SlotRequest(1, SlotKind.SHARE),
    SlotRequest(1, SlotKind.SHARE),
    SlotRequest(1, SlotKind.MIG),
    SlotRequest(1, SlotKind.MIG, min_memory_bytes=6 * GIB),
    SlotRequest(2, SlotKind.MIG),
]
names = st.sampled_from(["A100"] * 3 + ["T4"])
kinds = st.sampled_from(["whole"] * 5 + ["shared", "split"])
A100, SHARED, SPLIT = ("A100", "whole"), ("A100", "shared"), ("A100", "split")
layouts = st.sampled_from(
    [
        [A100] * 8,
        [A100] * 4,
        [A100, A100, SHARED, SPLIT],
        [A100] * 4 + [("T4", "whole")] * 4,
        [SHARED, SPLIT, ("T4", "shared"), A100, A100, A100, A100],
    ]
)
stages = st.sampled_from(["granted", "made", "runs", "answers", "answers"])
picks = st.integers(0, 199)


def device(index: int, name: str) -> Device:
    return Device(index, f"GPU-{index}", name, TYPES[name] * GIB, index)


def split(one: Device) -> Device:
    instances = tuple(
        Instance(f"MIG-{one.index}-{i}", f"{i}g", 5 * i * GIB, i) for i in (1, 2)
    )
    return replace(one, is_split=True, instances=instances)


def joined(one: Device, other: Device) -> bool:
    """Whether the model's NVLinks join two devices: the first four, the next four."""
    return one.index // 4 == other.index // 4


def topology_of(devices: Iterable[Device]) -> Topology:
    pairs = combinations(devices, 2)
    return Topology(
        {(a.uuid, b.uuid): Link(Path.SYS, 2 if joined(a, b) else 0) for a, b in pairs}
    )


def clash(one: Slot, other: Slot) -> bool:
    """Whether two servers with these slots would have a device or a part in common."""
    if one.device.uuid != other.device.uuid:
        return False
    if one.kind is SlotKind.SHARE and other.kind is SlotKind.SHARE:
        return one.id == other.id or one.profile != other.profile
    return (
        one.kind is not SlotKind.MIG
        or other.kind is not SlotKind.MIG
        or (one.id == other.id)
    )


class AnyOrder(RuleBasedStateMachine):
    """A hub with its pool, a machine, an engine, users; and a hub that may die.

    Attributes:
        machine: UUID -> device, as it is.
        engine: Name -> container, ours and others'; ours are named like their leases.
        held: Lease id -> slots, of every lease that was ever granted.
        starting: Leases whose start is under way in this hub.
        ended: Ids of leases that had to end.
        claims: Lease ids that this hub's spawners know.
        database: Those that the hub's database knows, too.
        waiting: User -> ticket, of everybody who should be in the queue.
        absent: Users who have not come back since the hub was restarted.
        file: The queue as it was last written.
        file_before: The queue as it was before slots were last given out.
        dirty: Ids of slots that were not seen clean since somebody may have had them.
        late: Containers that a dead hub asked for and that the engine has yet to make.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.n = 0
        self.engine: dict[str, Container] = {}
        self.held: dict[str, tuple[Slot, ...]] = {}
        self.starting: dict[str, Lease] = {}
        self.ended: set[str] = set()
        self.claims: set[str] = set()
        self.database: set[str] = set()
        self.waiting: dict[str, Ticket] = {}
        self.absent: set[str] = set()
        self.absent_until = NOW
        self.dirty: set[str] = set()
        self.late: dict[str, Container] = {}
        self.unfit: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.groups: dict[tuple[Device, ...], list[frozenset[str]]] = {}
        self.before: dict[str, Lease] | None = None
        self.listing: list[Container] | None = None

    @initialize(
        layout=layouts | layouts | st.lists(st.tuples(names, kinds), max_size=8),
        has_links=st.booleans(),
        keeps=st.booleans(),
    )
    def hub_starts(
        self, layout: list[tuple[str, str]], has_links: bool, keeps: bool
    ) -> None:
        devices = [device(i, name) for i, (name, _) in enumerate(layout)]
        kinds_of = {d.uuid: kind for d, (_, kind) in zip(devices, layout, strict=True)}
        self.shares = {u: N_SHARES for u, kind in kinds_of.items() if kind == "shared"}
        self.machine = {
            d.uuid: split(d) if kinds_of[d.uuid] == "split" else d for d in devices
        }
        self.topology = topology_of(devices) if has_links else Topology()
        self.keep = {GROUP: 1} if keeps else {}
        self.file = self.file_before = json.dumps(Queue().to_json())
        self.begin()
        self.possible = [r for r in REQUESTS if self.can_be_granted(r, self.slots)]
        self.reconciles()
        self.every_slot_is_seen_clean()

    def request(self, pick: int) -> SlotRequest:
        """Mostly something that the machine has."""
        every = REQUESTS if pick % 9 == 0 else self.possible
        return every[pick // 9 % len(every)]

    def begin(self) -> None:
        self.pool = Pool(self.shares, self.keep)
        self.pool.queue = Queue.from_json(json.loads(self.file), self.now)
        self.pool.see(list(self.machine.values()), self.now, self.topology)
        self.pool.judge(self.unfit)
        self.claims = set(self.database)
        self.waiting = {t.owner.user: t for t in self.pool.queue.tickets}
        self.absent = set(self.waiting)
        self.absent_until = self.now + timedelta(seconds=RETURN_S)
        self.before = self.listing = None
        self.dirty = {slot.id for slot in self.slots}
        self.foreign = set()

    # -- the model's view

    @property
    def slots(self) -> tuple[Slot, ...]:
        return slots_of(self.machine.values(), self.shares)

    def is_fit(self, one: Device) -> bool:
        return not one.is_lost and one.uuid not in self.unfit

    def new_id(self) -> str:
        self.n += 1
        return f"ls_{self.n:04}"

    def soil(self, used: Iterable[Slot]) -> None:
        """Note that what had these slots is gone, and may have left something."""
        self.dirty |= {
            slot.id for slot in self.slots for other in used if clash(slot, other)
        }

    def end(self, lease_id: str) -> None:
        self.ended.add(lease_id)
        self.pool.end(lease_id)

    def remove(self, lease_id: str) -> None:
        self.late.pop(lease_id, None)
        found = self.engine.pop(lease_id, None)
        if found and found.is_running:
            self.soil(self.held[lease_id])

    def ours(self) -> list[Container]:
        return [x for x in self.engine.values() if c.is_ours(HUB, x)]

    def whole_groups(self) -> list[frozenset[str]]:
        """Return the groups to be kept: the best of their size of those that work."""
        if not self.keep:
            return []
        slots = [slot for slot in self.slots if slot.kind is SlotKind.DEVICE]
        leasable = tuple(slot.device for slot in slots if self.is_fit(slot.device))
        if leasable not in self.groups:
            groups = [
                group
                for group in combinations(leasable, GROUP)
                if len({one.name for one in group}) == 1
            ]
            best = max(map(self.worth, groups), default=None)
            self.groups[leasable] = [
                frozenset(one.uuid for one in group)
                for group in groups
                if self.worth(group) == best
            ]
        return self.groups[leasable]

    def worth(self, group: tuple[Device, ...]) -> tuple[bool, int]:
        """Joined throughout, or else the number of links."""
        if not self.topology.links:
            return False, 0
        pairs = list(combinations(group, 2))
        links = sum(joined(a, b) for a, b in pairs)
        return links == len(pairs), links

    def sets(
        self, request: SlotRequest, free: Iterable[Slot]
    ) -> Iterator[tuple[Slot, ...]]:
        """Yield every set of free slots that is what was asked for."""
        alike = [slot for slot in free if slot.kind is request.kind]
        for some in combinations(alike, request.n_slots):
            if self.is_what_was_asked_for(some, request):
                yield some

    def is_what_was_asked_for(
        self, some: tuple[Slot, ...], request: SlotRequest
    ) -> bool:
        return (
            len({slot.id for slot in some}) == request.n_slots
            and all(slot.kind is request.kind for slot in some)
            and all(request.type in {"", slot.type} for slot in some)
            and all(s.memory_bytes >= request.min_memory_bytes for s in some)
            and len({slot.device.name for slot in some}) <= 1
            and (len(some) <= 1 or request.kind is SlotKind.DEVICE)
            and (
                not request.must_be_connected
                or all(
                    self.topology.links and joined(a.device, b.device)
                    for a, b in combinations(some, 2)
                )
            )
        )

    def keeps_groups(
        self, request: SlotRequest, some: Iterable[Slot], free: Iterable[Slot]
    ) -> bool:
        if request.kind is not SlotKind.DEVICE or not 0 < request.n_slots < GROUP:
            return True
        before = {slot.id for slot in free}
        after = before - {slot.id for slot in some}
        groups = [group for group in self.whole_groups() if group <= before]
        return not groups or any(group <= after for group in groups)

    def can_be_granted(self, request: SlotRequest, free: Iterable[Slot]) -> bool:
        free = list(free)
        return any(
            self.keeps_groups(request, some, free) for some in self.sets(request, free)
        )

    def granted(self, lease: Lease, request: SlotRequest, free: list[Slot]) -> None:
        """Check a lease, granted while these slots were free, against the model."""
        assert self.pool.is_ready
        assert lease.state is LeaseState.STARTING
        assert lease.why
        assert self.is_what_was_asked_for(lease.slots, request)
        assert self.keeps_groups(request, lease.slots, free)
        current = {slot.id: slot for slot in self.slots}
        for slot in lease.slots:
            assert slot == current[slot.id]
            assert self.is_fit(slot.device)
            assert slot.id not in self.dirty
            assert not {slot.uuid, slot.device.uuid} & self.foreign
            running = {found.name for found in self.ours() if found.is_running}
            for name in running | self.starting.keys() - self.ended:
                assert not any(clash(slot, held) for held in self.held[name])
        assert lease.id not in self.held
        self.held[lease.id] = lease.slots
        self.starting[lease.id] = lease

    # -- users

    @rule(user=st.sampled_from(USERS), pick=picks, until=stages)
    def starts(self, user: str, pick: int, until: str) -> None:
        self.joins(user, pick)
        self.turns_come()
        self.goes_on(until)

    @rule(user=st.sampled_from(USERS), pick=picks)
    def joins(self, user: str, pick: int) -> None:
        request = self.request(pick)
        if not request.n_slots:
            return
        asked = Ticket(self.new_id(), Owner(user, ""), request, self.now)
        try:
            ticket = self.pool.join(asked)
        except NotReady:
            assert not self.pool.is_ready
            return
        except NoCapacity:
            fit = [slot for slot in self.slots if self.is_fit(slot.device)]
            assert not self.can_be_granted(request, fit)
            return
        old = self.waiting.get(user)
        is_kept = old is not None and old.request == request and not self.is_gone(user)
        asked_at = old.asked_at if old and is_kept else self.now
        assert ticket == replace(asked, asked_at=asked_at)
        self.waiting[user] = ticket
        self.absent.discard(user)

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def leaves(self, pick: int) -> None:
        user = nth(self.waiting, pick)
        ticket = self.waiting.pop(user)
        self.absent.discard(user)
        self.pool.queue.leave(ticket.id)
        self.pool.release(ticket.id, self.now)

    @rule()
    def turns_come(self) -> None:
        free = list(self.pool.free)
        asked = {ticket.id: ticket for ticket in self.waiting.values()}
        self.file_before = json.dumps(self.pool.queue.to_json())
        for lease in self.pool.grant(self.now):
            ticket = asked.pop(lease.id)
            user = ticket.owner.user
            assert lease.owner == ticket.owner
            assert user not in self.absent
            self.granted(lease, ticket.request, free)
            free = [slot for slot in free if slot not in lease.slots]
            del self.waiting[user]

    @rule(pick=picks, user=st.sampled_from(USERS))
    def starts_without_a_queue(self, pick: int, user: str) -> None:
        free, lease_id, request = (
            list(self.pool.free),
            self.new_id(),
            self.request(pick),
        )
        try:
            lease = self.pool.acquire(lease_id, Owner(user, ""), request, self.now)
        except NotReady:
            assert not self.pool.is_ready
        except NoCapacity:
            fit = [slot for slot in self.slots if self.is_fit(slot.device)]
            assert not (
                self.can_be_granted(request, free) and self.can_be_granted(request, fit)
            )
        else:
            self.granted(lease, request, free)

    @precondition(lambda self: self.starting)
    @rule(until=stages)
    def goes_on(self, until: str) -> None:
        for lease_id in list(self.starting):
            if until != "granted":
                self.makes_container(self.starting[lease_id])
            if until in {"runs", "answers"}:
                self.runs_container(lease_id)
            if until == "answers" and self.engine[lease_id].is_running:
                self.pool.activate(lease_id)
                del self.starting[lease_id]

    def makes_container(self, lease: Lease) -> None:
        self.claims.add(lease.id)
        self.engine.setdefault(lease.id, container_of(lease))

    def runs_container(self, lease_id: str) -> None:
        lease = self.pool.leases.get(lease_id)
        if lease and lease.state is LeaseState.STARTING:
            found = self.engine[lease_id]
            self.engine[lease_id] = replace(found, status="running")
            self.database.add(lease_id)

    @precondition(lambda self: self.starting)
    @rule(pick=picks, is_late=st.booleans())
    def start_is_cancelled(self, pick: int, is_late: bool) -> None:
        lease_id = nth(self.starting, pick)
        lease = self.starting.pop(lease_id)
        if is_late and lease_id not in self.engine:
            self.late[lease_id] = container_of(lease)
        self.claims.discard(lease_id)
        self.database.discard(lease_id)
        self.end(lease_id)

    @precondition(lambda self: self.ours())
    @rule(pick=picks, fails=st.booleans())
    def server_is_stopped(self, pick: int, fails: bool) -> None:
        lease_id = nth([found.name for found in self.ours()], pick)
        self.end(lease_id)
        if fails:
            return
        self.starting.pop(lease_id, None)
        self.claims.discard(lease_id)
        self.database.discard(lease_id)
        self.remove(lease_id)
        self.pool.release(lease_id, self.now)
        self.pool.release(lease_id, self.now)

    @precondition(lambda self: self.pool.leases)
    @rule(pick=picks)
    def server_is_evicted(self, pick: int) -> None:
        self.end(nth(self.pool.leases, pick))

    # -- the machine and other people

    @precondition(lambda self: self.ours())
    @rule(pick=picks)
    def container_is_removed_by_hand(self, pick: int) -> None:
        self.remove(nth([found.name for found in self.ours()], pick))

    @precondition(lambda self: self.late)
    @rule(pick=picks)
    def engine_makes_what_nobody_waits_for(self, pick: int) -> None:
        lease_id = nth(self.late, pick)
        self.engine[lease_id] = self.late.pop(lease_id)

    @precondition(lambda self: self.machine)
    @rule(pick=picks, by_index=st.booleans(), is_part=st.booleans())
    def somebody_takes_a_gpu(self, pick: int, by_index: bool, is_part: bool) -> None:
        one = self.machine[nth(self.machine, pick)]
        name = str(one.index) if by_index else one.uuid
        if is_part and one.instances:
            name = one.instances[0].uuid
        claim = DeviceClaim((name,))
        self.engine["theirs"] = Container("x", "theirs", "running", {}, claim)

    @precondition(lambda self: "theirs" in self.engine)
    @rule()
    def somebody_gives_it_back(self) -> None:
        del self.engine["theirs"]

    @precondition(lambda self: self.machine)
    @rule(pick=picks)
    def device_is_lost_or_comes_back(self, pick: int) -> None:
        one = self.machine[nth(self.machine, pick)]
        self.changes(replace(one, is_lost=not one.is_lost))
        if one.is_lost:
            self.dirty |= {s.id for s in self.slots if s.device.uuid == one.uuid}

    @precondition(lambda self: self.machine)
    @rule(pick=picks)
    def mig_mode_is_switched(self, pick: int) -> None:
        one = self.machine[nth(self.machine, pick)]
        held = [slot for name in self.engine for slot in self.held.get(name, ())]
        if any(s.kind is SlotKind.MIG and s.device.uuid == one.uuid for s in held):
            return  # nvidia-smi refuses while an instance is in use
        self.changes(
            replace(one, is_split=False, instances=()) if one.is_split else split(one)
        )
        self.dirty |= {s.id for s in self.slots if s.device.uuid == one.uuid}

    def changes(self, one: Device) -> None:
        self.machine[one.uuid] = one
        self.pool.see(list(self.machine.values()), self.now)

    @precondition(lambda self: self.machine)
    @rule(pick=picks)
    def device_is_judged(self, pick: int) -> None:
        uuid = nth(self.machine, pick)
        if self.unfit.pop(uuid, None) is None:
            self.unfit[uuid] = "XID 79"
        self.pool.judge(dict(self.unfit))

    @precondition(lambda self: self.pool.returned)
    @rule(data=st.data())
    def slots_are_seen_clean(self, data: st.DataObject) -> None:
        clean = data.draw(st.sets(st.sampled_from(sorted(self.pool.returned))))
        self.pool.cleaned(clean)
        self.dirty -= clean

    @rule()
    def every_slot_is_seen_clean(self) -> None:
        clean = set(self.pool.returned)
        self.pool.cleaned(clean)
        self.dirty -= clean

    @rule(seconds=st.sampled_from([1, 90, 200]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def is_gone(self, user: str) -> bool:
        return user in self.absent and self.now >= self.absent_until

    @rule()
    def queue_is_tidied(self) -> None:
        for ticket in self.pool.queue.expired(self.now, LIMIT_S):
            user = ticket.owner.user
            old = self.now - ticket.asked_at >= timedelta(seconds=LIMIT_S)
            assert old or self.is_gone(user)
            self.pool.queue.leave(ticket.id)
            del self.waiting[user]
            self.absent.discard(user)

    # -- the hub

    @rule()
    def queue_is_written(self) -> None:
        self.file = json.dumps(self.pool.queue.to_json())

    @rule(
        file=st.sampled_from(["as written", "before the last grant", "now"]),
        is_late=st.booleans(),
        is_configured=st.booleans(),
        comes_back=st.booleans(),
    )
    def hub_dies(
        self, file: str, is_late: bool, is_configured: bool, comes_back: bool
    ) -> None:
        if file == "now":
            self.queue_is_written()
        elif file == "before the last grant":
            self.file = self.file_before
        for lease in self.starting.values():
            if is_late and lease.id not in self.engine:
                self.late[lease.id] = container_of(lease)
        self.starting.clear()
        if is_configured:
            self.shares = {uuid: 5 - n for uuid, n in self.shares.items()}
        self.begin()
        if comes_back:
            self.reconciles()
            self.every_slot_is_seen_clean()

    @rule()
    def leases_are_copied(self) -> None:
        self.before, self.listing = dict(self.pool.leases), None

    @precondition(lambda self: self.before is not None)
    @rule()
    def containers_are_listed(self) -> None:
        self.listing = list(self.engine.values())

    @precondition(lambda self: self.listing is not None)
    @rule(fails=st.booleans())
    def plan_is_done(self, fails: bool) -> None:
        assert self.before is not None
        assert self.listing is not None
        devices = list(self.machine.values())
        found = plan(HUB, self.listing, self.before, self.claims, devices)
        self.pool.apply(found, self.now)
        self.foreign = set(found.foreign)
        adopted = {lease.id for lease in found.adopt}
        for user, ticket in list(self.waiting.items()):
            if ticket.id in adopted:
                del self.waiting[user]
                self.absent.discard(user)
        self.before = self.listing = None
        for container_id in found.remove:
            lease_id = container_id.removeprefix("id-")
            if not fails:
                self.starting.pop(lease_id, None)
                self.remove(lease_id)
                self.pool.release(lease_id, self.now)

    @rule()
    def reconciles(self) -> None:
        self.leases_are_copied()
        self.containers_are_listed()
        self.plan_is_done(fails=False)
        devices = list(self.machine.values())
        listing, leases = list(self.engine.values()), self.pool.leases
        again = plan(HUB, listing, leases, self.claims, devices)
        assert (again.adopt, again.remove, again.drop) == ((), (), ())
        ours = {found.name: found for found in self.ours()}
        placed = {x.id for x in leases.values() if x.state is not LeaseState.STARTING}
        assert placed <= ours.keys() <= leases.keys()
        assert leases.keys() - ours.keys() <= self.starting.keys()
        for name, found in ours.items():
            assert [s.label for s in leases[name].slots] == list(c.slots_of(found))

    # -- what always holds

    @invariant()
    def a_slot_is_in_at_most_one_running_container(self) -> None:
        running = [x.name for x in self.ours() if x.is_running]
        for one, other in combinations(running, 2):
            for slot in self.held[one]:
                assert not any(clash(slot, held) for held in self.held[other])

    @invariant()
    def everybody_who_waits_has_one_ticket(self) -> None:
        found = {ticket.owner.user: ticket for ticket in self.pool.queue.tickets}
        assert len(found) == len(self.pool.queue.tickets)
        assert found == self.waiting

    @invariant()
    def a_slot_is_free_or_there_is_a_reason(self) -> None:
        free = {slot.id for slot in self.pool.free}
        if not self.pool.is_ready:
            assert not free
            return
        for slot in self.slots:
            reasons = [
                not self.is_fit(slot.device),
                bool({slot.uuid, slot.device.uuid} & self.foreign),
                self.pool.holder(slot.id) is not None,
                slot.id in self.pool.returned,
            ]
            assert (slot.id in free) != any(reasons)
            assert not (reasons[2] and reasons[3])
            holders = [
                lease.id
                for lease in self.pool.leases.values()
                if any(clash(slot, held) for held in lease.slots)
            ]
            assert bool(holders) == reasons[2]

    @invariant()
    def everybody_is_told_a_place(self) -> None:
        if not self.pool.is_ready:
            return
        there = {t.id for u, t in self.waiting.items() if not self.is_gone(u)}
        assert self.pool.places(self.now).keys() == there

    def teardown(self) -> None:
        """When all is well again, everybody who waits and can be served is served."""
        if not hasattr(self, "machine"):
            return
        self.engine.pop("theirs", None)
        self.unfit.clear()
        self.pool.judge({})
        for one in list(self.machine.values()):
            self.changes(replace(one, is_lost=False))
        self.late.clear()
        for lease_id in list(self.pool.leases):
            self.end(lease_id)
        self.starting.clear()
        self.claims.clear()
        self.database.clear()
        self.reconciles()
        assert not self.pool.leases
        self.now = max(self.now, self.absent_until)
        self.queue_is_tidied()
        assert not self.absent
        served = True
        while served:
            self.every_slot_is_seen_clean()
            assert len(self.pool.free) == len(self.slots)
            before = len(self.waiting)
            self.turns_come()
            served = len(self.waiting) < before
            for lease_id in list(self.starting):
                del self.starting[lease_id]
                self.pool.release(lease_id, self.now)
        for ticket in self.waiting.values():
            assert not self.can_be_granted(ticket.request, self.pool.free)


def container_of(lease: Lease) -> Container:
    labels = c.labels(HUB, lease, lease.id)
    return Container(f"id-{lease.id}", lease.id, "created", labels)


def nth(some: Iterable[str], pick: int) -> str:
    every = sorted(some)
    return every[pick % len(every)]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None
)
