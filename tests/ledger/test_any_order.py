"""Everything that can happen to leases, in any order, against a naive model (I3-I5).

Holds, meters that start, settlements at any moments, ends of every kind, grants, fees,
expiry, duplicates, restarts, two hubs at once, and a crash before any statement. After
every step the whole ledger is audited. At the end every lease has cost its price x its
seconds, to the microtoken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from ledger.lab import ANA, BEN, FREE, GPU, PRICES, SMALL, START, Lab
from sqlalchemy import event, select
from torchroom.ledger.database import Database
from torchroom.ledger.errors import NotEnough
from torchroom.ledger.expiry import Expiry
from torchroom.ledger.fees import Fees
from torchroom.ledger.grants import Grants
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import MICRO, Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import DAY_S, Policy
from torchroom.ledger.tables import draws

CAP = 250 * MICRO
POLICY = Policy(hold_s=60, warn_s=(120, 60), stop_lead_s=10)
MS = 1000
HOUR_S = 3600

users = st.sampled_from([ANA, BEN])
courses = st.sampled_from(["", "physics", "physics", "art"])
slots = st.sampled_from([(GPU,), (GPU,), (GPU, SMALL), (GPU, GPU), (SMALL,), (FREE,)])
pauses = st.one_of(
    st.integers(0, 40 * MS), st.integers(0, 400 * MS), st.integers(0, 2000 * MS)
)

Ledgers = Callable[[], AbstractContextManager[str]]
Step = Callable[[Leases], Awaitable[Any]]


class Crash(Exception):
    """The process is gone."""


@dataclass(frozen=True)
class Event:
    """What happens after a pause, and to whom; each kind reads what it needs."""

    what: str
    pause: int
    user: str
    course: str
    types: tuple[str, ...]
    pick: int
    back: int
    ending: Ending
    crash_at: int | None


events = st.builds(
    Event,
    what=st.sampled_from(
        ["settle"] * 6
        + ["end"] * 4
        + ["start"] * 4
        + ["hold", "ready", "two hubs", "grant", "grant", "restart", "keep house"]
        + ["fee", "fee"]
    ),
    pause=pauses,
    user=users,
    course=courses,
    types=slots,
    pick=st.integers(0, 99),
    back=pauses,
    ending=st.sampled_from([*Ending, Ending.USED, Ending.BROKE]),
    crash_at=st.one_of(st.none(), st.none(), st.integers(0, 25)),
)
NEEDS_A_LEASE = {"settle", "two hubs", "end"}


@dataclass
class Model:
    """A lease, as anybody would write it down."""

    user: str
    per_hour: int
    held_ms: int
    ready_ms: int | None = None
    used_s: int | None = None  # when it has ended


def at(ms: int) -> datetime:
    """Return a moment."""
    return START + timedelta(milliseconds=ms)


@contextmanager
def crash(db: Database, statement: int | None) -> Iterator[None]:
    """Fail before the nth statement that writes, or before the commit after it."""
    if statement is None:
        yield
        return
    engine, left = db._writers.sync_engine, [statement]

    def count(*_: object) -> None:
        if left[0] == 0:
            left[0] = -1
            raise Crash
        left[0] -= 1

    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, count)
    try:
        yield
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, count)


class AnyOrder(RuleBasedStateMachine):
    """One ledger, a hub that is restarted at will, and the model."""

    def __init__(self, ledgers: Ledgers) -> None:
        super().__init__()
        self.made = ledgers()
        self.url = self.made.__enter__()
        self.runner = asyncio.Runner()
        self.db = Database.open(self.url)
        self.lab = Lab(self.db, POLICY)
        self.now = 0
        self.leases: dict[str, Model] = {}
        self.fees = self.n_fees = 0
        self.runner.run(self.begin())

    async def begin(self) -> None:
        """Have prices, two courses, and a little for everybody."""
        await self.lab.set_up()
        await self.lab.endow("physics", 600 * MICRO, student_cap=CAP)
        await self.lab.endow("art", 300 * MICRO)
        for user in (ANA, BEN):
            await self.lab.give(400 * MICRO, user)

    def open(self, *, is_ready: bool | None = None) -> list[str]:
        """Return the leases that have not ended."""
        return [
            lease_id
            for lease_id, lease in self.leases.items()
            if lease.used_s is None
            and (is_ready is None or (lease.ready_ms is not None) is is_ready)
        ]

    def do(self, step: Step, crash_at: int | None = None) -> bool:
        """Do a step; tell whether it got through, or the process crashed before."""

        async def work() -> bool:
            try:
                with crash(self.db, crash_at):
                    await step(Leases(self.db, POLICY))
            except Crash:
                return False
            return True

        is_done = self.runner.run(work())
        if not is_done:
            self.restart()
        return is_done

    # -- what happens ---------------------------------------------------------------

    @rule(event=events)
    def happens(self, event: Event) -> None:
        """Time goes on, and then one thing happens.

        One rule for all of them: Hypothesis leaves rules out of whole runs, and a run
        without a lease shows nothing.
        """
        self.now += event.pause
        if event.what in NEEDS_A_LEASE and not self.open(is_ready=True):
            event = replace(event, what="start")
        doing: dict[str, Callable[[Event], None]] = {
            "restart": lambda _: self.restart(),
            "grant": self.grant,
            "hold": self.hold,
            "start": self.start,
            "ready": self.ready,
            "settle": self.settle,
            "two hubs": self.two_hubs,
            "end": self.end,
            "keep house": self.keep_house,
            "fee": self.fee,
        }
        doing[event.what](event)

    def restart(self) -> None:
        """The hub starts again: nothing is remembered but the database."""
        self.runner.run(self.db.close())
        self.db = self.lab.db = Database.open(self.url)

    def grant(self, event: Event) -> None:
        """Somebody gets tokens; some of them expire."""
        expires_at = at(self.now + event.back) if event.pick % 3 == 1 else None
        given = self.lab.give(
            event.pick * MICRO + 1,
            event.user,
            course=event.course,
            expires_at=expires_at,
        )
        self.runner.run(given)

    def hold(self, event: Event) -> None:
        """A server is asked for; it is refused, or the hub crashes, or it is held."""
        lease_id = f"ls_{len(self.leases)}"
        per_hour = sum(PRICES[each] for each in event.types)
        model = Model(event.user, per_hour, self.now)

        async def step(leases: Leases) -> None:
            payer = Payer(event.user, "", event.course)
            await leases.hold(lease_id, payer, event.types, at(model.held_ms))
            self.leases[lease_id] = model
            await leases.hold(lease_id, payer, event.types, at(model.held_ms + 5))

        try:
            self.do(step, event.crash_at)
        except NotEnough:
            assert lease_id not in self.leases

    def start(self, event: Event) -> None:
        """A server is held for and ready at once."""
        self.hold(replace(event, crash_at=None))
        self.ready(replace(event, pick=-1))

    def ready(self, event: Event) -> None:
        """A server answers; the second message comes later and changes nothing."""
        names = self.open(is_ready=False)
        if not names:
            return
        lease_id = names[event.pick % len(names)]

        async def step(leases: Leases) -> None:
            await leases.ready(lease_id, at(self.now))
            self.leases[lease_id].ready_ms = self.now
            await leases.ready(lease_id, at(self.now + 9000))

        self.do(step, event.crash_at)

    def settle(self, event: Event) -> None:
        """Most of those that run are settled, perhaps with an old message."""
        names = self.open(is_ready=True)
        back = event.back if event.pick % 4 == 0 else 0
        running = {
            name: at(self.now - back)
            for place, name in enumerate(names)
            if place != event.pick
        }
        if event.crash_at is not None:
            self.do(lambda leases: leases.settle(running), event.crash_at)
        for _ in range(2):
            self.do(lambda leases: leases.settle(running))

    def two_hubs(self, event: Event) -> None:
        """Another hub runs by mistake, and both settle everything and end one."""
        names = self.open(is_ready=True)
        ended = names[event.pick % len(names)]
        running = dict.fromkeys(names, at(self.now))
        end = End(Ending.USED, at(self.now), "by both")

        async def both() -> None:
            other = Database.open(self.url)
            hubs = [Leases(self.db, POLICY), Leases(other, POLICY)]
            steps = [each.settle(running) for each in hubs]
            ends = [each.end(ended, end, now=at(self.now)) for each in hubs]
            await asyncio.gather(*steps, *ends)
            await other.close()

        self.runner.run(both())
        self.close(ended, end)

    def end(self, event: Event) -> None:
        """A container ended some time ago; the hub may crash while it notes that."""
        names = self.open()
        lease_id = names[event.pick % len(names)]
        moments = [None, at(self.now), at(self.now), at(self.now - event.back // 3)]
        moment = moments[event.pick % len(moments)]
        is_broken = event.ending is Ending.BROKE
        broke_at = at(self.now - event.back) if is_broken else None
        end = End(event.ending, moment, "it ended", broke_at)

        async def settled_until() -> datetime | None:
            return (await Leases(self.db, POLICY).open())[lease_id]

        until = self.runner.run(settled_until())

        async def step(leases: Leases) -> None:
            await leases.end(lease_id, end, now=at(self.now))

        async def again(leases: Leases) -> None:
            later = End(Ending.USED, at(self.now + 7 * MS), "it ended again")
            await leases.end(lease_id, later, now=at(self.now))

        if not self.do(step, event.crash_at):
            self.do(step)
        self.close(lease_id, end, until)
        self.do(again)

    def fee(self, event: Event) -> None:
        """A fee is paid once or refused, however often asked; some are given back."""
        self.n_fees += 1
        key, amount = f"fee {self.n_fees}", event.pick * MICRO // 3 + 1

        async def step(_: Leases) -> None:
            await Fees(self.db).charge(
                event.user,
                event.course,
                amount,
                key=key,
                at=at(self.now),
                actor=event.user,
                why="More time.",
            )

        async def twice(leases: Leases) -> None:
            await asyncio.gather(step(leases), step(leases))

        async def back(_: Leases) -> None:
            for _number in range(2):
                await Fees(self.db).give_back(key, at=at(self.now), why="Too late.")

        try:
            self.do(step, event.crash_at)
            self.do(twice)
        except NotEnough:
            return
        if event.pick % 3:
            self.fees += amount
            return
        self.do(back, event.crash_at)
        self.do(back)

    def keep_house(self, event: Event) -> None:
        """Holds that nobody used and tokens that expired go where they belong."""
        if event.pick % 2:  # only after a day a hold is old enough
            self.now += DAY_S * MS

        async def step(_: Leases) -> None:
            await Expiry(self.db).expire_holds(at(self.now))
            await Grants(self.db).lapse(at(self.now))

        if not self.do(step, event.crash_at):
            self.do(step)
        for lease_id in self.open(is_ready=False):
            lease = self.leases[lease_id]
            if lease.per_hour and lease.held_ms + DAY_S * MS <= self.now:
                lease.used_s = 0

    # -- what must be true ----------------------------------------------------------

    def close(self, lease_id: str, end: End, until: datetime | None = None) -> None:
        """Note what a lease used: from ready to its end, or to what broke first."""
        lease = self.leases[lease_id]
        lease.used_s = 0
        if lease.ready_ms is None or end.ending is Ending.FAILED:
            return
        ends = [moment for moment in (end.at or until, end.broke_at) if moment]
        used = min(ends) - at(lease.ready_ms)
        lease.used_s = max(0, used // timedelta(seconds=1))

    @invariant()
    def the_books_are_right(self) -> None:
        """The audit finds nothing, no cap is exceeded, ended leases cost their time."""
        self.runner.run(self.look())

    async def look(self) -> None:
        """See above."""
        await self.lab.check()
        async with self.db.read() as conn:
            query = select(draws.c.amount).where(draws.c.course == "physics")
            assert all(amount <= CAP for amount in await conn.scalars(query))
        for lease_id, lease in self.leases.items():
            charged, seconds = await self.lab.charged(lease_id)
            if lease.used_s is not None:
                assert seconds == lease.used_s
                assert charged == lease.per_hour * lease.used_s // HOUR_S
            elif lease.ready_ms is None:
                assert charged == 0
            else:
                ran_s = max(0, self.now - lease.ready_ms) // MS
                assert charged <= lease.per_hour * ran_s // HOUR_S

    def teardown(self) -> None:
        """End what still runs; all leases together must have cost price x seconds."""
        try:
            self.runner.run(self.finish())
        finally:
            self.runner.run(self.db.close())
            self.runner.close()
            self.made.__exit__(None, None, None)

    async def finish(self) -> None:
        """See above."""
        self.now += 5 * MS
        for lease_id in self.open():
            end = End(Ending.USED, at(self.now), "the term is over")
            await self.lab.leases.end(lease_id, end, now=at(self.now))
            self.close(lease_id, end)
        assert await self.lab.leases.open() == {}
        await self.look()
        costs = [
            lease.per_hour * (lease.used_s or 0) // HOUR_S
            for lease in self.leases.values()
        ]
        assert await self.lab.paid() == sum(costs) + self.fees


def test_in_any_order_the_books_are_right_and_time_costs_its_price(
    ledgers: Ledgers,
) -> None:
    """On SQLite and on PostgreSQL."""
    machine: Any = lambda: AnyOrder(ledgers)  # noqa: E731 - typed as a class there
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("statement", range(0, 30, 3))
async def test_a_crash_before_any_statement_of_an_end_undoes_all_of_it(
    url: str, statement: int
) -> None:
    """The next try does it whole; nothing is charged twice."""
    db = Database.open(url)
    lab = await Lab(db, POLICY).set_up()
    await lab.endow("physics", 100 * MICRO)
    await lab.give(200 * MICRO)
    await lab.start("ls_1", course="physics")
    await lab.leases.settle({"ls_1": at(100 * MS)})
    end = End(Ending.USED, at(500 * MS), "")
    try:
        with crash(db, statement):
            await lab.leases.end("ls_1", end, now=at(501 * MS))
    except Crash:
        assert (await lab.leases.open())["ls_1"] is not None
    await lab.check()
    await lab.leases.end("ls_1", end, now=at(501 * MS))
    assert await lab.charged("ls_1") == (500 * MICRO, 500)
    assert await lab.waived("ls_1") == 200 * MICRO
    await lab.check()
    await db.close()
