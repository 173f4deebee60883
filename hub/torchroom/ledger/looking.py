"""Reads what runs and what can be drawn: ten thousand leases in a few queries."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.database import micros
from torchroom.ledger.drawing import Share
from torchroom.ledger.draws import room_under
from torchroom.ledger.lease_rows import IS_OPEN, open_leases
from torchroom.ledger.model import Kind
from torchroom.ledger.outlook import Pots, Running, pots_of
from torchroom.ledger.slices import Tab
from torchroom.ledger.tables import NEVER, accounts, courses, draws, leases

_SECOND = 1_000_000  # microseconds


async def running(
    conn: AsyncConnection, until: Mapping[str, datetime]
) -> list[Running]:
    """Return the leases that burn tokens, by id.

    Args:
        conn: Of a read transaction.
        until: Lease id -> a moment at which it certainly ran. Leases that are not in
            it, have ended, are free, or whose meter does not run are left out, and so
            are those whose moment is before what is settled.
    """
    query = open_leases().where(leases.c.ready_at > NEVER, leases.c.per_hour > 0)
    found = []
    for row in (await conn.execute(query)).all():
        at = until.get(row.id)
        if at is None:
            continue
        used_s = max(0, micros(at) - row.ready_at) // _SECOND
        if used_s < row.settled_s:
            continue
        tab = Tab(row.per_hour, row.settled_s, row.held or 0)
        share = Share(row.course, row.user)
        found.append(Running(row.id, share, tab, used_s, at, row.warned_s))
    found.sort(key=lambda each: each.id)
    return found


async def pots(conn: AsyncConnection, at: datetime) -> Pots:
    """Return what the users of open leases can draw at a moment."""
    users = select(leases.c.user).where(IS_OPEN)
    names = select(leases.c.course).where(IS_OPEN, leases.c.course != "")
    wallets: list[tuple[str, str, bool, int]] = []
    for kind, of_kind in ((Kind.USER, users), (Kind.COURSE, names)):
        query = select(accounts.c.name, accounts.c.course, accounts.c.balance).where(
            accounts.c.kind == kind,
            accounts.c.name.in_(of_kind),
            accounts.c.balance > 0,
            or_(accounts.c.expires_at == NEVER, accounts.c.expires_at > micros(at)),
        )
        wallets += [
            (row.name, row.course, kind is Kind.COURSE, row.balance)
            for row in (await conn.execute(query)).all()
        ]
    return pots_of(wallets, await _room(conn))


async def _room(conn: AsyncConnection) -> dict[Share, int]:
    """Return what caps still allow the users of open leases."""
    query = (
        select(leases.c.course, leases.c.user, courses.c.student_cap, draws.c.amount)
        .distinct()
        .select_from(
            leases.join(courses, courses.c.name == leases.c.course).outerjoin(
                draws,
                (draws.c.course == leases.c.course) & (draws.c.user == leases.c.user),
            )
        )
        .where(IS_OPEN, courses.c.student_cap.is_not(None))
    )
    return {
        Share(row.course, row.user): room_under(row.student_cap, row.amount)
        for row in (await conn.execute(query)).all()
    }
