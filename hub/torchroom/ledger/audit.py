"""Computes everything again from the postings, and keeps what it found."""

import json
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.connections import take_long
from torchroom.ledger.database import EPOCH, Database, micros, moment
from torchroom.ledger.journal_checks import JOURNAL_CHECKS
from torchroom.ledger.lease_checks import LEASE_CHECKS
from torchroom.ledger.tables import audits, postings, transactions


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        at: When.
        problems: A sentence each; () if everything is right.
        n_transactions: How many it looked at.
        n_postings: How many it looked at.
        took_s: How long it took.
    """

    at: datetime
    problems: tuple[str, ...]
    n_transactions: int
    n_postings: int
    took_s: float


async def audit(db: Database, now: datetime) -> Audit:
    """Return what is wrong in a ledger at one moment, and keep it for `last`.

    It writes nothing but its own row, and others can write meanwhile.

    Raises:
        Unavailable: The database does not answer, or its figures are beyond reason.
    """
    began = time.perf_counter()
    async with db.read() as conn:
        await take_long(conn)
        checks = JOURNAL_CHECKS + LEASE_CHECKS
        problems = [problem for check in checks for problem in await check(conn)]
        n_transactions = await conn.scalar(
            select(func.count()).select_from(transactions)
        )
        n_postings = await conn.scalar(select(func.count()).select_from(postings))
    found = Audit(
        at=now,
        problems=tuple(problems),
        n_transactions=n_transactions or 0,
        n_postings=n_postings or 0,
        took_s=round(time.perf_counter() - began, 3),
    )

    async def keep(conn: AsyncConnection) -> None:
        await conn.execute(
            insert(audits).values(
                at=micros(found.at),
                took_ms=round(found.took_s * 1000),
                n_transactions=found.n_transactions,
                n_postings=found.n_postings,
                problems=json.dumps(found.problems),
            )
        )

    await db.run(keep)
    return found


async def last(db: Database) -> Audit | None:
    """Return what the last audit found, None if there was none.

    Raises:
        Unavailable: The database does not answer.
    """
    async with db.read() as conn:
        query = select(audits).order_by(audits.c.id.desc()).limit(1)
        row = (await conn.execute(query)).first()
    if row is None:
        return None
    return Audit(
        at=moment(row.at) or EPOCH,
        problems=tuple(json.loads(row.problems)),
        n_transactions=row.n_transactions,
        n_postings=row.n_postings,
        took_s=row.took_ms / 1000,
    )
