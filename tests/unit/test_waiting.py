"""Who waits for GPUs gets them in a fair order, and nobody waits for ever."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.backfill import OVERDUE_S
from gpuspawner.durations import CAUTIOUS, DEFAULT_S, ENOUGH, KEPT, LEAST_S, Durations
from gpuspawner.model import Owner, SlotKind, SlotRequest
from gpuspawner.tickets import (
    MAX_OVERTAKEN,
    Moment,
    Place,
    Priority,
    Running,
    Ticket,
)
from gpuspawner.waiting import RETURN_S, Queue, describe
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

NOW = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
ALL = frozenset({"A0", "A1", "A2", "A3", "B0", "B1", "M0", "M1"})
ONE, TWO = SlotRequest(1, type="A"), SlotRequest(2, type="A")
FOUR = SlotRequest(4, type="A")
MIG = SlotRequest(1, SlotKind.MIG)
ONE_B, TWO_B = SlotRequest(1, type="B"), SlotRequest(2, type="B")
REQUESTS = [ONE, TWO, FOUR, ONE_B, TWO_B, SlotRequest(2), SlotRequest(4), MIG]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def reach(request: SlotRequest) -> frozenset[str]:
    """Every slot of the kind and type; the first letter is the type, M is MIG."""
    kinds = "M" if request.kind is SlotKind.MIG else request.type or "AB"
    return frozenset(slot for slot in ALL if slot[0] in kinds)


def fits(request: SlotRequest, free: frozenset[str]) -> frozenset[str] | None:
    """Give the lowest of one type."""
    for letter in "ABM":
        slots = sorted(s for s in free & reach(request) if s[0] == letter)
        if len(slots) >= request.n_slots:
            return frozenset(slots[: request.n_slots])
    return None


def lease(user: str, slots: str, ends_in_s: float | None) -> Running:
    end = None if ends_in_s is None else after(ends_in_s)
    return Running(Owner(user, "run"), frozenset(slots.split()), end)


def moment(*running: Running, now: datetime = NOW, lasts_s: float = 3600) -> Moment:
    durations = Durations()
    for request in REQUESTS:
        for _ in range(ENOUGH):
            durations.note(request, lasts_s)
    taken = frozenset[str]().union(*(r.slots for r in running))
    return Moment(now, ALL - taken, running, fits, reach, durations)


def queue_of(*asked: tuple[str, SlotRequest], course: str = "") -> Queue:
    """Tickets named like their users, a second apart; "ann2" is ann's second."""
    queue = Queue()
    for n, (name, request) in enumerate(asked):
        owner = Owner(name.rstrip("0123456789"), name)
        queue.join(Ticket(name, owner, request, after(n - 100), course))
    return queue


def order(queue: Queue, moment: Moment) -> str:
    return " ".join(queue.places(moment))


def starts(queue: Queue, moment: Moment) -> str:
    return " ".join(ticket.id for ticket, _ in queue.startable(moment))


FULL = moment(lease("eve", "A0 A1 A2 A3 B0 B1", 600), lease("eve", "M0 M1", 600))


# ------------------------------------------------------------------------ the order


def test_who_asked_first_is_first() -> None:
    """Between users who hold nothing."""
    assert order(queue_of(("ann", ONE), ("bob", ONE)), FULL) == "ann bob"


def test_who_holds_slots_stands_behind_who_holds_fewer() -> None:
    """A second server waits until others have their first."""
    full = moment(lease("ann", "A0 A1", 600), lease("bob", "A2", 600))
    full = replace(full, free=frozenset())
    queue = queue_of(("ann", ONE), ("bob", ONE), ("cid", ONE))
    assert order(queue, full) == "cid bob ann"


def test_a_ticket_ahead_counts_like_slots_held() -> None:
    """Ten servers at once do not push everybody else behind all ten."""
    queue = queue_of(("ann", ONE), ("ann2", ONE), ("ann3", ONE), ("bob", ONE))
    assert order(queue, FULL) == "ann bob ann2 ann3"


def test_slots_of_another_class_do_not_count() -> None:
    """Holding a MIG slice costs nobody the place for a GPU."""
    full = replace(moment(lease("ann", "M0 M1", 600)), free=frozenset())
    assert order(queue_of(("ann", ONE), ("bob", ONE)), full) == "ann bob"


def test_who_waits_for_any_gpu_makes_one_class_of_all_types() -> None:
    """Where nobody waits for just any GPU, one of another type does not count."""
    full = replace(moment(lease("ann", "B0", 600)), free=frozenset())
    any_one = SlotRequest(1)
    queue = queue_of(("ann", ONE), ("bob", ONE), ("cid", ONE_B), ("any", any_one))
    assert order(queue, full) == "bob cid any ann"
    queue.leave("any")
    assert order(queue, full) == "ann bob cid"


def test_a_course_goes_first_in_its_window_only() -> None:
    """The lesson at nine, not the one who came at half past eight."""
    queue = queue_of(("ann", ONE))
    queue.join(Ticket("bob", Owner("bob", ""), ONE, NOW, "physics"))
    lesson = Priority("physics", NOW, after(3600))
    assert order(queue, replace(FULL, priorities=[lesson])) == "bob ann"
    late = replace(FULL, now=after(3600), priorities=[lesson])
    assert order(queue, late) == "ann bob"
    queue.join(Ticket("cid", Owner("cid", ""), ONE, after(1)))
    nameless = replace(FULL, priorities=[Priority("", NOW, after(3600))])
    assert order(queue, nameless) == "ann bob cid"


@settings(deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from(["ann", "bob", "cid"]), st.sampled_from(REQUESTS)),
        max_size=12,
    ),
    held=st.lists(st.sampled_from(["ann", "bob", "cid", "eve"]), max_size=8),
)
def test_everybody_ahead_has_a_smaller_share_or_asked_before(
    asked: list[tuple[str, SlotRequest]], held: list[str]
) -> None:
    """Judged for each at its place by what its user holds and has ahead of it."""
    queue = queue_of(*((f"{u}{n}", r) for n, (u, r) in enumerate(asked, 1)))
    leases = [lease(u, s, 60) for u, s in zip(held, sorted(ALL), strict=False)]
    line = list(queue.places(moment(*leases)))
    tickets = {ticket.id: ticket for ticket in queue.tickets}
    assert sorted(line) == sorted(tickets)
    # A and B are one class if somebody waits for either; M is another.
    joint = any(r.type == "" and r.kind is SlotKind.DEVICE for _, r in asked)
    for letters in ["AB", "M"] if joint else ["A", "B", "M"]:
        slots = {slot for slot in ALL if slot[0] in letters}
        here = [i for i in line if reach(tickets[i].request) & slots]
        load = Counter(
            u for u, s in zip(held, sorted(ALL), strict=False) if s[0] in letters
        )
        for n, first in enumerate(here):
            for other in here[n:]:
                keys = [
                    (load[tickets[i].owner.user], tickets[i].asked_at, i)
                    for i in (first, other)
                ]
                assert keys[0] <= keys[1]
            load[tickets[first].owner.user] += tickets[first].request.n_slots


# ------------------------------------------------------------------- who starts now


def test_all_who_fit_start_with_different_slots() -> None:
    """One round serves as many as there is room for."""
    queue = queue_of(("ann", TWO), ("bob", ONE), ("cid", ONE), ("dan", ONE))
    found = queue.startable(moment())
    assert [(ticket.id, sorted(slots)) for ticket, slots in found] == [
        ("ann", ["A0", "A1"]),
        ("bob", ["A2"]),
        ("cid", ["A3"]),
    ]


def test_a_small_one_that_ends_in_time_starts_before_a_big_one_ahead() -> None:
    """Backfill: the big one starts in two hours with or without it."""
    queue = queue_of(("big", FOUR), ("small", ONE))
    at = moment(lease("eve", "A0 A1 A2", 7200))
    assert starts(queue, at) == "small"


def test_a_small_one_that_would_delay_a_big_one_waits() -> None:
    """The big one starts in half an hour, the small one needs an hour."""
    queue = queue_of(("big", FOUR), ("small", ONE))
    assert starts(queue, moment(lease("eve", "A0 A1 A2", 1800))) == ""


def test_a_small_one_takes_what_the_big_one_will_not_need() -> None:
    """Of the free ones it gets one that nobody ahead is waiting for."""
    queue = queue_of(("big", FOUR), ("small", SlotRequest(1)))
    ((ticket, slots),) = queue.startable(moment(lease("eve", "A0 A1", 60)))
    assert ticket.id == "small"
    assert slots == {"B0"}


def test_backfill_delays_nobody_ahead_not_only_the_first() -> None:
    """Two wait ahead; what delays the second is refused as well."""
    queue = queue_of(("big", FOUR), ("other", TWO_B), ("b", ONE_B))
    at = moment(lease("eve", "A0", 1800), lease("eve", "B0", 1800))
    assert starts(queue, at) == ""
    queue.leave("other")
    assert starts(queue, at) == "b"


def test_without_an_estimate_nobody_passes_who_competes() -> None:
    """A container that is not ours may end at any time."""
    queue = queue_of(("big", FOUR), ("small", ONE), ("mig", MIG))
    assert starts(queue, moment(lease("?", "A0", None))) == "mig"


def test_behind_an_unknown_wait_every_wait_is_unknown() -> None:
    """Whoever is ahead may take any slot at any time; another class is not touched."""
    queue = queue_of(("big", FOUR), ("small", ONE), ("mig", MIG))
    places = queue.places(moment(lease("?", "A0", None), lease("eve", "A1", 60)))
    assert places == {
        "big": Place(0, None),
        "small": Place(1, None),
        "mig": Place(0, 0),
    }


def test_backfill_counts_with_long_leases() -> None:
    """Half of them end in a minute, but one of five would hold up the big one."""
    at = moment(lease("eve", "A0 A1 A2", 1800), lasts_s=60)
    assert starts(queue_of(("big", FOUR), ("small", ONE)), at) == "small"
    for seconds in (60, 60, 60, 9000, 9000):
        at.durations.note(ONE, seconds)
    assert at.durations.expected(ONE) == 60
    assert starts(queue_of(("big", FOUR), ("small", ONE)), at) == ""


def test_a_second_ticket_may_start_though_the_first_falls_back() -> None:
    """No GPU idles because its taker waits for another one; that place is the price."""
    queue = queue_of(
        ("any", SlotRequest(2)), ("dan", ONE), ("bob", ONE), ("dan2", ONE_B)
    )
    at = moment(lease("any", "A0", 60), lease("any", "A1 A2 A3", 1800))
    assert order(queue, at) == "dan bob dan2 any"
    assert starts(queue, at) == "dan2"
    assert order(queue, granted(queue, at)) == "bob dan any"


def test_who_comes_first_by_a_start_may_start_in_the_same_round() -> None:
    """When the one who waited for any GPU has one, A and B are two classes again."""
    queue = queue_of(("ann", ONE), ("bob", FOUR), ("any", SlotRequest(1)))
    at = moment(lease("ann", "B0", 600), lease("eve", "A0 A1 A2", 1800))
    assert order(queue, at) == "bob any ann"
    assert starts(queue, at) == "any ann"
    assert starts(queue, granted(queue, at)) == ""


def test_a_request_the_machine_cannot_serve_now_holds_up_nobody() -> None:
    """Three of four devices left: whoever asked for four waits apart."""
    five = SlotRequest(5, type="A")
    queue = queue_of(("five", five), ("one", ONE))
    places = queue.places(moment())
    assert places["five"] == Place(0, None, is_possible=False)
    assert places["one"] == Place(0, 0.0)
    assert starts(queue, moment()) == "one"


def test_one_does_not_pass_oneself() -> None:
    """Within a user's share who asked first is first, even if the second would fit."""
    queue = queue_of(("ann", TWO), ("ann2", ONE))
    at = moment(lease("eve", "A0 A1 A2", 7200))
    assert starts(queue, at) == ""
    assert queue.places(at)["ann2"].wait_s == 7200
    assert starts(queue_of(("ann", TWO), ("bob", ONE)), at) == "bob"
    assert starts(queue_of(("ann", TWO), ("ann2", ONE_B)), at) == "ann2"


def test_a_lease_that_should_have_ended_is_expected_soon_not_now() -> None:
    """Its slot is not free, whatever was estimated."""
    queue = queue_of(("big", FOUR), ("small", ONE))
    at = moment(lease("eve", "A0", -500))
    assert starts(queue, at) == ""
    assert queue.places(at)["big"].wait_s == 60


rough_s = st.sampled_from([None, -60, 60, 1800, 3600, 7200])


@st.composite
def moments(draw: st.DrawFn, ends_in_s: st.SearchStrategy[int | None]) -> Moment:
    """Each slot is free or in a lease of its own that ends at some time."""
    leases = [
        lease(draw(st.sampled_from(["ann", "bob", "eve"])), slot, draw(ends_in_s))
        for slot in sorted(ALL)
        if draw(st.booleans())
    ]
    found = moment(*leases, lasts_s=draw(st.sampled_from([60, 1800, 3600])))
    for request in REQUESTS:  # so that they do not all last the same
        for _ in range(2 * ENOUGH * draw(st.booleans())):
            found.durations.note(request, draw(st.sampled_from([60, 900, 9000])))
    return found


queues = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cid", "dan"]), st.sampled_from(REQUESTS)),
    max_size=10,
).map(lambda asked: queue_of(*((f"{u}{n}", r) for n, (u, r) in enumerate(asked, 1))))


def granted(queue: Queue, at: Moment, n: int | None = None) -> Moment:
    """Start the first n who may start, and return the moment after."""
    for ticket, slots in queue.startable(at)[:n]:
        queue.start(ticket.id, slots, reach)
        ends = at.durations.ends_at(ticket.request, at.now, at.now)
        new = Running(ticket.owner, slots, ends)
        at = replace(at, free=at.free - slots, running=(*at.running, new))
    return at


@settings(deadline=None)
@given(queue=queues, at=moments(rough_s))
def test_never_more_is_granted_than_is_free(queue: Queue, at: Moment) -> None:
    """Disjoint parts of the free slots, each what was asked for, each ticket once."""
    found = queue.startable(at)
    slots = [slot for _, slots in found for slot in slots]
    assert len(slots) == len(set(slots))
    assert set(slots) <= at.free
    assert all(len(s) == t.request.n_slots and s <= reach(t.request) for t, s in found)
    assert len({ticket.id for ticket, _ in found}) == len(found)
    assert {ticket for ticket, _ in found} <= set(queue.tickets)


@settings(deadline=None)
@given(queue=queues, at=moments(rough_s))
def test_whoever_is_first_and_fits_starts(queue: Queue, at: Moment) -> None:
    """Who competes with nobody ahead does not fit after a round; a second is empty."""
    at = granted(queue, at)
    assert queue.startable(at) == []
    for ticket_id, place in queue.places(at).items():
        ticket = next(t for t in queue.tickets if t.id == ticket_id)
        if place.is_possible and place.n_ahead == 0:
            assert fits(ticket.request, at.free) is None


@settings(max_examples=400, deadline=None)
@given(queue=queues, at=moments(rough_s.filter(bool)))
def test_backfill_delays_nobody_ahead_by_estimate(queue: Queue, at: Moment) -> None:
    """After each single start, nobody who stood ahead of it is expected later.

    Unless it changes the order: who gets a slot falls back with his tickets ahead, and
    with who waited for several types a class may go.
    """
    while found := queue.startable(at):
        before, started = queue.places(at), found[0][0]
        ahead = list(before)[: list(before).index(started.id)]
        at = granted(queue, at, 1)
        places = queue.places(at)
        for ticket_id in ahead if list(places)[: len(ahead)] == ahead else ():
            old, new = before[ticket_id].wait_s, places[ticket_id].wait_s
            assert old is None or (new is not None and new <= old)


def test_slots_of_one_type_are_waited_for_however_many_others_end() -> None:
    """Two of a kind are free after the third lease ends, not after the second."""
    ends = {"A0": 100, "B0": 200, "A1": 300, "A2": 400, "A3": 500, "B1": 600}
    at = moment(*(lease("eve", slot, s) for slot, s in ends.items()))
    assert queue_of(("ann", SlotRequest(2))).places(at) == {"ann": Place(0, 300)}


@settings(deadline=None)
@given(queue=queues, at=moments(rough_s))
def test_the_first_is_expected_as_soon_as_enough_is_free(
    queue: Queue, at: Moment
) -> None:
    """By trying every time at which a lease ends."""
    for ticket_id, place in queue.places(at).items():
        if place.is_possible and place.n_ahead == 0:
            request = next(t.request for t in queue.tickets if t.id == ticket_id)
            free, times = at.free, {0.0: at.free}
            for r in sorted(at.running, key=lambda r: r.ends_at or after(1e9)):
                if r.ends_at is not None:
                    free |= r.slots
                    left_s = (r.ends_at - at.now).total_seconds()
                    times[left_s if left_s > 0 else OVERDUE_S] = free
            enough = [s for s, slots in times.items() if fits(request, slots)]
            assert place.wait_s == (min(enough) if enough else None)


@settings(deadline=None)
@given(queue=queues, at=moments(rough_s))
def test_requests_that_do_not_compete_never_block_each_other(
    queue: Queue, at: Moment
) -> None:
    """What MIG requests get is the same with and without the others."""

    def mig(queue: Queue) -> list[tuple[Ticket, frozenset[str]]]:
        return [s for s in queue.startable(at) if s[0].request is MIG]

    together = mig(queue)
    for ticket in queue.tickets:
        if ticket.request is not MIG:
            queue.leave(ticket.id)
    assert mig(queue) == together


# ------------------------------------------------------------------- nobody starves


@settings(max_examples=60, deadline=None)
@given(
    lasts=st.lists(st.integers(1, 20), min_size=1, max_size=30),
    believed_s=st.sampled_from([1, 10, 1000]),
    big_holds=st.booleans(),
    lesson=st.booleans(),
)
def test_a_big_request_is_served_among_endless_small_ones(
    lasts: list[int], believed_s: int, big_holds: bool, lesson: bool
) -> None:
    """Whatever small ones believe or prefer: in bounded time, after few others."""
    queue = queue_of(("big", FOUR))
    ends = {"A0": 5, "A1": 7, "A2": 9, "A3": 11}
    hold = [lease("big", "B0 B1", None)] if big_holds else []
    priorities = [Priority("physics", NOW, after(1e6))] if lesson else []
    n_started, second = 0, 0
    longest = max(*lasts, 11)
    while True:
        assert second <= (MAX_OVERTAKEN + 2) * longest
        for n in range(4):  # always more of them than there is room for
            name = f"{second}.{n}"
            owner = Owner(f"new {name}", "")
            queue.join(Ticket(name, owner, ONE, after(second), "physics"))
        ends = {slot: end for slot, end in ends.items() if end > second}
        running = [lease("eve", slot, None) for slot in ends]
        running = [replace(r, ends_at=after(second + 1)) for r in running] + hold
        at = moment(*running, now=after(second), lasts_s=believed_s)
        at = replace(at, priorities=priorities)
        for ticket, slots in queue.startable(at):
            if ticket.id == "big":
                assert n_started <= MAX_OVERTAKEN
                return
            queue.start(ticket.id, slots, reach)
            n_started += 1
            for slot in slots:
                ends[slot] = second + lasts[n_started % len(lasts)]
        for ticket in queue.tickets[40:]:  # endless, but this test is not
            queue.leave(ticket.id)
        second += 1


def aged(request: SlotRequest = FOUR) -> Queue:
    """A big request that was overtaken as often as may be, and a small one."""
    queue = queue_of(("big", request))
    for n in range(MAX_OVERTAKEN):
        queue.join(Ticket(f"{n}", Owner(f"{n}", ""), ONE, NOW))
        queue.start(f"{n}", frozenset({"A0"}), reach)
    queue.join(Ticket("small", Owner("small", ""), ONE, NOW))
    return queue


def test_who_was_overtaken_enough_is_not_overtaken_even_by_estimate() -> None:
    """The small one would end in time, it is said; it waits, and reads so."""
    queue = aged()
    at = moment(lease("big", "A0 A1 A2", 7200))
    assert starts(queue, at) == ""
    assert queue.places(at) == {"big": Place(0, 7200), "small": Place(1, 10800)}
    queue = aged(TWO)
    assert starts(queue, at) == ""
    assert queue.places(at) == {"big": Place(0, 7200), "small": Place(1, 7200)}


def test_who_is_absent_is_held_up_by_nobody_but_holds_up_nobody_either() -> None:
    """However often it was overtaken: what delays it not may start."""
    queue = Queue.from_json(aged().to_json(), NOW)
    queue.join(Ticket("small", Owner("small", ""), ONE, NOW))
    assert starts(queue, moment(lease("big", "A0 A1 A2", 7200))) == "small"


class Waiting(RuleBasedStateMachine):
    """Servers come, go, start and end in any order; the hub restarts at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.now = NOW
        self.running: list[Running] = []
        self.waiting: dict[Owner, Ticket] = {}  # as the test counts them
        self.absent: dict[Owner, datetime] = {}
        self.overtaken: Counter[str] = Counter()
        self.n = 0

    @initialize(lasts=st.lists(st.sampled_from([5, 60, 3600, 9000]), max_size=20))
    def learn(self, lasts: list[int]) -> None:
        self.durations = Durations()
        for n, seconds in enumerate(lasts):
            self.durations.note(REQUESTS[n % len(REQUESTS)], seconds)

    @property
    def moment(self) -> Moment:
        taken = frozenset[str]().union(*(r.slots for r in self.running))
        return Moment(self.now, ALL - taken, self.running, fits, reach, self.durations)

    def forget(self, owner: Owner) -> None:
        self.waiting.pop(owner, None)
        self.absent.pop(owner, None)

    @rule(
        owner=st.builds(
            Owner, st.sampled_from(["ann", "bob", "cid"]), st.sampled_from("xyz")
        ),
        request=st.sampled_from(REQUESTS),
    )
    def join(self, owner: Owner, request: SlotRequest) -> None:
        self.n += 1
        old = self.waiting.get(owner)
        is_late = owner in self.absent and self.now >= self.absent[owner]
        ticket = self.queue.join(Ticket(f"t{self.n}", owner, request, self.now))
        if old and old.request == request and not is_late:
            assert ticket == old
        else:
            assert (ticket.id, ticket.asked_at) == (f"t{self.n}", self.now)
        self.forget(owner)
        self.waiting[owner] = ticket

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.waiting, key=str)))
        self.queue.leave(self.waiting[owner].id)
        self.forget(owner)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end_a_lease(self, data: st.DataObject) -> None:
        self.running.remove(data.draw(st.sampled_from(self.running)))

    @rule(seconds=st.sampled_from([1, 30, 100, 1000]))
    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        for ticket in self.queue.expired(self.now, 1e9):
            assert self.now >= self.absent[ticket.owner]
            self.queue.leave(ticket.id)
            self.forget(ticket.owner)
        assert all(self.now < until for until in self.absent.values())

    @rule()
    def start_who_may(self) -> None:
        for ticket, slots in self.queue.startable(self.moment):
            assert self.waiting[ticket.owner] == ticket
            assert ticket.owner not in self.absent
            assert slots <= self.moment.free
            self.queue.start(ticket.id, slots, reach)
            self.forget(ticket.owner)
            for owner, other in self.waiting.items():
                if (
                    owner not in self.absent
                    and (other.asked_at, other.id) < (ticket.asked_at, ticket.id)
                    and slots & reach(other.request)
                ):
                    self.overtaken[other.id] += 1
            ends = self.durations.ends_at(ticket.request, self.now, self.now)
            self.running.append(Running(ticket.owner, slots, ends))

    @rule()
    def restart_the_hub(self) -> None:
        before = list(self.queue.places(self.moment).items())
        stored = json.loads(json.dumps(self.queue.to_json()))
        self.queue = Queue.from_json(stored, self.now)
        assert list(self.queue.places(self.moment).items()) == before
        until = self.now + timedelta(seconds=RETURN_S)
        self.absent = dict.fromkeys(self.waiting, until)

    @invariant()
    def no_ticket_is_lost_or_doubled(self) -> None:
        assert set(self.queue.tickets) == set(self.waiting.values())
        assert len(self.queue.tickets) == len(self.waiting)

    @invariant()
    def nobody_is_overtaken_without_end(self) -> None:
        assert all(n <= MAX_OVERTAKEN for n in self.overtaken.values())


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


# --------------------------------------------------------------- a restart of the hub


def restarted(queue: Queue, now: datetime = NOW) -> Queue:
    return Queue.from_json(json.loads(json.dumps(queue.to_json())), now)


def test_who_comes_back_in_time_has_the_old_place() -> None:
    """The ticket is the old one, to the id."""
    queue = restarted(queue_of(("ann", ONE), ("bob", ONE)))
    again = queue.join(Ticket("new", Owner("ann", "ann"), ONE, after(RETURN_S - 1)))
    assert (again.id, again.asked_at) == ("ann", after(-100))
    assert order(queue, FULL) == "ann bob"


def test_who_comes_back_late_or_for_something_else_stands_last() -> None:
    """A place is kept for one wish, and not for ever."""
    queue = restarted(queue_of(("ann", ONE), ("bob", ONE)))
    queue.join(Ticket("new", Owner("ann", "ann"), MIG, NOW))
    queue.join(Ticket("late", Owner("bob", "bob"), ONE, after(RETURN_S)))
    assert [ticket.id for ticket in queue.tickets] == ["new", "late"]


def test_the_slot_of_one_who_may_come_back_is_kept_for_a_time() -> None:
    """Nobody behind takes the last free one, and the absent one does not get it."""
    queue = restarted(queue_of(("ann", ONE), ("bob", ONE)))
    queue.join(Ticket("bob", Owner("bob", "bob"), ONE, NOW))
    at = moment(lease("eve", "A0 A1 A2", 7200))
    assert starts(queue, at) == ""
    assert starts(queue, moment(lease("eve", "A0 A1", 7200))) == "bob"
    assert [ticket.id for ticket in queue.expired(after(RETURN_S), 1e9)] == ["ann"]
    assert starts(queue, replace(at, now=after(RETURN_S))) == "bob"


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.pop("owner"),
        lambda entry: entry.update(owner="ann"),
        lambda entry: entry.update(asked_at="yesterday"),
        lambda entry: entry.update(asked_at="2026-11-01T09:00:00"),
        lambda entry: entry.update(asked_at=3),
        lambda entry: entry.update(n_overtaken="often"),
        lambda entry: entry["request"].update(kind="tpu"),
        lambda entry: entry["request"].update(n_slots="1"),
        lambda entry: entry["request"].update(n_slots=0),
        lambda entry: entry["request"].update(colour="red"),
    ],
)
def test_a_damaged_queue_is_one_error(
    damage: Callable[[dict[str, object]], object],
) -> None:
    """Whoever reads the file needs to know one exception only."""
    stored = json.loads(json.dumps(queue_of(("ann", ONE)).to_json()))
    damage(stored["tickets"][0])
    with pytest.raises(ValueError, match=r"."):
        Queue.from_json(stored, NOW)


@pytest.mark.parametrize("value", [None, [], 3, {}, {"tickets": 3}, {"tickets": [3]}])
def test_what_is_not_a_queue_is_refused(value: object) -> None:
    """Not only entries can be damaged."""
    with pytest.raises(ValueError, match="not a queue"):
        Queue.from_json(value, NOW)


def test_two_tickets_of_one_server_are_not_a_queue() -> None:
    """One server, one ticket, also in a file."""
    stored = queue_of(("ann", ONE)).to_json()
    tickets = stored["tickets"]
    assert isinstance(tickets, list)
    tickets.append(tickets[0] | {"id": "other"})
    with pytest.raises(ValueError, match="two tickets"):
        Queue.from_json(stored, NOW)


# ------------------------------------------------------------------ joining and leaving


def test_asking_twice_keeps_the_place_and_another_wish_loses_it() -> None:
    """One ticket per server."""
    queue = queue_of(("ann", ONE), ("bob", ONE))
    assert queue.join(Ticket("x", Owner("ann", "ann"), ONE, NOW, "physics")) == (
        Ticket("ann", Owner("ann", "ann"), ONE, after(-100), "physics")
    )
    queue.join(Ticket("y", Owner("ann", "ann"), TWO, NOW))
    assert [ticket.id for ticket in queue.tickets] == ["bob", "y"]


def test_leaving_twice_is_leaving_once() -> None:
    """Cancel and a closed page may both say so."""
    queue = queue_of(("ann", ONE), ("bob", ONE))
    queue.leave("ann")
    queue.leave("ann")
    queue.start("ann", frozenset(), reach)
    assert [ticket.id for ticket in queue.tickets] == ["bob"]


def test_a_cpu_server_never_waits_and_ids_are_not_shared() -> None:
    """Mistakes of the caller are said."""
    queue = queue_of(("ann", ONE))
    with pytest.raises(ValueError, match="only a request for slots"):
        queue.join(Ticket("x", Owner("bob", ""), SlotRequest(0), NOW))
    with pytest.raises(ValueError, match="ticket ann exists"):
        queue.join(Ticket("ann", Owner("bob", ""), ONE, NOW))


def test_waiting_has_a_limit() -> None:
    """To the second."""
    queue = queue_of(("ann", ONE))  # asked 100 s ago
    assert queue.expired(NOW, 101) == ()
    assert [ticket.id for ticket in queue.expired(NOW, 100)] == ["ann"]


# --------------------------------------------------------------- places, in words


def test_a_place_counts_those_who_compete_and_estimates_the_wait() -> None:
    """By leases that end and those ahead who take their slots."""
    queue = queue_of(("ann", ONE), ("mig", MIG), ("bob", ONE), ("cid", ONE))
    at = moment(lease("eve", "A0 A1", 600), lease("eve", "A2 A3 M0 M1", 900))
    at = replace(at, free=frozenset())
    assert queue.places(at) == {
        "ann": Place(0, 600),
        "mig": Place(0, 900),
        "bob": Place(1, 600),
        "cid": Place(2, 900),
    }


def test_a_slot_that_several_hold_up_is_free_after_the_last() -> None:
    """Like a device of which two shares are in use; in whatever order they are told."""
    leases = lease("eve", "M0 M1", 900), lease("bob", "M0 M1", 600)
    for some in (leases, leases[::-1]):
        assert queue_of(("ann", MIG)).places(moment(*some)) == {"ann": Place(0, 900)}


def test_those_behind_wait_for_those_ahead_to_end() -> None:
    """Nobody ends but those ahead: the wait is what they are expected to last."""
    queue = queue_of(("ann", FOUR), ("bob", ONE))
    at = moment(lease("eve", "A0 A1 A2 A3", 600), lasts_s=1000)
    assert queue.places(at)["bob"] == Place(1, 1600)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            Place(2, 690),
            "You are number 3 in the queue; about 12 minutes (an estimate).",
        ),
        (Place(0, 0), "You are number 1 in the queue; about a minute (an estimate)."),
        (Place(0, 9000), "You are number 1 in the queue; about 2 hours (an estimate)."),
        (
            Place(0, None),
            "You are number 1 in the queue; how long it takes cannot be said yet.",
        ),
        (
            Place(0, None, is_possible=False),
            "You are number 1 in the queue, but too few GPUs of this kind work at the "
            "moment. Wait until they are repaired, or cancel and choose another size.",
        ),
    ],
)
def test_a_place_is_told_in_a_sentence(place: Place, text: str) -> None:
    """What happened, and what to do."""
    assert describe(place) == text


# ------------------------------------------------------------------ how long they last


def noted(seconds: Iterable[float]) -> Durations:
    durations = Durations()
    for s in seconds:
        durations.note(ONE, s)
    return durations


def test_few_ended_leases_are_not_believed() -> None:
    """Until there are enough, a lesson is assumed."""
    assert noted([500] * (ENOUGH - 1)).expected(ONE) == DEFAULT_S
    assert noted([500] * ENOUGH).expected(ONE) == 500
    assert noted([500] * ENOUGH).expected(TWO) == DEFAULT_S


def test_a_request_for_any_type_is_judged_by_all_types() -> None:
    """A lease is noted with the type it got; another size or kind says nothing."""
    durations = noted([500] * (ENOUGH - 1))
    durations.note(ONE_B, 500)
    assert durations.expected(SlotRequest(1)) == 500
    assert durations.expected(ONE) == DEFAULT_S
    assert durations.expected(SlotRequest(2)) == DEFAULT_S
    assert durations.expected(MIG) == DEFAULT_S


def test_the_cautious_estimate_is_what_nearly_all_stay_below() -> None:
    """Half end in the expected time, nine of ten in the cautious one."""
    durations = noted(range(0, 1000, 100))
    assert durations.expected(ONE) == 500
    assert durations.cautious(ONE) == 1000 * CAUTIOUS
    assert noted([1] * ENOUGH).cautious(ONE) == LEAST_S


def test_old_leases_are_forgotten() -> None:
    """A new term is not judged by the last."""
    assert noted([900] * KEPT + [500] * KEPT).cautious(ONE) == 500


def test_a_lease_is_judged_by_those_that_lasted_longer() -> None:
    """After an hour, those that ended in minutes say nothing."""
    durations = noted([60, 60, 60, 60, 60, 7000, 8000, 9000])
    assert durations.ends_at(ONE, NOW, NOW) == after(60)
    assert durations.ends_at(ONE, NOW, after(3600)) == after(8000)
    assert durations.ends_at(ONE, NOW, after(10_000)) == after(12_500)
    assert durations.ends_at(ONE, NOW, after(8999)) == after(8999 + LEAST_S)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=20), st.floats(-100, 1e6))
def test_a_running_lease_never_ends_in_the_past(
    ended: list[float], elapsed: float
) -> None:
    """Whatever was learnt, and also if the clock was set back."""
    assert noted(ended).ends_at(ONE, NOW, after(elapsed)) > after(elapsed)


def test_durations_survive_a_restart() -> None:
    """What was learnt is learnt; what is damaged is one error."""
    durations = noted([100, 200, 300, 400, 500])
    again = Durations.from_json(json.loads(json.dumps(durations.to_json())))
    assert again.to_json() == durations.to_json()
    assert again.expected(ONE) == 300
    damaged: list[object] = [None, 3, {"x": 3}, {"x": ["a"]}, {"x": [-1]}, [1]]
    for value in damaged:
        with pytest.raises(ValueError, match=r"durations|lease"):
            Durations.from_json(value)


def test_sizes_are_not_remembered_without_end() -> None:
    """A program that asks for everything fills no memory."""
    durations = Durations()
    for n in range(200):
        durations.note(SlotRequest(n), 5)
    assert len(durations.to_json()) == 64
