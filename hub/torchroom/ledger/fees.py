"""Fees: an amount for something else than a server's seconds, like more time idle.

A fee is paid from what pays for servers, in the same order. It is no hold: it is paid
at once, and given back only as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import draws, lease_rows
from torchroom.ledger.amounts import check_amount, text_of
from torchroom.ledger.database import Database, micros
from torchroom.ledger.drawing import Wallets, summed
from torchroom.ledger.errors import KeyReused, NotEnough
from torchroom.ledger.journal import Recorded, postings_of, record
from torchroom.ledger.keys import own_key, request_of
from torchroom.ledger.model import Kind, Payer, Posting, Transaction
from torchroom.ledger.names import check_key, check_name
from torchroom.ledger.posting import fee, fee_back
from torchroom.ledger.tables import fees


@dataclass(frozen=True, slots=True)
class Paid:
    """A fee that was paid and not given back.

    Attributes:
        key: What it is for.
        user: Who paid.
        amount: Microtokens.
    """

    key: str
    user: str
    amount: int


class Fees:
    """Fees of users. Any number of processes may charge them at once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def charge(
        self,
        user: str,
        course: str,
        amount: int,
        *,
        key: str,
        at: datetime,
        actor: str,
        why: str,
    ) -> Recorded:
        """Take a fee from a user; the same request under the same key takes it once.

        It is taken whole or not at all: first the user's tokens for the course, then
        the course's, as far as the user may draw them, then the user's for anything.

        Args:
            user: Who pays.
            course: Which course it is for, "" for none; the caller has checked that the
                user is a member.
            amount: Microtokens, more than 0.
            key: What the fee is for; one space of keys for all who ask, so that it is
                paid once, whoever asks for it. Given back, it can be paid again.
            at: Now.
            actor: Who asks.
            why: One sentence for the statement.

        Raises:
            BadInput: Something cannot be used.
            NotEnough: Less is available; what is held is not. Nothing was taken.
            KeyReused: The key belongs to another fee.
        """
        check_name(user, "A user's name")
        if course:
            check_name(course, "A course's name")
        check_amount(amount)
        check_key(key)
        payer = Payer(user, course=course)

        async def work(conn: AsyncConnection) -> Recorded:
            wallets = await lease_rows.wallets(conn, [payer], lock=True)
            noted = await _noted(conn, key)
            if paid := _paid(noted):
                _check_same(paid, user, course, amount)
                return Recorded(paid.transaction_id, is_new=False)
            available = wallets.available(payer, at)
            if available < amount:
                raise NotEnough(
                    f"This costs {text_of(amount)}, but only {text_of(available)} can "
                    "be used: what is reserved for running servers cannot. Nothing was "
                    "taken."
                )
            taken = fee(
                wallets.draw(payer, amount, at),
                key=own_key("fee", key, len(noted)),
                at=at,
                request=request_of(user, course, amount),
                actor=actor,
                note=why,
            )
            return await _record(
                conn, taken, wallets, key=key, payer=payer, amount=amount
            )

        return await self._db.run(work)

    async def give_back(self, key: str, *, at: datetime, why: str) -> bool:
        """Give a fee back to where it came from; tell whether there was one to give.

        What came from tokens that expired meanwhile comes back without an expiry.

        Args:
            key: What it was for.
            at: Now.
            why: One sentence for the statement.
        """
        check_key(key)

        async def work(conn: AsyncConnection) -> bool:
            first = _paid(await _noted(conn, key))
            if first is None:
                return False
            payer = Payer(first.user, course=first.course)
            wallets = await lease_rows.wallets(conn, [payer], lock=True)
            noted = await _noted(conn, key)
            paid = _paid(noted)
            if paid is None or paid.transaction_id != first.transaction_id:
                return False
            legs = (await postings_of(conn, [paid.transaction_id]))[paid.transaction_id]
            parts = summed(_lasting(leg, at) for leg in legs if leg.amount < 0)
            wallets.put_back(payer, parts)
            returned = fee_back(
                parts,
                key=own_key("fee-back", key, len(noted)),
                at=at,
                request=request_of(paid.transaction_id),
                note=why,
            )
            await _record(
                conn, returned, wallets, key=key, payer=payer, amount=-paid.amount
            )
            return True

        return await self._db.run(work)

    async def paid_for(self, key: str) -> Paid | None:
        """Return what was paid under a key; None: nothing, or it was given back.

        Raises:
            BadInput: The key is none.
        """
        check_key(key)
        async with self._db.read() as conn:
            paid = _paid(await _noted(conn, key))
        return None if paid is None else Paid(key, paid.user, paid.amount)

    async def paid(self, since: datetime, until: datetime) -> Sequence[Paid]:
        """Return what was paid in a span of time and not given back since."""
        total = func.sum(fees.c.amount).label("total")
        lately = select(fees.c.what).where(
            fees.c.at >= micros(since), fees.c.at < micros(until)
        )
        query = (
            select(fees.c.what, fees.c.user, total)
            .where(fees.c.what.in_(lately))
            .group_by(fees.c.what, fees.c.user)
            .having(total > 0)
            .order_by(fees.c.what)
        )
        async with self._db.read() as conn:
            rows = await conn.execute(query)
            return [Paid(row.what, row.user, int(row.total)) for row in rows]


async def _noted(conn: AsyncConnection, key: str) -> Sequence[Row[Any]]:
    """Return how often a fee was paid and given back, in order."""
    query = select(fees).where(fees.c.what == key).order_by(fees.c.transaction_id)
    return (await conn.execute(query)).all()


def _paid(noted: Sequence[Row[Any]]) -> Row[Any] | None:
    """Return the fee if it is paid now."""
    return noted[-1] if noted and noted[-1].amount > 0 else None


def _check_same(paid: Row[Any], user: str, course: str, amount: int) -> None:
    """Return only if this is the fee that was paid.

    Raises:
        KeyReused: It is another one.
    """
    if (paid.user, paid.course, paid.amount) != (user, course, amount):
        raise KeyReused(
            f"The fee {paid.what!a} was paid already, and it was another one. Nothing "
            "was taken."
        )


def _lasting(leg: Posting, at: datetime) -> Posting:
    """Return what an account gave as what it gets, usable at this moment."""
    account, expires_at = leg.account, leg.account.expires_at
    if account.kind is Kind.USER and expires_at is not None and expires_at <= at:
        account = replace(account, expires_at=None)
    return Posting(account, -leg.amount)


async def _record(
    conn: AsyncConnection,
    made: Transaction,
    wallets: Wallets,
    *,
    key: str,
    payer: Payer,
    amount: int,
) -> Recorded:
    """Record what was paid or given back, and what a course's wallet had of it."""
    recorded = (await record(conn, [made]))[0]
    await conn.execute(
        insert(fees).values(
            transaction_id=recorded.id,
            what=key,
            user=payer.user,
            course=payer.course,
            amount=amount,
            at=micros(made.at),
        )
    )
    await draws.adjust(conn, wallets.drawn)
    return recorded
