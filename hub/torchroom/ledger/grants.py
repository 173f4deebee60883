"""Tokens for users from outside the ledger, and back out of it again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.accounts import account_of
from torchroom.ledger.amounts import check_amount
from torchroom.ledger.database import Database, micros
from torchroom.ledger.journal import Recorded, accounts_of, find, record
from torchroom.ledger.keys import asked_key, own_key, request_of
from torchroom.ledger.model import ISSUED, Code, Kind, Transaction
from torchroom.ledger.names import check_name
from torchroom.ledger.posting import gather, transfer, wallet_of_user
from torchroom.ledger.purses import check_earmark, check_in_future, take
from torchroom.ledger.tables import NEVER, accounts

LAPSED_AT_ONCE = 500


class Grants:
    """What is given to users and taken back, by admins and by the ledger itself."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def welcome(self, user: str, amount: int, *, at: datetime) -> bool:
        """Have given a user the welcome tokens exactly once; return whether just now.

        Args:
            user: Who.
            amount: Microtokens; 0 gives nothing, and may be more another time.
            at: Now.
        """
        check_name(user, "A user's name")
        if check_amount(amount, least=0) == 0:
            return False
        key = own_key("welcome", user)
        async with self._db.read() as conn:
            if await find(conn, key):
                return False
        gift = transfer(
            Code.WELCOME,
            amount,
            source=ISSUED,
            target=wallet_of_user(user),
            key=key,
            at=at,
            # Not the amount: who was welcomed with less is not welcomed again.
            request=request_of(user),
            note="Welcome.",
        )
        return (await self._db.run(lambda conn: record(conn, [gift])))[0].is_new

    async def grant(
        self,
        user: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        expires_at: datetime | None = None,
        course: str = "",
        note: str = "",
    ) -> Recorded:
        """Give tokens to a user; the same request under the same key gives them once.

        Args:
            user: Who.
            amount: Microtokens.
            key: Idempotency key of the one who asks.
            actor: Who asks.
            at: Now.
            expires_at: From then on what is left of them is not available.
            course: They are for servers of this course only; "" for any.
            note: For the user's statement.

        Raises:
            BadInput: Something cannot be used, or they would be expired already.
            NotFound: There is no such course.
            KeyReused: The key belongs to another request.
        """
        request = request_of(user, amount, course, micros(expires_at))
        gift = transfer(
            Code.GRANT,
            amount,
            source=ISSUED,
            target=wallet_of_user(user, course=course, expires_at=expires_at),
            key=asked_key(actor, key),
            at=at,
            request=request,
            actor=actor,
            note=note,
        )

        async def work(conn: AsyncConnection) -> Recorded:
            known = await find(conn, gift.key, code=gift.code, request=request)
            if known:
                return known
            check_in_future(expires_at, at)
            await check_earmark(conn, course)
            return (await record(conn, [gift]))[0]

        return await self._db.run(work)

    async def take_back(
        self,
        user: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        course: str = "",
        note: str = "",
    ) -> Recorded:
        """Take tokens from a user: those that expire soonest first, lasting ones last.

        Args:
            user: Whose.
            amount: Microtokens.
            key: Idempotency key of the one who asks.
            actor: Who asks.
            at: Now.
            course: Take those earmarked for it; "": those without an earmark.
            note: For the user's statement.

        Raises:
            BadInput: Something cannot be used.
            NotEnough: The user has less available; nothing was taken.
            KeyReused: The key belongs to another request.
        """
        wallet_of_user(user, course=course)
        check_amount(amount)
        key = asked_key(actor, key)
        request = request_of(user, amount, course)

        async def work(conn: AsyncConnection) -> Recorded:
            found = await accounts_of(conn, Kind.USER, user, course=course, lock=True)
            known = await find(conn, key, code=Code.TAKE_BACK, request=request)
            if known:
                return known
            taken = gather(
                Code.TAKE_BACK,
                take(found, amount, at, who=user),
                target=ISSUED,
                key=key,
                at=at,
                request=request,
                actor=actor,
                note=note,
            )
            return (await record(conn, [taken]))[0]

        return await self._db.run(work)

    async def lapse(self, at: datetime) -> int:
        """Move what is in expired accounts out of the ledger; return how many had any.

        Safe to repeat, also by two at once. What comes back to an expired account
        later (the rest of a hold) lapses the next time.
        """
        n_lapsed = after = 0
        while True:
            query = _expired(at).where(accounts.c.id > after).limit(LAPSED_AT_ONCE)
            async with self._db.read() as conn:
                ids = list(await conn.scalars(query.with_only_columns(accounts.c.id)))
            if not ids:
                return n_lapsed
            n_lapsed += await self._lapse(ids, at)
            after = ids[-1]

    async def _lapse(self, ids: Sequence[int], at: datetime) -> int:
        """Empty those of these accounts that are expired; return how many."""
        query = _expired(at).where(accounts.c.id.in_(ids)).with_for_update()

        async def work(conn: AsyncConnection) -> int:
            rows = await conn.execute(query)
            return len(await record(conn, [_lapse_of(row, at) for row in rows]))

        return await self._db.run(work)


def _expired(at: datetime) -> Select[Any]:
    """Return the query for accounts that are expired and not empty, in lock order."""
    return (
        select(accounts)
        .where(
            accounts.c.kind.in_([Kind.USER, Kind.COURSE]),
            accounts.c.expires_at.between(NEVER + 1, micros(at)),
            accounts.c.balance > 0,
        )
        .order_by(accounts.c.id)
    )


def _lapse_of(row: Row[Any], at: datetime) -> Transaction:
    return transfer(
        Code.LAPSE,
        row.balance,
        source=account_of(row),
        target=ISSUED,
        # Of this balance: what comes back later lapses under another key.
        key=own_key("lapse", row.id, row.n_postings),
        at=at,
        request="",
        note="Expired.",
    )
