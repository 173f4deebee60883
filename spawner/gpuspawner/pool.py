"""The single owner of slots: who holds which, who waits for which, in memory.

Every method is synchronous, so within one event loop each is atomic. The truth about
who holds what lies in the engine's containers; `apply` brings the pool back to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuspawner import refusals
from gpuspawner.durations import Durations
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.links import Topology
from gpuspawner.model import (
    Device,
    Lease,
    LeaseState,
    Owner,
    Slot,
    SlotKind,
    SlotRequest,
    whole,
)
from gpuspawner.recovery import Plan
from gpuspawner.slots import fits, overlap, pick_part, slots_of
from gpuspawner.tickets import Moment, Place, Priority, Running, Ticket
from gpuspawner.topology import Chooser
from gpuspawner.waiting import Queue

CLEAN_WITHIN = timedelta(seconds=10)  # that a returned slot is expected to take
FALSE_START_S = 60.0  # a lease that ended sooner says nothing about how long they last
NOBODY = Owner("", "")


@dataclass(frozen=True, slots=True)
class Returned:
    """A slot whose last holder is gone, but that was not seen clean since.

    Attributes:
        slot: The slot.
        since: When its lease ended, or when the hub first saw the slot.
    """

    slot: Slot
    since: datetime


class Pool:
    """Leases slots, each to one server at a time.

    Args:
        shares: See `slots.slots_of`.
        keep_intact: See `Chooser`.

    Attributes:
        devices: UUID -> device, as last seen.
        slots: Id -> slot, as last seen.
        leases: Id -> lease; a lease stays until its container is surely gone.
        returned: Slot id -> slots to be seen clean before they are leased again.
        foreign: UUID -> container that is not ours and holds the device or instance.
        unfit: UUID of a device -> why it is not leased now.
        is_ready: The engine's containers have been read; nothing is granted before.
        trouble: Why the devices cannot be read now, "" if they can; while there is
            trouble no device is granted.
        queue: Who waits; see `join` and `grant`.
        durations: How long leases last.
        priorities: Courses that go first now and then.
    """

    def __init__(
        self,
        shares: Mapping[str, int] | None = None,
        keep_intact: Mapping[int, int] | None = None,
    ) -> None:
        self.devices: dict[str, Device] = {}
        self.slots: dict[str, Slot] = {}
        self.leases: dict[str, Lease] = {}
        self.returned: dict[str, Returned] = {}
        self.foreign: Mapping[str, str] = {}
        self.unfit: Mapping[str, str] = {}
        self.is_ready = False
        self.trouble = ""
        self.queue = Queue()
        self.durations = Durations()
        self.priorities: Sequence[Priority] = ()
        self._shares = shares or {}
        self._topology = Topology()
        self._chooser = Chooser(keep_intact or {})

    # -- what there is -----------------------------------------------------------

    def see(
        self,
        devices: Sequence[Device],
        now: datetime,
        topology: Topology | None = None,
    ) -> None:
        """Take note of the devices there are now; new slots must first be seen clean.

        Without a topology the one known is kept.
        """
        self.trouble = ""
        self.devices = {device.uuid: device for device in devices}
        known = self.slots
        self.slots = {slot.id: slot for slot in slots_of(devices, self._shares)}
        for slot in self.slots.values():
            if slot.id not in known and not self._holder(slot):
                self.returned.setdefault(slot.id, Returned(slot, now))
        self.returned = {
            key: value for key, value in self.returned.items() if key in self.slots
        }
        self._topology = topology or self._topology
        self._refresh()

    def judge(self, unfit: Mapping[str, str]) -> None:
        """Take note of which devices must not be leased now, and why."""
        if unfit != self.unfit:
            self.unfit = dict(unfit)
            self._refresh()

    def _refresh(self) -> None:
        leasable = [
            slot.device
            for slot in self.slots.values()
            if slot.kind is SlotKind.DEVICE and self._is_fit(slot)
        ]
        self._chooser.see(leasable, self._topology)

    def apply(self, plan: Plan, now: datetime) -> None:
        """Bring leases in line with the containers; from now on leases are granted."""
        for lease in plan.adopt:
            self.leases.setdefault(lease.id, lease)
            for slot in lease.slots:
                self.returned.pop(slot.id, None)
        for lease_id in plan.drop:
            self.release(lease_id, now)
        self.foreign = dict(plan.foreign)
        self.is_ready = True

    # -- who holds what ----------------------------------------------------------

    @property
    def free(self) -> tuple[Slot, ...]:
        """Slots that can be leased now, by device index."""
        if self.trouble:
            return ()
        return tuple(
            slot
            for slot in self.slots.values()
            if self._is_fit(slot)
            and slot.id not in self.returned
            and not self._holder(slot)
            and not self.foreign.keys() & {slot.uuid, slot.device.uuid}
        )

    def holder(self, slot_id: str) -> Lease | None:
        """Return the lease that keeps a slot from being leased, None if there is none.

        That is the one that holds it, or one that holds the same device otherwise.
        """
        slot = self.slots.get(slot_id)
        return self._holder(slot) if slot else None

    def _holder(self, slot: Slot) -> Lease | None:
        for lease in self.leases.values():
            if any(overlap(slot, held) for held in lease.slots):
                return lease
        return None

    def _is_fit(self, slot: Slot) -> bool:
        return not slot.device.is_lost and slot.device.uuid not in self.unfit

    # -- leasing -----------------------------------------------------------------

    def check(self, request: SlotRequest) -> None:
        """Refuse what cannot be granted now or by waiting.

        Raises:
            NotReady: The containers or the devices cannot be read now.
            NoCapacity: The machine has not enough such slots, or they are out of
                service.
        """
        if not self.is_ready:
            raise NotReady(
                "The hub is still reading which GPUs are in use. Try again in a moment."
            )
        if not request.n_slots:
            return
        if self.trouble:
            raise NotReady(f"{self.trouble} Until then choose CPU only.")
        alive = [slot for slot in self.slots.values() if self._is_fit(slot)]
        if self._pick(request, alive) is None:
            every = self.slots.values()
            raise NoCapacity(
                self._why_unsuited(request, alive)
                or refusals.never(request, every, self.unfit)
            )

    def acquire(
        self, lease_id: str, owner: Owner, request: SlotRequest, now: datetime
    ) -> Lease:
        """Return a lease of exactly what is asked for, in state STARTING.

        A CPU server gets a lease without slots, so that every container has one.

        Raises:
            NotReady: See `check`.
            NoCapacity: Too few slots are free; says who has to wait for what.
            ValueError: The id is in use.
        """
        self.check(request)
        if lease_id in self.leases:
            raise ValueError(f"lease {lease_id} exists")
        free = self.free
        found = self._pick(request, free)
        if found is None:
            raise NoCapacity(self._why_not(request, free))
        return self._lease(lease_id, owner, request, found, now)

    def _lease(
        self,
        lease_id: str,
        owner: Owner,
        request: SlotRequest,
        found: tuple[tuple[Slot, ...], str],
        now: datetime,
    ) -> Lease:
        lease = Lease(lease_id, owner, found[0], LeaseState.STARTING, found[1], now)
        self.leases[lease_id] = lease
        if request.kind is SlotKind.DEVICE and request.n_slots:
            self._chooser.note(request)
        return lease

    # -- waiting -----------------------------------------------------------------

    def join(self, ticket: Ticket) -> Ticket:
        """Let a server wait; return the ticket it keeps, see `Queue.join`.

        Raises:
            NotReady: See `check`.
            NoCapacity: See `check`.
        """
        self.check(ticket.request)
        return self.queue.join(ticket)

    def grant(self, now: datetime) -> tuple[Lease, ...]:
        """Give free slots to those whose turn it is; a ticket's id is its lease's."""
        if not self.is_ready or not self.queue.tickets:
            return ()
        granted = []
        for ticket, slot_ids in self.queue.startable(self._moment(now)):
            found = self._pick(ticket.request, [self.slots[i] for i in slot_ids])
            if found is None:
                continue
            self.queue.start(ticket.id, slot_ids, self._reach)
            granted.append(
                self._lease(ticket.id, ticket.owner, ticket.request, found, now)
            )
        return tuple(granted)

    def places(self, now: datetime) -> Mapping[str, Place]:
        """Return ticket id -> where it stands and how long it waits, by estimate."""
        return self.queue.places(self._moment(now))

    def outlook(self, request: SlotRequest, now: datetime) -> Place:
        """Return where a request would stand if it came now."""
        moment = self._moment(now)
        ticket = Ticket("", Owner("\0", ""), request, now)
        trial = deepcopy(self.queue)
        trial.join(ticket)
        return trial.places(moment)[ticket.id]

    def _moment(self, now: datetime) -> Moment:
        return Moment(
            now=now,
            free=frozenset(slot.id for slot in self.free),
            running=tuple(self._running(now)),
            fits=self._fits,
            reach=self._reach,
            durations=self.durations,
            priorities=self.priorities,
        )

    def _running(self, now: datetime) -> Iterable[Running]:
        for lease in self.leases.values():
            taken = frozenset(
                slot.id
                for slot in self.slots.values()
                if any(overlap(slot, held) for held in lease.slots)
            )
            if taken:
                ends = self.durations.ends_at(_request(lease), lease.since or now, now)
                yield Running(lease.owner, taken, ends)
        for returned in self.returned:
            yield Running(NOBODY, frozenset({returned}), now + CLEAN_WITHIN)
        for slot in self.slots.values():
            if self.foreign.keys() & {slot.uuid, slot.device.uuid}:
                yield Running(NOBODY, frozenset({slot.id}), None)

    def _fits(
        self, request: SlotRequest, free: frozenset[str]
    ) -> frozenset[str] | None:
        slots = [slot for slot in self.slots.values() if slot.id in free]
        found = self._pick(request, slots)
        return frozenset(slot.id for slot in found[0]) if found else None

    def _reach(self, request: SlotRequest) -> frozenset[str]:
        return frozenset(
            slot.id
            for slot in self.slots.values()
            if fits(slot, request) and self._is_fit(slot)
        )

    def _pick(
        self, request: SlotRequest, slots: Iterable[Slot]
    ) -> tuple[tuple[Slot, ...], str] | None:
        """Return slots for a request, and one line why these; None if none will do."""
        if not request.n_slots:
            return (), "no GPU asked for"
        fitting = [slot for slot in slots if fits(slot, request)]
        if request.kind is SlotKind.DEVICE:
            choice = self._chooser.choose({slot.id for slot in fitting}, request)
            return (tuple(map(whole, choice.devices)), choice.why) if choice else None
        if request.n_slots > 1:
            return None  # a program sees one MIG instance; shares do not add up either
        found = pick_part(fitting, tuple(self.slots.values()), request)
        return ((found[0],), found[1]) if found else None

    def _why_not(self, request: SlotRequest, free: Sequence[Slot]) -> str:
        every = [slot for slot in self.slots.values() if fits(slot, request)]
        return self._why_unsuited(request, free) or refusals.full(
            request,
            every,
            [slot for slot in free if fits(slot, request)],
            n_leased=sum(self._holder(slot) is not None for slot in every),
            n_foreign=len(self.foreign),
        )

    def _why_unsuited(self, request: SlotRequest, slots: Iterable[Slot]) -> str:
        """Return why enough devices do not make a set, "" if they are too few."""
        fitting = {slot.id for slot in slots if fits(slot, request)}
        if request.kind is not SlotKind.DEVICE or len(fitting) < request.n_slots:
            return ""
        return self._chooser.why_not(fitting, request)

    def activate(self, lease_id: str) -> None:
        """Note that the lease's container runs; an ended lease stays ended."""
        self._move(lease_id, LeaseState.ACTIVE, {LeaseState.STARTING})

    def end(self, lease_id: str) -> None:
        """Note that the lease's container must go. Its slots stay taken until then.

        Safe to call twice, and for leases that are already gone.
        """
        self._move(
            lease_id, LeaseState.RELEASING, {LeaseState.STARTING, LeaseState.ACTIVE}
        )

    def release(self, lease_id: str, now: datetime) -> None:
        """End a lease whose container is surely gone; its slots must be seen clean."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        for slot in lease.slots:
            if slot.id in self.slots:
                self.returned[slot.id] = Returned(slot, now)
        if not lease.slots or lease.since is None:
            return
        seconds = (now - lease.since).total_seconds()
        if seconds > FALSE_START_S:
            self.durations.note(_request(lease), seconds)

    def cleaned(self, slot_ids: Iterable[str]) -> None:
        """Note that these slots were seen clean: they can be leased again."""
        for slot_id in slot_ids:
            self.returned.pop(slot_id, None)

    def _move(self, lease_id: str, to: LeaseState, states: set[LeaseState]) -> None:
        lease = self.leases.get(lease_id)
        if lease and lease.state in states:
            self.leases[lease_id] = replace(lease, state=to)


def _request(lease: Lease) -> SlotRequest:
    """Return the request that a lease answers, as far as durations tell sizes apart."""
    first = lease.slots[0]
    return SlotRequest(len(lease.slots), first.kind, first.type)
