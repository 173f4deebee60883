"""Pages of the statement of a user with 100,000 postings.

Half of them belong to a dozen long leases (a week each, settled every five minutes, the
larger part paid by a course), half to thousands of short ones.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import insert
from torchroom.ledger import journal, posting
from torchroom.ledger.cursors import Place, place_of
from torchroom.ledger.database import Database, micros
from torchroom.ledger.model import Code, Kind, Posting, Transaction
from torchroom.ledger.statements import Statements
from torchroom.ledger.tables import draws, hold_ends, holds, leases

from tokens.seeds import AT, CHUNK, add_courses, analyze, check, grant
from tokens.watch import quantile

N_PAGES, LIMIT = 200, 50
COURSE = "vision"
PER_HOUR = 6_000_000
SLICE_S, HOLD_S = 300, 600
SLICE, HOLD = PER_HOUR * SLICE_S // 3600, PER_HOUR * HOLD_S // 3600
COURSE_PART = 2 * HOLD // 5  # of each hold; all of it is used
LONG, SHORT = 2016, 5  # slices of a lease: a week, and 25 minutes
USER = "reader"
AMPLE = 10**12


@dataclass(frozen=True)
class Stay:
    """A lease of the user that has ended; each slice has two postings of the user's.

    Attributes:
        id: The lease's.
        began: When it was ready.
        n_slices: Settled one after the other.
        course: Whose wallet pays as well, "" for none.
    """

    id: str
    began: datetime
    n_slices: int
    course: str

    @property
    def ended(self) -> datetime:
        """When it ended."""
        return self.began + timedelta(seconds=self.n_slices * SLICE_S)

    @property
    def from_course(self) -> int:
        """What the course paid."""
        return self.n_slices * COURSE_PART if self.course else 0

    def transactions(self) -> Iterator[Transaction]:
        """Yield holds and settlements, in turn; each settlement gives a rest back."""
        own = posting.wallet_of_user(USER)
        parts, rest = [Posting(own, HOLD)], [Posting(own, HOLD - SLICE)]
        if self.course:
            shared = posting.wallet_of_course(self.course)
            parts = [Posting(shared, COURSE_PART), Posting(own, HOLD - COURSE_PART)]
        for i in range(self.n_slices):
            at = self.began + timedelta(seconds=i * SLICE_S)
            order: posting.Order = {
                "key": f"hold:{self.id}:{i}",
                "at": at,
                "request": self.id,
                "lease_id": self.id,
            }
            yield posting.hold(parts, **order)
            order["key"] = f"settle:{self.id}:{i}"
            order["at"] = at + timedelta(seconds=SLICE_S)
            yield posting.settle(SLICE, rest, **order)

    def row(self) -> dict[str, Any]:
        """Return its row."""
        return {
            "id": self.id,
            "user": USER,
            "server": "",
            "course": self.course,
            "slot_types": '["A100"]',
            "per_hour": PER_HOUR,
            "held_at": micros(self.began),
            "ready_at": micros(self.began),
            "settled_s": self.n_slices * SLICE_S,
            "charged": self.n_slices * SLICE,
            "from_course": self.from_course,
            "ended_at": micros(self.ended),
            "closed_at": micros(self.ended),
            "reason": "stopped by its user",
        }


def stays(n_postings: int) -> Iterator[Stay]:
    """Yield leases with so many postings of the user's: the long ones, the short."""
    began = AT
    n_long = n_postings // 2 // (2 * LONG)
    n_short = (n_postings - n_long * 2 * LONG) // (2 * SHORT)
    for i in range(n_long + n_short):
        n_slices, course = (LONG, COURSE) if i < n_long else (SHORT, "")
        stay = Stay(f"ls_{i:016x}", began, n_slices, course)
        yield stay
        began = stay.ended


async def seed(db: Database, n_postings: int) -> datetime:
    """Make the user; return when the last lease ended."""
    every = list(stays(n_postings))
    drawn = sum(stay.from_course for stay in every)
    await add_courses(db, [COURSE], AMPLE)
    async with db.write() as conn:
        await journal.record(conn, [grant(USER, AMPLE)])
        await conn.execute(insert(leases), [stay.row() for stay in every])
        draw = {"course": COURSE, "user": USER, "amount": drawn}
        await conn.execute(insert(draws), [draw])
    moved = [each for stay in every for each in stay.transactions()]
    for start in range(0, len(moved), CHUNK):
        await _record(db, moved[start : start + CHUNK])
    return every[-1].ended


async def _record(db: Database, wanted: list[Transaction]) -> None:
    """Record pairs of a hold and its settlement."""
    async with db.write() as conn:
        ids = [each.id for each in await journal.record(conn, wanted)]
        placed = [
            {
                "transaction_id": row,
                "lease_id": each.lease_id,
                "amount": HOLD,
                "expires_at": micros(each.at + timedelta(days=1)),
            }
            for row, each in zip(ids, wanted, strict=True)
            if each.code is Code.HOLD
        ]
        made = await conn.scalars(
            insert(holds).returning(holds.c.id, sort_by_parameter_order=True), placed
        )
        ends = [
            {"hold_id": hold, "transaction_id": row, "how": "settle"}
            for hold, row in zip(made, ids[1::2], strict=True)
        ]
        await conn.execute(insert(hold_ends), ends)


def _cursors(newest: str, last: datetime) -> Iterator[str]:
    """Yield cursors all over a history, from the one that its first page gave."""
    random = Random(1)  # noqa: S311 - a simulation
    for _ in range(N_PAGES):
        posting_id = random.randrange(1, place_of(newest).posting_id)
        held_at = random.randrange(micros(AT), micros(last))
        yield Place(posting_id, held_at).text()


async def measure(db: Database, n_postings: int) -> dict[str, Any]:
    """Measure pages all over the history, as people read it and every posting."""
    last = await seed(db, n_postings)
    await analyze(db)
    statements = Statements(db)
    found = []
    for full in (False, True):
        first = await statements.history(Kind.USER, USER, limit=1, full=full)
        took, cpu, n_rows = [], [], 0
        for cursor in _cursors(first.next or "", last):
            began, cpu_began = time.perf_counter(), time.process_time()
            page = await statements.history(
                Kind.USER, USER, cursor=cursor, limit=LIMIT, full=full
            )
            took.append(1e3 * (time.perf_counter() - began))
            cpu.append(1e3 * (time.process_time() - cpu_began))
            n_rows += len(page.items)
        row: dict[str, Any] = {"what": "every posting" if full else "as people read it"}
        row |= {"p50 ms": quantile(took, 0.5), "p99 ms": quantile(took, 0.99)}
        row |= {"p99 CPU ms": quantile(cpu, 0.99), "mean rows": n_rows / N_PAGES}
        found.append(row)
    return {"pages": found, "audit": await check(db)}
