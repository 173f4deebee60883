"""In what order tickets start, who may start now, and when the others will.

Fair among users who compete for the same slots: who holds fewer of them, or has fewer
tickets ahead, goes first; then who asked first. So who gets a slot falls back with all
other tickets of the class: slots that any one request may have, and what other requests
join to these. When who joined them leaves, each part is a class of its own.

A ticket is overtaken by later ones at most MAX_OVERTAKEN times, so nobody starves. One
that stands behind may start early only if by estimate it delays nobody ahead, in the
order as it is. This is conservative backfilling: EASY (Lifka, "The ANL/IBM SP
Scheduling System", 1995) with a reservation for everybody, not only for the first
(Mu'alem and Feitelson, IEEE TPDS 12(6), 2001). Who does not compete with anybody ahead
is held up by nobody.

Nothing here knows of GPUs: the pool says what fits.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from math import inf

from gpuspawner.model import SlotRequest
from gpuspawner.tickets import (
    MAX_OVERTAKEN,
    Moment,
    Place,
    Priority,
    Reach,
    Running,
    Ticket,
    Wait,
    age,
)

OVERDUE_S = 60.0  # what a lease that should have ended is expected to last still


def startable(
    waits: Mapping[str, Wait], moment: Moment
) -> list[tuple[Ticket, frozenset[str]]]:
    """Return who starts now, in order, each with its slots: disjoint parts of the free.

    Nobody whose owner is absent starts, and nobody behind takes what would make such a
    ticket wait longer.
    """
    waits = dict(waits)
    found: list[tuple[Ticket, frozenset[str]]] = []
    while moment.free and (next_ := _next(waits, moment)):
        ticket, slots = next_
        found.append(next_)
        start(waits, ticket.id, slots, moment.reach)
        ends = moment.durations.ends_at(ticket.request, moment.now, moment.now)
        lease = Running(ticket.owner, slots, ends)
        moment = replace(
            moment, free=moment.free - slots, running=(*moment.running, lease)
        )
    return found


def start(
    waits: dict[str, Wait], ticket_id: str, slots: frozenset[str], reach: Reach
) -> None:
    """Take out a ticket because it got these slots, and note whom it overtook."""
    started = waits.pop(ticket_id, None)
    if started is None:
        return
    for other in list(waits.values()):
        could_use = not slots.isdisjoint(reach(other.ticket.request))
        if age(other) < age(started) and could_use:
            n = min(other.n_overtaken + 1, MAX_OVERTAKEN)
            waits[other.ticket.id] = replace(other, n_overtaken=n)


def places(waits: Mapping[str, Wait], moment: Moment) -> dict[str, Place]:
    """Return ticket id -> where it stands, in order.

    The wait assumes that leases end as expected and that nobody else comes.
    """
    scene, plan = _Scene(waits.values(), moment), _Plan(moment)
    found: dict[str, Place] = {}
    ahead: Counter[SlotRequest] = Counter()
    starts: defaultdict[str, list[tuple[SlotRequest, float]]] = defaultdict(list)
    for wait in _ordered(waits, scene, moment):
        request = wait.ticket.request
        n = sum(k for other, k in ahead.items() if scene.compete(request, other))
        if request in scene.possible:
            own = starts[wait.ticket.owner.user]
            before = [s for other, s in own if scene.compete(request, other)]
            start_s = max(plan.add(wait, scene.reach[request]), *before, 0.0)
            own.append((request, start_s))
            ahead[request] += 1
            place = Place(n, start_s if start_s < inf else None)
        else:
            place = Place(n, None, is_possible=False)
        found[wait.ticket.id] = place
    return found


class _Scene:
    """Who competes with whom, as long as nobody comes or leaves."""

    def __init__(self, waits: Iterable[Wait], moment: Moment) -> None:
        requests = {wait.ticket.request for wait in waits}
        self.reach = {r: moment.reach(r) for r in requests}
        self.possible = {
            request
            for request in requests
            if moment.fits(request, self.reach[request]) is not None
        }
        self.classes: list[frozenset[str]] = []
        for slots in set(self.reach.values()):
            joint = [c for c in self.classes if not c.isdisjoint(slots)]
            apart = [c for c in self.classes if c.isdisjoint(slots)]
            self.classes = [*apart, slots.union(*joint)]
        self.class_of = {
            request: next(
                (n for n, c in enumerate(self.classes) if not c.isdisjoint(slots)), -1
            )
            for request, slots in self.reach.items()
        }

    def compete(self, one: SlotRequest, other: SlotRequest) -> bool:
        """Whether a slot may serve either."""
        return not self.reach[one].isdisjoint(self.reach[other])

    def share(self, wait: Wait) -> tuple[int, str]:
        """Return whose share of what the ticket counts against."""
        return self.class_of[wait.ticket.request], wait.ticket.owner.user


class _Plan:
    """When each ticket starts by estimate, in the order they are added.

    Attributes:
        free_at: Slot -> seconds from now until it is free, after all who were added.
    """

    def __init__(self, moment: Moment) -> None:
        self._fits, self._durations = moment.fits, moment.durations
        self.free_at = dict.fromkeys(moment.free, 0.0)
        for lease in moment.running:
            left_s = inf
            if lease.ends_at is not None:
                left_s = (lease.ends_at - moment.now).total_seconds()
            left_s = left_s if left_s > 0 else OVERDUE_S
            for slot in lease.slots:  # several may hold up one, as shares a device
                self.free_at[slot] = max(left_s, self.free_at.get(slot, 0.0))

    def take(self, slots: Iterable[str], until_s: float) -> None:
        """Note that the slots are taken until then."""
        self.free_at.update(dict.fromkeys(slots, until_s))

    def add(self, wait: Wait, reach: frozenset[str]) -> float:
        """Return the seconds until it starts, and plan for its slots; inf if unknown.

        After one whose start is unknown, so is that of everybody who competes with it.
        """
        request = wait.ticket.request
        times = sorted(self.free_at.get(slot, inf) for slot in reach)
        steps = sorted({t for t in times[request.n_slots - 1 :] if t < inf})
        low, high, best = 0, len(steps), None
        middle = 0  # the first step suffices nearly always; then halve
        while low < high:
            slots = self._fits(request, self._free(reach, steps[middle]))
            if slots is None:
                low = middle + 1
            else:
                high, best = middle, slots
            middle = (low + high) // 2
        if best is None:
            self.take(reach, inf)
            return inf
        start_s = steps[high]
        if wait.must_be_next:
            self.free_at.update(
                (s, max(self.free_at.get(s, inf), start_s)) for s in reach
            )
        self.take(best, start_s + self._durations.expected(request))
        return start_s

    def _free(self, reach: frozenset[str], at_s: float) -> frozenset[str]:
        return frozenset(s for s in reach if self.free_at.get(s, inf) <= at_s)


def _ordered(
    waits: Mapping[str, Wait], scene: _Scene, moment: Moment
) -> Iterator[Wait]:
    """Yield who is next, and next after that.

    First those who were overtaken too often, by age. Then courses in their window. Then
    whose user holds fewest slots of the class, with those of his tickets ahead; by age.
    """
    here = [wait for wait in waits.values() if not wait.is_gone(moment.now)]
    load: Counter[tuple[int, str]] = Counter()
    users = {wait.ticket.owner.user for wait in here}
    for lease in moment.running:
        if lease.owner.user in users:
            for n, slots in enumerate(scene.classes):
                load[n, lease.owner.user] += len(lease.slots & slots)
    for wait in sorted((w for w in here if w.is_aged), key=age):
        load[scene.share(wait)] += wait.ticket.request.n_slots
        yield wait
    courses = {p.course for p in moment.priorities if _is_open(p, moment.now)} - {""}
    shares: dict[tuple[int, str], list[tuple[bool, datetime, str]]] = defaultdict(list)
    for wait in here:
        if not wait.is_aged:
            late = wait.ticket.course not in courses
            shares[scene.share(wait)].append((late, *age(wait)))
    heads: list[tuple[bool, int, datetime, str]] = []
    for share, line in shares.items():
        line.sort(reverse=True)
        late, asked_at, ticket_id = line.pop()
        heads.append((late, load[share], asked_at, ticket_id))
    heapq.heapify(heads)
    while heads:
        wait = waits[heapq.heappop(heads)[-1]]
        yield wait
        share = scene.share(wait)
        load[share] += wait.ticket.request.n_slots
        if shares[share]:
            late, asked_at, ticket_id = shares[share].pop()
            heapq.heappush(heads, (late, load[share], asked_at, ticket_id))


def _is_open(priority: Priority, now: datetime) -> bool:
    return priority.starts_at <= now < priority.ends_at


def _next(
    waits: Mapping[str, Wait], moment: Moment
) -> tuple[Ticket, frozenset[str]] | None:
    scene = _Scene(waits.values(), moment)
    ahead = _Ahead(scene, moment)
    refused: set[SlotRequest] = set()
    for wait in _ordered(waits, scene, moment):
        request = wait.ticket.request
        if request not in scene.possible:
            continue  # nobody is held up by what cannot be
        if wait.is_present and request not in refused and not ahead.has_own(wait):
            slots = ahead.spare(request)
            if slots is not None:
                return wait.ticket, slots
            refused.add(request)
        ahead.add(wait)
    return None


class _Ahead:
    """Those ahead that cannot start now, and what is left without delaying them."""

    def __init__(self, scene: _Scene, moment: Moment) -> None:
        self._scene, self._moment = scene, moment
        self._waits: list[Wait] = []
        self._own: defaultdict[str, set[SlotRequest]] = defaultdict(set)
        self._plan: _Plan | None = None
        self._starts: list[float] = []

    def add(self, wait: Wait) -> None:
        """Note that this one stands ahead."""
        self._waits.append(wait)
        self._own[wait.ticket.owner.user].add(wait.ticket.request)

    def has_own(self, wait: Wait) -> bool:
        """Whether the same user waits ahead for the same slots.

        In one's own share who asked first is first.
        """
        own = self._own[wait.ticket.owner.user]
        return any(self._scene.compete(wait.ticket.request, other) for other in own)

    def spare(self, request: SlotRequest) -> frozenset[str] | None:
        """Return slots that it can have now, so that nobody ahead is delayed.

        First out of those that nobody ahead will want; then any, if it ends in time.
        """
        fits, free = self._moment.fits, self._moment.free
        rivals = (other.ticket.request for other in self._waits)
        if not any(self._scene.compete(request, rival) for rival in rivals):
            return fits(request, free)
        if fits(request, free) is None:
            return None
        plan = self._planned()
        unwanted = frozenset(slot for slot in free if plan.free_at[slot] == 0)
        for room in (unwanted, free):
            slots = fits(request, room)
            if slots is not None and not self._is_delayed(request, slots):
                return slots
        return None

    def _reach(self, wait: Wait) -> frozenset[str]:
        return self._scene.reach[wait.ticket.request]

    def _planned(self) -> _Plan:
        plan = self._plan = self._plan or _Plan(self._moment)
        for wait in self._waits[len(self._starts) :]:
            self._starts.append(plan.add(wait, self._reach(wait)))
        return plan

    def _is_delayed(self, request: SlotRequest, slots: frozenset[str]) -> bool:
        touched = False
        for wait, start_s in zip(self._waits, self._starts, strict=True):
            if not slots.isdisjoint(self._reach(wait)):
                touched = True
                if start_s == inf or wait.must_be_next:
                    return True
        if not touched:
            return False
        durations = self._moment.durations
        return any(
            self._is_delayed_by(slots, lasts_s)
            for lasts_s in {durations.cautious(request), durations.expected(request)}
        )

    def _is_delayed_by(self, slots: frozenset[str], lasts_s: float) -> bool:
        plan = _Plan(self._moment)
        plan.take(slots, lasts_s)
        return any(
            plan.add(wait, self._reach(wait)) > start_s
            for wait, start_s in zip(self._waits, self._starts, strict=True)
        )
