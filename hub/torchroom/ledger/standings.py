"""What students have when a portion is decided; read under locks."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import draws
from torchroom.ledger.drawing import Share
from torchroom.ledger.journal import Balance, wallets
from torchroom.ledger.model import Kind
from torchroom.ledger.portions import Standing
from torchroom.ledger.purses import is_usable
from torchroom.ledger.tables import NEVER, accounts, holds, leases, postings


async def standings_of(
    conn: AsyncConnection, course: str, users: Sequence[str], at: datetime
) -> tuple[list[Standing], int]:
    """Return what users have, in their order, and what is in the course's wallet.

    It stays so for this transaction.
    """
    room = await draws.room(conn, [Share(course, user) for user in users], lock=True)
    purse = (Kind.COURSE, course)
    owners = [purse, *((Kind.USER, user) for user in users)]
    found = await wallets(conn, owners, lock=True)
    held = await _held(conn, course, users)
    standings = [
        Standing(
            user=user,
            has=_available(found[Kind.USER, user], course, at) + held.get(user, 0),
            room=room.get(Share(course, user)),
        )
        for user in users
    ]
    return standings, sum(each.amount for each in found[purse])


def _available(found: Sequence[Balance], course: str, at: datetime) -> int:
    return sum(
        each.amount
        for each in found
        if each.account.course == course and is_usable(each, at)
    )


async def _held(
    conn: AsyncConnection, course: str, users: Sequence[str]
) -> dict[str, int]:
    """Return what of users' tokens for a course is held for their servers now.

    It is theirs still: who starts servers just before a refill must not get more.
    """
    query = (
        select(accounts.c.name, func.sum(-postings.c.amount))
        .join_from(leases, holds, holds.c.id == leases.c.hold_id)
        .join(postings, postings.c.transaction_id == holds.c.transaction_id)
        .join(accounts, accounts.c.id == postings.c.account_id)
        .where(
            leases.c.closed_at == NEVER,
            leases.c.user.in_(users),
            accounts.c.kind == Kind.USER,
            accounts.c.course == course,
        )
        .group_by(accounts.c.name)
    )
    return {user: int(amount) for user, amount in await conn.execute(query)}
