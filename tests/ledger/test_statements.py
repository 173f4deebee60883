"""What is read out of the ledger: balances, histories, usage, exports."""

import contextlib
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from torchroom.ledger.audit import audit
from torchroom.ledger.courses import Courses
from torchroom.ledger.cursors import Place
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, LedgerError, NotEnough
from torchroom.ledger.grants import Grants
from torchroom.ledger.journal import record
from torchroom.ledger.leases import Leases
from torchroom.ledger.metrics import Figures
from torchroom.ledger.model import ISSUED, MICRO, Code, Course, Ending, Kind, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.posting import transfer, wallet_of_user
from torchroom.ledger.prices import Prices
from torchroom.ledger.pricing import charge
from torchroom.ledger.statements import Statements
from torchroom.ledger.usage import By
from torchroom.ledger.views import Entry, Page

T0 = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
FAR = T0 + timedelta(days=365)
T4 = "NVIDIA T4"
PER_HOUR = 12 * MICRO
HOLD = charge(PER_HOUR, 600)
USERS = ("alice", "bob", "carol")


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


class Room:
    """A ledger with a price, a course and the use-cases that fill it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.read = Statements(db)
        self.grants = Grants(db)
        self.courses = Courses(db)
        self.leases = Leases(db, Policy(hold_s=600))
        self._n = 0

    async def open(self) -> None:
        prices = Prices(self.db)
        await prices.set(T4, PER_HOUR, valid_from=T0, at=T0, actor="admin")
        await prices.set("cpu", 0, valid_from=T0, at=T0, actor="admin")
        await self.courses.put(Course("cs101", "Deep learning", 5 * MICRO), at=T0)

    def key(self) -> str:
        self._n += 1
        return f"key {self._n}"

    async def grant(
        self,
        user: str,
        amount: int,
        *,
        course: str = "",
        at: datetime = T0,
        expires_at: datetime | None = None,
    ) -> None:
        await self.grants.grant(
            user, amount, key=self.key(), actor="admin", at=at, course=course,
            expires_at=expires_at, note="Have fun.",
        )  # fmt: skip

    async def budget(self, amount: int) -> None:
        await self.courses.budget("cs101", amount, key=self.key(), actor="admin", at=T0)

    async def start(
        self, lease_id: str, user: str = "alice", course: str = "", at: datetime = T0
    ) -> None:
        payer = Payer(user, "lab", course)
        await self.leases.hold(lease_id, payer, [T4], at)
        await self.leases.ready(lease_id, at)

    async def end(
        self, lease_id: str, at: datetime, ending: Ending = Ending.USED
    ) -> None:
        broke_at = at if ending is Ending.BROKE else None
        end = End(ending, at, "stopped by the user", broke_at)
        await self.leases.end(lease_id, end, now=at)


@pytest.fixture
async def room(db: Database) -> Room:
    """A ledger with a price and a course."""
    made = Room(db)
    await made.open()
    return made


async def all_pages(room: Room, kind: Kind, name: str, limit: int) -> list[Entry]:
    """Every row, read page by page."""
    found: list[Entry] = []
    cursor = None
    while True:
        page = await room.read.history(kind, name, cursor=cursor, limit=limit)
        assert len(page.items) <= limit
        found += page.items
        if page.next is None:
            return found
        assert len(page.items) == limit
        cursor = page.next


def told(page: Page | Sequence[Entry]) -> list[tuple[Code, int]]:
    items = page.items if isinstance(page, Page) else page
    return [(entry.code, entry.amount) for entry in items]


# ------------------------------------------------------------------------------ balance


async def test_a_name_that_the_ledger_never_heard_of_has_nothing(room: Room) -> None:
    """Whoever asks gets zeros, not an error: new users have not been seen yet."""
    view = await room.read.balance("nobody", T0)
    assert (view.spendable, view.held, view.per_hour) == (0, 0, 0)
    assert view.seconds_left is None
    assert (await room.read.history(Kind.USER, "nobody")).items == ()


async def test_purses_expire_at_their_moment_and_soonest_first(room: Room) -> None:
    """An expired purse is nothing at once, before anybody tidied it up."""
    await room.grant("alice", 1)
    await room.grant("alice", 2, expires_at=later(20))
    await room.grant("alice", 4, expires_at=later(10), course="cs101")
    view = await room.read.balance("alice", later(9))
    assert [(p.microtokens, p.course) for p in view.purses] == [
        (4, "cs101"), (2, ""), (1, ""),
    ]  # fmt: skip
    assert (view.available, view.next_expiry) == (7, later(10))
    assert (await room.read.balance("alice", later(10))).available == 3
    assert (await room.read.balance("alice", later(20))).next_expiry is None


async def test_the_balance_does_not_depend_on_when_leases_are_settled(
    room: Room,
) -> None:
    """With or without a settlement in between, a second costs a second."""
    await room.grant("alice", 100 * MICRO)
    await room.start("ls_1")
    expected = {s: 100 * MICRO - charge(PER_HOUR, s) for s in (0, 1, 299, 450, 3000)}
    for seconds, left in expected.items():
        assert (await room.read.balance("alice", later(seconds))).spendable == left
        await room.leases.settle({"ls_1": later(seconds)})
        view = await room.read.balance("alice", later(seconds))
        assert view.spendable == left
        assert view.per_hour == PER_HOUR
        assert view.seconds_left is not None
        assert abs(view.seconds_left - (left * 3600 // PER_HOUR)) <= 2


async def test_a_hold_is_shown_apart_and_burns_nothing_before_ready(
    room: Room,
) -> None:
    """What a start reserves is not spent: queueing and booting are free."""
    await room.grant("alice", 10 * MICRO)
    await room.leases.hold("ls_1", Payer("alice"), [T4], T0)
    view = await room.read.balance("alice", later(500))
    assert (view.available, view.held, view.accrued) == (10 * MICRO - HOLD, HOLD, 0)
    assert (view.spendable, view.per_hour, view.seconds_left) == (10 * MICRO, 0, None)
    assert [each.lease.id for each in view.leases] == ["ls_1"]


async def test_a_course_lends_what_its_wallet_and_its_cap_allow(room: Room) -> None:
    """A share is the wallet, or what is left of the cap if that is less."""
    await room.budget(3 * MICRO)
    view = await room.read.balance("alice", T0, courses=["cs101", "no course"])
    assert [(s.course, s.microtokens) for s in view.shares] == [("cs101", 3 * MICRO)]
    await room.budget(97 * MICRO)
    view = await room.read.balance("alice", T0, courses=["cs101"])
    assert view.spendable == 5 * MICRO
    await room.start("ls_1", course="cs101")
    view = await room.read.balance("alice", later(60))
    assert view.shares[0].microtokens == 5 * MICRO - HOLD
    assert view.spendable == 5 * MICRO - charge(PER_HOUR, 60)
    assert (await room.read.balance("bob", T0)).shares == ()


async def test_the_lease_of_somebody_else_is_not_in_a_balance(room: Room) -> None:
    """Names are compared whole, never by pattern or case."""
    for user in ("alice", "Alice", "alice%", "alic_"):
        await room.grant(user, 10 * MICRO)
    await room.start("ls_1", user="alice%")
    for user in ("alice", "Alice", "alic_"):
        view = await room.read.balance(user, later(60))
        assert (view.spendable, view.leases) == (10 * MICRO, ())


# ------------------------------------------------------------------------------ history


async def test_a_lease_is_one_row_and_its_holds_are_none(room: Room) -> None:
    """A student sees what was given, and each server with what it cost in all."""
    await room.grant("alice", 100 * MICRO)
    await room.start("ls_1", at=later(1))
    for seconds in range(1, 4000, 250):
        await room.leases.settle({"ls_1": later(seconds)})
    await room.end("ls_1", later(4001))
    page = await room.read.history(Kind.USER, "alice")
    assert told(page) == [
        (Code.SETTLE, -charge(PER_HOUR, 4000)),
        (Code.GRANT, 100 * MICRO),
    ]
    row = page.items[0]
    assert row.lease is not None
    assert (row.lease.settled_s, row.lease.per_hour) == (4000, PER_HOUR)
    assert (row.note, row.at) == ("stopped by the user", later(1))
    assert page.items[1].note == "Have fun."


async def test_a_free_server_is_no_row(room: Room) -> None:
    """A statement is about tokens."""
    await room.leases.hold("ls_1", Payer("alice"), ["cpu"], T0)
    assert (await room.read.history(Kind.USER, "alice")).items == ()


async def test_a_failed_start_is_shown_and_cost_nothing(room: Room) -> None:
    """The reserve came back; the row says why there is nothing to pay."""
    await room.grant("alice", 10 * MICRO)
    await room.leases.hold("ls_1", Payer("alice"), [T4], later(1))
    end = End(Ending.FAILED, None, "The image could not be pulled.")
    await room.leases.end("ls_1", end, now=later(60))
    row = (await room.read.history(Kind.USER, "alice")).items[0]
    assert (row.amount, row.note) == (0, "The image could not be pulled.")


async def test_who_paid_is_told_apart(room: Room) -> None:
    """The course's part, the student's own and what was waived add up to the charge."""
    await room.budget(100 * MICRO)  # of which a student may draw 5
    await room.grant("alice", 1 * MICRO)
    await room.start("ls_1", course="cs101", at=later(1))
    for seconds in range(1, 2000, 100):
        await room.leases.settle({"ls_1": later(seconds)})
    await room.end("ls_1", later(3601))
    row = (await room.read.history(Kind.USER, "alice")).items[0]
    assert row.amount == -1 * MICRO
    assert (row.paid_by_course, row.waived) == (5 * MICRO, 6 * MICRO)
    of_course = await room.read.history(Kind.COURSE, "cs101")
    assert told(of_course) == [(Code.SETTLE, -5 * MICRO), (Code.BUDGET, 100 * MICRO)]


async def test_what_the_platform_broke_is_not_in_the_charge(room: Room) -> None:
    """A refund is part of the lease's row, which is what was paid in the end."""
    await room.grant("alice", 100 * MICRO)
    await room.start("ls_1", at=later(1))
    for seconds in range(1, 3600, 300):
        await room.leases.settle({"ls_1": later(seconds)})
    end = End(Ending.BROKE, later(3601), "GPU lost.", later(601))
    await room.leases.end("ls_1", end, now=later(3700))
    page = await room.read.history(Kind.USER, "alice")
    assert told(page)[0] == (Code.SETTLE, -charge(PER_HOUR, 600))
    full = await room.read.history(Kind.USER, "alice", full=True, limit=200)
    assert Code.REFUND in {entry.code for entry in full.items}


async def test_an_auditor_sees_every_posting_of_both_sides(room: Room) -> None:
    """Full rows have all postings, which sum to zero, and the balance after each."""
    await room.grant("alice", 10 * MICRO)
    await room.start("ls_1")
    await room.end("ls_1", later(100))
    full = await room.read.history(Kind.USER, "alice", full=True)
    assert [entry.code for entry in full.items] == [Code.SETTLE, Code.HOLD, Code.GRANT]
    assert full.items[1].ended_by == f"settle {full.items[0].id}"
    for entry in full.items:
        assert sum(line.amount for line in entry.lines) == 0
        assert entry.key
    revenue = await room.read.history(Kind.REVENUE, "", full=True)
    assert [entry.amount for entry in revenue.items] == [charge(PER_HOUR, 100)]


async def test_a_transaction_on_two_purses_is_one_row(room: Room) -> None:
    """However pages are cut, it is shown once, with its sum."""
    await room.grant("alice", 4, expires_at=later(10))
    await room.grant("alice", 4)
    for n in range(3):
        await room.grants.take_back(
            "alice", 2 + n % 2, key=f"back {n}", actor="admin", at=T0
        )
    rows = []
    cursor = None
    while True:
        page = await room.read.history(
            Kind.USER, "alice", cursor=cursor, limit=1, full=True
        )
        rows += told(page)
        if (cursor := page.next) is None:
            break
    assert rows == [
        (Code.TAKE_BACK, -2),
        (Code.TAKE_BACK, -3),
        (Code.TAKE_BACK, -2),
        (Code.GRANT, 4),
        (Code.GRANT, 4),
    ]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "AAAA", "MSAyIDM=", "é", "MSAy", "a" * 5000, Place(5, 5, "\0").text(),
     Place(10**19, 5, "").text(), Place(5, -5, "").text(), "2 3 4"],
)  # fmt: skip
async def test_a_cursor_that_no_page_gave_is_refused(room: Room, cursor: str) -> None:
    """Or it is a place in the list; never anything else."""
    with contextlib.suppress(BadInput):
        page = await room.read.history(Kind.USER, "alice", cursor=cursor)
        assert page.items == ()


@pytest.mark.parametrize("limit", [0, -1, 201, 10**9])
async def test_a_page_has_a_limit(room: Room, limit: int) -> None:
    """A page of no rows, or of all, is refused."""
    with pytest.raises(BadInput, match="1 to 200"):
        await room.read.history(Kind.USER, "alice", limit=limit)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 256, "a\0b", "\ud800", " a"])
async def test_names_that_nobody_has_are_refused(room: Room, name: str) -> None:
    """A database is never asked for a name that it cannot hold."""
    for ask in (
        room.read.balance(name, T0),
        room.read.history(Kind.USER, name),
        room.read.usage(By.DAY, T0, FAR, user=name),
    ):
        with pytest.raises(BadInput):
            await ask


async def test_only_owners_have_a_plain_history(room: Room) -> None:
    """The ledger's own accounts are for auditors."""
    with pytest.raises(BadInput):
        await room.read.history(Kind.REVENUE, "")


# -------------------------------------------------------------------------------- usage


async def test_usage_is_what_was_used_not_when_it_was_settled(room: Room) -> None:
    """A slice over midnight is split; rows are of UTC days."""
    await room.grant("alice", 100 * MICRO)
    midnight = T0.replace(hour=0) + timedelta(days=1)
    await room.start("ls_1", at=midnight - timedelta(seconds=60))
    await room.end("ls_1", midnight + timedelta(seconds=30))
    rows = await room.read.usage(By.DAY, T0, FAR, user="alice")
    assert [(row.key, row.seconds, row.microtokens) for row in rows] == [
        ("2026-03-02", 60, charge(PER_HOUR, 60)),
        ("2026-03-03", 30, charge(PER_HOUR, 90) - charge(PER_HOUR, 60)),
    ]
    day = await room.read.usage(By.TYPE, midnight, midnight + timedelta(days=1))
    assert [(row.key, row.seconds) for row in day] == [(T4, 30)]


async def test_usage_of_one_user_or_course_has_no_other_in_it(room: Room) -> None:
    """Filters are exact."""
    await room.budget(100 * MICRO)
    await room.grant("alice", 100 * MICRO)
    await room.start("ls_1", "alice")
    await room.start("ls_2", "bob", "cs101")
    await room.end("ls_1", later(100))
    await room.end("ls_2", later(200))
    by_user = await room.read.usage(By.USER, T0, FAR)
    assert [(row.key, row.seconds) for row in by_user] == [("alice", 100), ("bob", 200)]
    of_course = await room.read.usage(By.COURSE, T0, FAR, course="cs101")
    assert [(row.key, row.seconds) for row in of_course] == [("cs101", 200)]
    of_none = await room.read.usage(By.COURSE, T0, FAR, course="")
    assert [(row.key, row.seconds) for row in of_none] == [("", 100)]


async def test_a_span_of_time_has_a_start_before_its_end(room: Room) -> None:
    """An empty or a turned span is refused."""
    with pytest.raises(BadInput, match="after its start"):
        await room.read.usage(By.DAY, T0, T0)


# ------------------------------------------------------------------ everything together


async def story(room: Room, seed: int) -> None:
    """Let users do things at random, with the clock going on."""
    dice = random.Random(seed)  # noqa: S311 - a story that can be told again
    now = 0.0
    running: dict[str, float] = {}
    await room.budget(30 * MICRO)
    for step in range(40):
        now += dice.choice([0.5, 30, 200, 1000])
        user = dice.choice(USERS)
        with contextlib.suppress(NotEnough):
            match dice.randrange(7):
                case 0:
                    expires_at = dice.choice([None, later(now + 900)])
                    amount = dice.randrange(1, 9 * MICRO)
                    course = dice.choice(["", "cs101"])
                    await room.grant(
                        user, amount, at=later(now), expires_at=expires_at,
                        course=course,
                    )  # fmt: skip
                case 1 | 2:
                    course = dice.choice(["", "cs101"])
                    await room.start(f"ls_{step}", user, course, later(now))
                    running[f"ls_{step}"] = now
                case 3 | 4:
                    await room.leases.settle({each: later(now) for each in running})
                case 5 if running:
                    which = dice.choice(sorted(running))
                    running.pop(which)
                    await room.end(which, later(now), dice.choice(list(Ending)))
                case _:
                    await room.grants.lapse(later(now))


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happened_the_rows_add_up(room: Room, seed: int) -> None:
    """Rows sum to what there is; pages of any size are the same list; so is usage."""
    await story(room, seed)
    assert (await audit(room.db, FAR)).problems == ()
    rows = [row async for row in room.read.export()]
    revenue = sum(r.amount for r in rows if r.account.kind is Kind.REVENUE)
    owners = [(Kind.USER, user) for user in USERS] + [(Kind.COURSE, "cs101")]
    listed = 0
    for kind, name in owners:
        whole = await all_pages(room, kind, name, 200)
        for limit in (1, 3, 7):
            assert await all_pages(room, kind, name, limit) == whole
        own = sum(
            r.amount for r in rows if (r.account.kind, r.account.name) == (kind, name)
        )
        listed += sum(entry.amount for entry in whole) - own
        assert all(newer.at >= older.at for newer, older in pairwise(whole))
    held = sum(r.amount for r in rows if r.account.kind is Kind.HOLDS)
    assert listed == held  # what is held is the owners' still
    for by in By:
        used = await room.read.usage(by, T0, FAR)
        assert sum(row.microtokens for row in used) == revenue
    waived = 0
    for user in USERS:
        entries = await all_pages(room, Kind.USER, user, 200)
        waived += sum(entry.waived for entry in entries)
    given = -sum(
        r.amount for r in rows if r.account.kind is Kind.ISSUED and r.code is Code.WAIVE
    )
    assert waived == given


async def test_an_export_has_every_posting_once_in_order(room: Room) -> None:
    """Over several chunks, and each transaction sums to zero."""
    many = [
        transfer(
            Code.GRANT,
            n + 1,
            source=ISSUED,
            target=wallet_of_user(f"user{n % 7}"),
            key=f"many {n}",
            at=T0,
            request="",
        )
        for n in range(1200)
    ]
    async with room.db.write() as conn:
        await record(conn, many)
    rows = [row async for row in room.read.export()]
    ids = [row.posting_id for row in rows]
    assert len(rows) == 2400
    assert ids == sorted(set(ids))
    sums: dict[int, int] = {}
    for row in rows:
        sums[row.transaction_id] = sums.get(row.transaction_id, 0) + row.amount
    assert set(sums.values()) == {0}


async def test_reading_without_tables_is_a_sentence(tmp_path: object) -> None:
    """A database that is no ledger is told as such, not with a traceback."""
    db = Database.open(f"sqlite:///{tmp_path}/empty.sqlite")
    with pytest.raises(LedgerError):
        await Statements(db).balance("alice", T0)
    await db.close()


# ----------------------------------------------------------------------- how it is read


async def test_pages_are_read_through_indexes(
    sqlite_ledgers: Callable[[], AbstractContextManager[str]],
) -> None:
    """No statement of a page, a balance or the figures reads a whole table."""
    asked: list[tuple[str, Any]] = []
    with sqlite_ledgers() as url:
        db = Database.open(url)
        room = Room(db)
        await room.open()
        await story(room, 0)

        @sa.event.listens_for(sa.Engine, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            if statement.startswith("SELECT"):
                asked.append((statement, values))

        try:
            for limit in (1, 50):
                for kind, name in ((Kind.USER, "alice"), (Kind.COURSE, "cs101")):
                    await all_pages(room, kind, name, limit)
                    await room.read.history(kind, name, full=True, limit=limit)
            await room.read.balance("alice", later(1), courses=["cs101"])
            await Figures(T0).refresh(db, later(1))
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
            await db.close()
        assert asked
        with sqlite3.connect(url.removeprefix("sqlite:///")) as conn:
            for statement, values in asked:
                plan = conn.execute(f"EXPLAIN QUERY PLAN {statement}", values)
                steps = [row[-1] for row in plan]
                scans = [
                    step
                    for step in steps
                    if step.startswith(("SCAN postings", "SCAN transactions"))
                    or step == "SCAN leases"
                ]
                assert not scans, (statement, steps)
