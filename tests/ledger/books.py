"""A ledger under test: what is in it, and that nothing in it is wrong."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select, update
from torchroom.ledger.audit import audit
from torchroom.ledger.courses import Courses
from torchroom.ledger.database import Database, micros, moment
from torchroom.ledger.drawing import Share
from torchroom.ledger.draws import adjust, drawn
from torchroom.ledger.grants import Grants
from torchroom.ledger.journal import record
from torchroom.ledger.model import Account, Course, Kind, Posting
from torchroom.ledger.posting import hold
from torchroom.ledger.tables import accounts, holds, leases, postings, transactions

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)  # a Wednesday
TOKEN = 1_000_000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COURSE = "deep-learning"


class Books:
    """Looks into a ledger, and sets up what tests begin with."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.n_keys = 0

    def key(self) -> str:
        """Return a key that was not used yet."""
        self.n_keys += 1
        return f"key-{self.n_keys}"

    async def give(
        self,
        user: str,
        amount: int,
        *,
        course: str = "",
        expires_at: datetime | None = None,
    ) -> None:
        """Give a user tokens."""
        await Grants(self.db).grant(
            user,
            amount,
            key=self.key(),
            actor="admin",
            at=NOW,
            course=course,
            expires_at=expires_at,
        )

    async def course(
        self, budget: int, *, name: str = COURSE, cap: int | None = None
    ) -> None:
        """Set up a course with so much in its wallet."""
        courses = Courses(self.db)
        await courses.put(Course(name, name.title(), cap), at=NOW)
        if budget:
            await courses.budget(name, budget, key=self.key(), actor="admin", at=NOW)

    async def hold(
        self,
        lease_id: str,
        user: str,
        parts: Mapping[Account, int],
        *,
        expires_at: datetime = NOW + DAY,
        ready_at: datetime | None = None,
    ) -> None:
        """Reserve tokens for a lease, as the metering does."""
        async with self.db.write() as conn:
            legs = [Posting(account, amount) for account, amount in parts.items()]
            placed = hold(
                legs, key=f"hold:{lease_id}:0", at=NOW, request="", lease_id=lease_id
            )
            of_course = [leg for leg in legs if leg.account.kind is Kind.COURSE]
            drew = {Share(leg.account.name, user): leg.amount for leg in of_course}
            await drawn(conn, drew, lock=True)
            recorded = (await record(conn, [placed]))[0]
            await adjust(conn, drew)
            await conn.execute(
                insert(leases).values(
                    id=lease_id,
                    user=user,
                    server="",
                    course=COURSE,
                    slot_types=json.dumps(["T4"]),
                    per_hour=TOKEN,
                    held_at=micros(NOW),
                    ready_at=micros(ready_at),
                )
            )
            hold_id = await conn.scalar(
                insert(holds)
                .values(
                    transaction_id=recorded.id,
                    lease_id=lease_id,
                    amount=sum(parts.values()),
                    expires_at=micros(expires_at),
                )
                .returning(holds.c.id)
            )
            of_lease = update(leases).where(leases.c.id == lease_id)
            await conn.execute(of_lease.values(hold_id=hold_id))

    async def of(self, user: str, course: str = "") -> int:
        """Return what is in a user's accounts with this earmark, expired ones too."""
        return await self._sum(Kind.USER, user, course)

    async def wallet(self, course: str = COURSE) -> int:
        """Return what is in a course's wallet."""
        return await self._sum(Kind.COURSE, course)

    async def issued(self) -> int:
        """Return what is in circulation, used or not."""
        return -await self._sum(Kind.ISSUED, "")

    async def held(self) -> int:
        """Return what is reserved for servers."""
        return await self._sum(Kind.HOLDS, "")

    async def drawn(self, user: str, course: str = COURSE) -> int:
        """Return what a student drew from a course in all."""
        share = Share(course, user)
        async with self.db.read() as conn:
            return (await drawn(conn, [share]))[share]

    async def codes(self) -> Sequence[str]:
        """Return the codes of all transactions, the first recorded first."""
        query = select(transactions.c.code).order_by(transactions.c.id)
        async with self.db.read() as conn:
            return list(await conn.scalars(query))

    async def legs(self) -> Sequence[tuple[str, datetime | None, int]]:
        """Return name, expiry and amount of the last transaction's postings."""
        last = select(func.max(transactions.c.id)).scalar_subquery()
        query = (
            select(accounts.c.name, accounts.c.expires_at, postings.c.amount)
            .join_from(postings, accounts)
            .where(postings.c.transaction_id == last)
            .order_by(postings.c.id)
        )
        async with self.db.read() as conn:
            rows = await conn.execute(query)
            return [(row.name, moment(row.expires_at), row.amount) for row in rows]

    async def check(self) -> None:
        """Fail unless an audit finds nothing wrong."""
        assert (await audit(self.db, NOW)).problems == ()

    async def _sum(self, kind: Kind, name: str, course: str = "") -> int:
        query = select(func.coalesce(func.sum(accounts.c.balance), 0)).where(
            accounts.c.kind == kind,
            accounts.c.name == name,
            accounts.c.course == course,
        )
        async with self.db.read() as conn:
            return int(await conn.scalar(query) or 0)
