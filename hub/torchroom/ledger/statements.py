"""What users, courses and auditors read. It never writes. See views.py for the values.

Every answer is of one moment: it is read from one consistent view of the ledger.
"""

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select

from torchroom.ledger.accounts import account_of
from torchroom.ledger.balance import read_balance
from torchroom.ledger.cursors import check_limit, place_of
from torchroom.ledger.database import Database, micros, moment
from torchroom.ledger.errors import BadInput
from torchroom.ledger.history import read_full, read_plain
from torchroom.ledger.model import Account, Code, Kind
from torchroom.ledger.names import check_name
from torchroom.ledger.rows import lease_of
from torchroom.ledger.tables import (
    NEVER,
    accounts,
    fees,
    leases,
    postings,
    transactions,
)
from torchroom.ledger.usage import By, Sums, Used, fee_of, pieces
from torchroom.ledger.views import BalanceView, Page

_ROWS_AT_ONCE = 1000
_OWNERS = {Kind.USER: "A user's name", Kind.COURSE: "A course's name"}


@dataclass(frozen=True, slots=True)
class Exported:
    """One posting with its transaction, for books kept elsewhere.

    Attributes:
        posting_id: Rises from row to row.
        transaction_id: The same for all postings of one transaction.
        key: Its idempotency key.
        code: Why.
        at: When it happened.
        recorded_at: When the ledger wrote it.
        lease_id: "" if no lease is concerned.
        actor: Who asked.
        note: One sentence, or "".
        account: What is posted to.
        amount: Microtokens, not 0.
        balance_after: Of the account.
    """

    posting_id: int
    transaction_id: int
    key: str
    code: Code
    at: datetime
    recorded_at: datetime
    lease_id: str
    actor: str
    note: str
    account: Account
    amount: int
    balance_after: int


class Statements:
    """Reads of one ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def balance(
        self, user: str, at: datetime, *, courses: Collection[str] = ()
    ) -> BalanceView:
        """Return what a user has at this moment, to the second.

        Args:
            user: Whose.
            at: Now.
            courses: The user's groups: what these courses still let the user draw is
                counted. Without them only those of leases that go on are.

        Raises:
            BadInput: Not a user's name.
        """
        check_name(user, _OWNERS[Kind.USER])
        async with self._db.read() as conn:
            return await read_balance(conn, user, at, courses)

    async def history(
        self,
        kind: Kind,
        name: str,
        *,
        cursor: str | None = None,
        limit: int = 50,
        full: bool = False,
    ) -> Page:
        """Return what happened to the tokens of a user or a course, newest first.

        A lease is one row with all that it was charged so far. The amounts of all rows
        add up to what the owner has and what is held of it.

        Args:
            kind: USER or COURSE; `full` also the ledger's own.
            name: Of the owner, "" for the ledger's own.
            cursor: Where the last page ended; None is the newest.
            limit: Rows of a page, 1 to 200.
            full: Every transaction with all postings, holds too, for auditors.

        Raises:
            BadInput: A name, the cursor or the limit cannot be used.
        """
        place = place_of(cursor)
        check_limit(limit)
        if kind in _OWNERS:
            check_name(name, _OWNERS[kind])
        elif not full:
            raise BadInput("Only users and courses have a plain history.")
        read = read_full if full else read_plain
        async with self._db.read() as conn:
            return await read(conn, kind, name, place, limit)

    async def usage(
        self,
        by: By,
        start: datetime,
        end: datetime,
        *,
        user: str | None = None,
        course: str | None = None,
    ) -> tuple[Used, ...]:
        """Return what was used in a span of time and settled so far, summed up exactly.

        Seconds count where they were used, not where they were settled, so the sums of
        adjoining spans add up. Fees less what was given back of them are in it, without
        seconds; what was refunded of leases is not.

        Args:
            by: What the rows are; days are days of UTC.
            start: The first moment.
            end: The moment after the last.
            user: Only this user's; None: everybody's.
            course: Only for servers of this course, "" of none; None: all.

        Raises:
            BadInput: `end` is not after `start`, or a name cannot be used.
        """
        if micros(end) <= micros(start):
            raise BadInput("The end of a span of time is after its start.")
        query = select(leases).where(
            leases.c.ready_at != NEVER,
            leases.c.settled_s > 0,
            leases.c.held_at < micros(end),
            or_(leases.c.ended_at == NEVER, leases.c.ended_at > micros(start)),
        )
        paid = select(fees).where(fees.c.at >= micros(start), fees.c.at < micros(end))
        if user is not None:
            check_name(user, _OWNERS[Kind.USER])
            query = query.where(leases.c.user == user)
            paid = paid.where(fees.c.user == user)
        if course is not None:
            if course:
                check_name(course, _OWNERS[Kind.COURSE])
            query = query.where(leases.c.course == course)
            paid = paid.where(fees.c.course == course)
        sums = Sums()
        async with self._db.read() as conn:
            rows = await conn.stream(
                query, execution_options={"yield_per": _ROWS_AT_ONCE}
            )
            async for row in rows:
                for piece in pieces(lease_of(row), by, start, end):
                    sums.add(piece)
            rows = await conn.stream(
                paid, execution_options={"yield_per": _ROWS_AT_ONCE}
            )
            async for row in rows:
                at = _time(row.at)
                sums.add(fee_of(by, row.user, row.course, row.amount, at))
        return sums.rows()

    async def export(self) -> AsyncGenerator[Exported, None]:
        """Yield every posting, oldest first, of one moment; memory stays bounded.

        Close it (`contextlib.aclosing`) if it may not be read to its end: it holds a
        connection.
        """
        query = (
            select(
                postings,
                transactions.c.key,
                transactions.c.code,
                transactions.c.at,
                transactions.c.recorded_at,
                transactions.c.lease_id,
                transactions.c.actor,
                transactions.c.note,
                accounts.c.kind,
                accounts.c.name,
                accounts.c.course,
                accounts.c.expires_at,
            )
            .select_from(
                postings.join(
                    transactions, transactions.c.id == postings.c.transaction_id
                ).join(accounts, accounts.c.id == postings.c.account_id)
            )
            .order_by(postings.c.id)
            .limit(_ROWS_AT_ONCE)
        )
        last = 0
        async with self._db.read() as conn:
            while True:
                rows = (await conn.execute(query.where(postings.c.id > last))).all()
                for row in rows:
                    yield Exported(
                        posting_id=row.id,
                        transaction_id=row.transaction_id,
                        key=row.key,
                        code=Code(row.code),
                        at=_time(row.at),
                        recorded_at=_time(row.recorded_at),
                        lease_id=row.lease_id,
                        actor=row.actor,
                        note=row.note,
                        account=account_of(row),
                        amount=row.amount,
                        balance_after=row.balance_after,
                    )
                if len(rows) < _ROWS_AT_ONCE:
                    return
                last = rows[-1].id


def _time(column: int) -> datetime:
    """Return a time that is always there."""
    found = moment(column)
    if found is None:
        raise ValueError("a transaction without a time")
    return found
