"""Counts failed redemptions of a user, so that nobody can try codes one by one."""

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.database import micros
from torchroom.ledger.errors import TooManyTries
from torchroom.ledger.tables import tries

FAILURES = 5
WITHIN = timedelta(minutes=10)
_LOCKS = 0x74727973
"""PostgreSQL's advisory locks with this number in front are those of users' tries."""
_SECOND = 1_000_000


async def take_turns(conn: AsyncConnection, user: str) -> None:
    """Let one transaction at a time count the tries of a user, until it ends.

    Tries sent all at once must not all see the count from before. SQLite has one
    writer anyway.
    """
    if conn.dialect.name == "sqlite":
        return
    half = hashlib.sha256(user.encode()).digest()[:4]
    number = int.from_bytes(half, signed=True)  # two users may share one; they wait
    await conn.execute(select(func.pg_advisory_xact_lock(_LOCKS, number)))


async def too_many(
    conn: AsyncConnection, user: str, at: datetime
) -> TooManyTries | None:
    """Return the refusal of a user who failed too often of late, else None."""
    since = micros(at - WITHIN)
    query = (
        select(tries.c.at)
        .where(tries.c.user == user, tries.c.at > since)
        .order_by(tries.c.at.desc())
        .offset(FAILURES - 1)
        .limit(1)
    )
    oldest = await conn.scalar(query)
    if oldest is None:
        return None
    wait_s = max(1, -((since - oldest) // _SECOND))
    return TooManyTries(
        f"That were {FAILURES} codes that cannot be redeemed. Try again in "
        f"{-(-wait_s // 60)} min, or ask who gave you the code.",
        retry_after_s=wait_s,
    )


async def add_try(conn: AsyncConnection, user: str, at: datetime) -> None:
    """Count a failure, and forget this user's old ones."""
    old = tries.c.at <= micros(at - WITHIN)
    await conn.execute(delete(tries).where(tries.c.user == user, old))
    await conn.execute(insert(tries).values(user=user, at=micros(at)))
