"""The single owner of slots: who holds which, who waits for which, in memory.

Every method is synchronous, so within one event loop each is atomic. The truth about
who holds what lies in the engine's containers; `apply` brings the pool back to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial

from gpuspawner import refusals
from gpuspawner.durations import Durations
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.links import Topology
from gpuspawner.model import Device, Lease, LeaseState, Owner, Slot, SlotRequest
from gpuspawner.recovery import Plan
from gpuspawner.slots import SlotState, fits, overlap
from gpuspawner.stock import Stock
from gpuspawner.tickets import Moment, Place, Priority, Running, Ticket
from gpuspawner.waiting import Queue

CLEAN_WITHIN = timedelta(seconds=10)  # that a returned slot is expected to take
FALSE_START_S = 60.0  # a lease that ended sooner says nothing about how long they last
NOBODY = Owner("", "")
NEWCOMER = Owner("\0", "")  # no user's name


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
        leases: Id -> lease; a lease stays until its container is surely gone.
        returned: Slot id -> slots to be seen clean before they are leased again; nobody
            holds them.
        foreign: UUID -> container that is not ours and holds the device or instance.
        is_ready: The engine's containers have been read; nothing is granted before.
        trouble: Why the devices cannot be read now, "" if they can; while there is
            trouble no device is granted.
        queue: Who waits; see `join` and `grant`. Nobody waits who has a lease of the
            ticket's id.
        durations: How long leases last.
        priorities: Courses that go first now and then.
    """

    def __init__(
        self,
        shares: Mapping[str, int] | None = None,
        keep_intact: Mapping[int, int] | None = None,
    ) -> None:
        self.leases: dict[str, Lease] = {}
        self.returned: dict[str, Returned] = {}
        self.foreign: Mapping[str, str] = {}
        self.is_ready = False
        self.trouble = ""
        self.queue = Queue()
        self.durations = Durations()
        self.priorities: Sequence[Priority] = ()
        self._stock = Stock(shares or {}, keep_intact or {})
        self._held_on: dict[str, dict[str, None]] = {}

    # -- what there is -----------------------------------------------------------

    @property
    def devices(self) -> Mapping[str, Device]:
        """UUID -> device, as last seen."""
        return self._stock.devices

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Id -> slot, as last seen, by device index."""
        return self._stock.slots

    @property
    def unfit(self) -> Mapping[str, str]:
        """UUID of a device -> why it is not leased now."""
        return self._stock.unfit

    def see(
        self,
        devices: Sequence[Device],
        now: datetime,
        topology: Topology | None = None,
    ) -> None:
        """Take note of the devices there are now.

        New slots, and those of a device that came back, must first be seen clean.
        Without a topology the one known is kept.
        """
        self.trouble = ""
        if topology is None and {d.uuid: d for d in devices} == self.devices:
            return
        fresh = self._stock.see(devices, topology)
        # A lease may have been read from a container while its device was not known.
        leases, self._held_on = list(self.leases.values()), {}
        for lease in leases:
            self._hold(
                replace(lease, slots=tuple(map(self._stock.current, lease.slots)))
            )
        self.returned = {
            slot_id: replace(returned, slot=self.slots[slot_id])
            for slot_id, returned in self.returned.items()
            if slot_id in self.slots
        }
        self._take_back(fresh, now)

    def judge(self, unfit: Mapping[str, str]) -> None:
        """Take note of which devices must not be leased now, and why."""
        self._stock.judge(unfit)

    def apply(self, plan: Plan, now: datetime) -> None:
        """Bring leases in line with the containers; from now on leases are granted."""
        for lease in plan.adopt:
            if lease.id not in self.leases:
                self._hold(lease)
        for lease_id in plan.drop:
            self.release(lease_id, now)
        self.foreign = dict(plan.foreign)
        self.is_ready = True

    # -- who holds what ----------------------------------------------------------

    @property
    def free(self) -> tuple[Slot, ...]:
        """Slots that can be leased now, by device index."""
        if self.trouble or not self.is_ready:
            return ()
        return tuple(
            slot for slot in self.slots.values() if self._state(slot) is SlotState.FREE
        )

    def holder(self, slot_id: str) -> Lease | None:
        """Return the lease that keeps a slot from being leased, None if there is none.

        That is the one that holds it, or one that holds the same device otherwise.
        """
        slot = self.slots.get(slot_id)
        return self._holder(slot) if slot else None

    def _holder(self, slot: Slot) -> Lease | None:
        for key in _keys(slot):
            for lease_id in self._held_on.get(key, ()):
                lease = self.leases[lease_id]
                if any(overlap(slot, held) for held in lease.slots):
                    return lease
        return None

    def _state(self, slot: Slot) -> SlotState:
        if not self._stock.is_fit(slot):
            return SlotState.UNFIT
        if self._is_foreign(slot):
            return SlotState.FOREIGN
        if self._holder(slot):
            return SlotState.LEASED
        return SlotState.RETURNED if slot.id in self.returned else SlotState.FREE

    def _is_foreign(self, slot: Slot) -> bool:
        return slot.uuid in self.foreign or slot.device.uuid in self.foreign

    def _hold(self, lease: Lease) -> None:
        self.leases[lease.id] = lease
        self.queue.leave(lease.id)
        for held in lease.slots:
            for key in _keys(held):
                self._held_on.setdefault(key, {})[lease.id] = None
            for slot in self._stock.beside(held):
                self.returned.pop(slot.id, None)

    def _take_back(self, slots: Iterable[Slot], now: datetime) -> None:
        for slot in slots:
            if not self._holder(slot):
                self.returned[slot.id] = Returned(slot, now)

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
        if why := self._stock.why_never(request):
            raise NoCapacity(why)

    def acquire(
        self, lease_id: str, owner: Owner, request: SlotRequest, now: datetime
    ) -> Lease:
        """Return a lease of exactly what is asked for, in state STARTING.

        A CPU server gets a lease without slots, so that every container has one.

        Raises:
            NotReady: See `check`.
            NoCapacity: See `check`; or too few slots are free: says who has to wait for
                what.
            ValueError: The id is in use.
        """
        self.check(request)
        if lease_id in self.leases:
            raise ValueError(f"lease {lease_id} exists")
        free = self.free
        pick = self._stock.pick(request, free)
        if pick is None:
            raise NoCapacity(self._why_not(request, free))
        lease = _lease(lease_id, owner, pick.slots, pick.why, now)
        self._hold(lease)
        self._stock.note(request)
        return lease

    def activate(self, lease_id: str) -> None:
        """Note that the lease's container runs; an ended lease stays ended."""
        lease = self.leases.get(lease_id)
        if lease and lease.state is LeaseState.STARTING:
            self.leases[lease_id] = lease.to(LeaseState.ACTIVE)

    def end(self, lease_id: str) -> None:
        """Note that the lease's container must go. Its slots stay taken until then.

        Safe to call twice, and for leases that are already gone.
        """
        lease = self.leases.get(lease_id)
        if lease:
            self.leases[lease_id] = lease.to(LeaseState.RELEASING)

    def release(self, lease_id: str, now: datetime) -> None:
        """End a lease whose container is surely gone; its slots must be seen clean.

        Safe to call twice.
        """
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        for held in lease.slots:
            for key in _keys(held):
                self._held_on.get(key, {}).pop(lease_id, None)
        for held in lease.slots:
            self._take_back(self._stock.beside(held), now)
        self._learn(lease, now)

    def cleaned(self, slot_ids: Iterable[str]) -> None:
        """Note that these slots were seen clean: they can be leased again.

        Counts only when it is known who holds what: a server that nobody has read yet
        may be on a slot that looks clean now.
        """
        if not self.is_ready:
            return
        for slot_id in slot_ids:
            self.returned.pop(slot_id, None)

    def _learn(self, lease: Lease, now: datetime) -> None:
        if not lease.slots or lease.since is None:
            return
        seconds = (now - lease.since).total_seconds()
        if seconds > FALSE_START_S:
            self.durations.note(_size(lease), seconds)

    def _why_not(self, request: SlotRequest, free: Sequence[Slot]) -> str:
        every = [slot for slot in self.slots.values() if fits(slot, request)]
        return self._stock.why_unsuited(request, free) or refusals.full(
            request, [self._state(slot) for slot in every]
        )

    # -- waiting -----------------------------------------------------------------

    def join(self, ticket: Ticket) -> Ticket:
        """Let a server wait; return its ticket, which has the id that was given.

        One that waits already for the same keeps its place, see `Queue.join`.

        Raises:
            NotReady: See `check`.
            NoCapacity: See `check`.
            ValueError: A lease has the ticket's id; or see `Queue.join`.
        """
        self.check(ticket.request)
        if ticket.id in self.leases:
            raise ValueError(f"lease {ticket.id} exists")
        kept = self.queue.join(ticket)
        if kept.id == ticket.id:
            return kept
        # A killed hub may have granted the old id: its container may appear any time.
        self.queue.leave(kept.id)
        return self.queue.join(replace(ticket, asked_at=kept.asked_at))

    def grant(self, now: datetime) -> tuple[Lease, ...]:
        """Give free slots to those whose turn it is; a ticket's id is its lease's."""
        if not self.is_ready or not self.queue.tickets:
            return ()
        granted = []
        free, moment = self.free, self._moment(now)
        for ticket, slot_ids in self.queue.startable(moment):
            pick = self._stock.pick(ticket.request, free)
            is_best = pick is not None and pick.ids == slot_ids
            if not is_best and self._stock.is_kept_from(ticket.request):
                continue  # out of fewer slots a group to be kept may not be seen whole
            slots = tuple(slot for slot in free if slot.id in slot_ids)
            why = pick.why if pick and is_best else _why_early(slots)
            free = tuple(slot for slot in free if slot.id not in slot_ids)
            self.queue.start(ticket.id, slot_ids, moment.reach)
            lease = _lease(ticket.id, ticket.owner, slots, why, now)
            self._hold(lease)
            granted.append((lease, ticket.request))
        for _, request in granted:  # not before: it changes what is picked
            self._stock.note(request)
        return tuple(lease for lease, _ in granted)

    def places(self, now: datetime) -> Mapping[str, Place]:
        """Return ticket id -> where it stands and how long it waits, by estimate."""
        return self.queue.places(self._moment(now))

    def outlook(self, request: SlotRequest, now: datetime) -> Place:
        """Return where a request would stand if it came now."""
        ticket = Ticket("", NEWCOMER, request, now)
        trial = deepcopy(self.queue)
        trial.join(ticket)
        return trial.places(self._moment(now))[ticket.id]

    def _moment(self, now: datetime) -> Moment:
        free = frozenset(slot.id for slot in self.free)
        return Moment(
            now=now,
            free=free,
            running=tuple(self._running(now)),
            fits=cache(partial(self._fits, free)),
            reach=cache(self._stock.reach),
            durations=self.durations,
            priorities=self.priorities,
        )

    def _running(self, now: datetime) -> Iterator[Running]:
        for lease in self.leases.values():
            near = [slot for held in lease.slots for slot in self._stock.beside(held)]
            if near:
                ends = self.durations.ends_at(_size(lease), lease.since or now, now)
                yield Running(lease.owner, frozenset(slot.id for slot in near), ends)
        for slot_id in self.returned:
            yield Running(NOBODY, frozenset({slot_id}), now + CLEAN_WITHIN)
        for slot in self.slots.values():
            if self._is_foreign(slot):
                yield Running(NOBODY, frozenset({slot.id}), None)

    def _fits(
        self, free: frozenset[str], request: SlotRequest, room: frozenset[str]
    ) -> frozenset[str] | None:
        """Return what a request would get out of the room; see `tickets.Fits`.

        Devices that do not suit it may have groups to be kept, so they count too: as
        they are now, or as if all were free if the question is about later.
        """
        is_now = room <= free
        slots = [
            slot
            for slot in self.slots.values()
            if slot.id in room
            or (
                (slot.id in free if is_now else self._stock.is_fit(slot))
                and not fits(slot, request)
            )
        ]
        pick = self._stock.pick(request, slots)
        return pick.ids if pick else None


def _keys(slot: Slot) -> set[str]:
    """Return what leases are found by; of a MIG instance the device may be unknown."""
    return {slot.device.uuid, slot.id}


def _lease(
    lease_id: str, owner: Owner, slots: tuple[Slot, ...], why: str, now: datetime
) -> Lease:
    return Lease(lease_id, owner, slots, LeaseState.STARTING, why, now)


def _size(lease: Lease) -> SlotRequest:
    """Return the request that a lease answers, as far as durations tell sizes apart."""
    first = lease.slots[0]
    return SlotRequest(len(lease.slots), first.kind, first.type)


def _why_early(slots: Iterable[Slot]) -> str:
    return f"{' and '.join(map(str, slots))}: nobody ahead in the queue is delayed"
