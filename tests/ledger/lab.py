"""A ledger with a few people in it, as the tests of leases use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from torchroom.ledger import journal
from torchroom.ledger.audit import audit
from torchroom.ledger.database import Database, micros
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import (
    CPU,
    ISSUED,
    MICRO,
    REVENUE,
    Account,
    Code,
    Ending,
    Kind,
    Payer,
    Price,
)
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.posting import transfer
from torchroom.ledger.tables import accounts, courses, leases, postings, prices
from torchroom.ledger.tables import transactions as done

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
HOUR = 3600 * MICRO  # at this price a second costs a token
GPU, SMALL, FREE = "A100", "A100 1/4", "T4"
PRICES = {GPU: HOUR, SMALL: 1_000_001, FREE: 0, CPU: 0}
ANA, BEN = "ana", "ben"
POLICY = Policy()


def at(seconds: float) -> datetime:
    """Return a moment so many seconds after the start."""
    return START + timedelta(seconds=seconds)


def used(seconds: float | None, reason: str = "stopped by its user") -> End:
    """Return the usual end at a moment."""
    return End(Ending.USED, None if seconds is None else at(seconds), reason)


def broke(seconds: float | None, broke_s: float) -> End:
    """Return an end of a lease whose GPU broke before."""
    moment = None if seconds is None else at(seconds)
    return End(Ending.BROKE, moment, "the GPU was lost", at(broke_s))


def failed(seconds: float) -> End:
    """Return a start that failed."""
    return End(Ending.FAILED, at(seconds), "the image cannot be pulled")


@dataclass
class Lab:
    """A ledger and its leases."""

    db: Database
    policy: Policy = POLICY
    n_gifts: int = 0

    @property
    def leases(self) -> Leases:
        """The use-cases, as a hub that was just started has them."""
        return Leases(self.db, self.policy)

    async def set_up(self, listed: Mapping[str, int | None] = PRICES) -> "Lab":
        """Set prices; return this."""
        rows = [
            {
                "key": each.key,
                "per_hour": each.per_hour,
                "valid_from": micros(each.valid_from),
                "actor": each.actor,
                "recorded_at": micros(START),
            }
            for each in (
                Price(key, price, at(-3600), "ada") for key, price in listed.items()
            )
        ]
        async with self.db.write() as conn:
            await conn.execute(insert(prices), rows)
        return self

    async def give(
        self,
        amount: int,
        user: str = ANA,
        *,
        course: str = "",
        expires_at: datetime | None = None,
    ) -> None:
        """Grant a user microtokens."""
        await self._issue(
            Code.GRANT, Account(Kind.USER, user, course, expires_at), amount
        )

    async def endow(
        self, course: str, amount: int, student_cap: int | None = None
    ) -> None:
        """Make a course with a budget."""
        async with self.db.write() as conn:
            values = {"name": course, "title": course, "created_at": micros(START)}
            await conn.execute(
                insert(courses).values(values | {"student_cap": student_cap})
            )
        await self._issue(Code.BUDGET, Account(Kind.COURSE, course), amount)

    async def hold(
        self,
        lease_id: str,
        *types: str,
        user: str = ANA,
        course: str = "",
        seconds: float = 0,
    ) -> None:
        """Place the hold of a lease."""
        payer = Payer(user, lease_id, course)
        await self.leases.hold(lease_id, payer, types or (GPU,), at(seconds))

    async def start(
        self,
        lease_id: str,
        *types: str,
        user: str = ANA,
        course: str = "",
        seconds: float = 0,
    ) -> None:
        """Hold, and be ready at the same moment."""
        await self.hold(lease_id, *types, user=user, course=course, seconds=seconds)
        await self.leases.ready(lease_id, at(seconds))

    async def end(self, lease_id: str, end: End) -> None:
        """End a lease; the hub hears of it a minute later."""
        now = (end.at or START) + timedelta(minutes=1)
        await self.leases.end(lease_id, end, now=now)

    async def balance(self, account: Account) -> int:
        """Return the cached balance of an account, 0 if there is none."""
        query = select(func.coalesce(func.sum(accounts.c.balance), 0)).where(
            accounts.c.kind == account.kind,
            accounts.c.name == account.name,
            accounts.c.course == account.course,
            accounts.c.expires_at == micros(account.expires_at),
        )
        async with self.db.read() as conn:
            return int(await conn.scalar(query) or 0)

    async def has(self, user: str = ANA) -> int:
        """Return what a user has that is for anything and does not expire."""
        return await self.balance(Account(Kind.USER, user))

    async def paid(self) -> int:
        """Return what all leases were charged, a waived part included."""
        return await self.balance(REVENUE)

    async def codes(self, lease_id: str) -> list[str]:
        """Return why tokens moved for a lease, oldest first."""
        query = select(done.c.code).where(done.c.lease_id == lease_id)
        async with self.db.read() as conn:
            return list(await conn.scalars(query.order_by(done.c.id)))

    async def waived(self, lease_id: str) -> int:
        """Return what the site pays for a lease."""
        query = (
            select(func.coalesce(func.sum(-postings.c.amount), 0))
            .join(done, done.c.id == postings.c.transaction_id)
            .join(accounts, accounts.c.id == postings.c.account_id)
            .where(done.c.lease_id == lease_id, accounts.c.kind == Kind.ISSUED)
        )
        async with self.db.read() as conn:
            return int(await conn.scalar(query) or 0)

    async def charged(self, lease_id: str) -> tuple[int, int]:
        """Return what a lease was charged and for how many seconds."""
        query = select(leases.c.charged, leases.c.settled_s)
        async with self.db.read() as conn:
            row = (await conn.execute(query.where(leases.c.id == lease_id))).one()
            return row.charged, row.settled_s

    async def check(self) -> None:
        """Fail if anything is wrong in the ledger."""
        found = await audit(self.db, START)
        assert found.problems == ()

    async def _issue(self, code: Code, to: Account, amount: int) -> None:
        self.n_gifts += 1
        gift = transfer(
            code,
            amount,
            source=ISSUED,
            target=to,
            key=f"test:{self.n_gifts}",
            at=at(-60),
            request=str(amount),
        )

        async def work(conn: AsyncConnection) -> None:
            await journal.record(conn, [gift])

        await self.db.run(work)
