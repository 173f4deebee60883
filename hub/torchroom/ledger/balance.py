"""Reads what a user has at one moment, with what was used since the last slice."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Row, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.database import micros, moment
from torchroom.ledger.draws import room_under
from torchroom.ledger.forecast import seconds_left
from torchroom.ledger.lease_rows import IS_OPEN
from torchroom.ledger.model import Kind
from torchroom.ledger.pricing import charge, seconds_for
from torchroom.ledger.rows import lease_of
from torchroom.ledger.slices import seconds_between
from torchroom.ledger.tables import NEVER, accounts, courses, draws, holds, leases
from torchroom.ledger.views import BalanceView, OpenLease, Purse, Share


async def read_balance(
    conn: AsyncConnection, user: str, at: datetime, groups: Collection[str]
) -> BalanceView:
    """Return a user's tokens at a moment, from one consistent view of the ledger.

    Args:
        conn: Of `Database.read`.
        user: Whose; a name that the ledger never heard of has nothing.
        at: Now.
        groups: Whose shares the user may draw; those of open leases are added.
    """
    purses = await _purses(conn, user, at)
    running = await _open_leases(conn, user, at)
    names = {*groups, *(each.lease.payer.course for each in running)} - {""}
    shares = await _shares(conn, user, sorted(names))
    available = sum(purse.microtokens for purse in purses)
    held = sum(each.held for each in running)
    accrued = sum(each.accrued for each in running)
    drawable = sum(share.microtokens for share in shares)
    per_hour = sum(each.lease.per_hour for each in running if each.lease.ready_at)
    return BalanceView(
        user=user,
        at=at,
        purses=purses,
        shares=shares,
        leases=running,
        available=available,
        held=held,
        accrued=accrued,
        spendable=max(0, available + drawable + held - accrued),
        per_hour=per_hour,
        seconds_left=_seconds_left(purses, shares, running),
        next_expiry=next((p.expires_at for p in purses if p.expires_at), None),
    )


def _seconds_left(
    purses: Sequence[Purse], shares: Sequence[Share], running: Sequence[OpenLease]
) -> int | None:
    """Return how long the first of the running leases to end can be paid.

    What others draw from a course's wallet meanwhile is not foreseen.
    """
    burning = [each for each in running if each.lease.ready_at and each.lease.per_hour]
    rates = Counter[str]()
    pots = Counter[str]()
    for each in burning:
        for course in {"", each.lease.payer.course}:
            rates[course] += each.lease.per_hour
    for purse in purses:
        pots[purse.course] += purse.microtokens
    for share in shares:
        pots[share.course] += share.microtokens
    return min(
        (
            seconds_left(
                seconds_for(each.lease.per_hour, max(0, each.held - each.accrued)),
                [(pots[name], rates[name]) for name in {"", each.lease.payer.course}],
            )
            for each in burning
        ),
        default=None,
    )


async def _purses(conn: AsyncConnection, user: str, at: datetime) -> tuple[Purse, ...]:
    """Return what is not held and not expired, soonest expiring first, never last."""
    rows = await conn.execute(
        select(accounts.c.course, accounts.c.expires_at, accounts.c.balance).where(
            accounts.c.kind == Kind.USER,
            accounts.c.name == user,
            accounts.c.balance > 0,
            or_(accounts.c.expires_at == NEVER, accounts.c.expires_at > micros(at)),
        )
    )
    ordered = sorted(rows, key=lambda row: (not row.expires_at, row.expires_at))
    return tuple(
        Purse(row.course, moment(row.expires_at), row.balance) for row in ordered
    )


async def _open_leases(
    conn: AsyncConnection, user: str, at: datetime
) -> tuple[OpenLease, ...]:
    rows = await conn.execute(
        select(leases, holds.c.amount.label("held"))
        .select_from(leases.outerjoin(holds, holds.c.id == leases.c.hold_id))
        .where(leases.c.user == user, IS_OPEN)
        .order_by(leases.c.held_at, leases.c.id)
    )
    return tuple(_open_lease(row, at) for row in rows)


def _open_lease(row: Row[tuple[object, ...]], at: datetime) -> OpenLease:
    lease = lease_of(row)
    used_s = seconds_between(lease.ready_at, at) if lease.ready_at else 0
    used_s = max(used_s, lease.settled_s)
    accrued = charge(lease.per_hour, used_s) - charge(lease.per_hour, lease.settled_s)
    return OpenLease(lease, row.held or 0, accrued)


async def _shares(
    conn: AsyncConnection, user: str, names: Sequence[str]
) -> tuple[Share, ...]:
    """Return what a user may still draw; groups that are no courses are left out."""
    if not names:
        return ()
    rows = await conn.execute(
        select(
            courses.c.name,
            courses.c.title,
            courses.c.student_cap,
            accounts.c.balance,
            draws.c.amount.label("drawn"),
        )
        .select_from(
            courses.outerjoin(
                accounts,
                (accounts.c.kind == Kind.COURSE)
                & (accounts.c.name == courses.c.name)
                & (accounts.c.course == "")
                & (accounts.c.expires_at == NEVER),
            ).outerjoin(
                draws, (draws.c.course == courses.c.name) & (draws.c.user == user)
            )
        )
        .where(courses.c.name.in_(names))
        .order_by(courses.c.name)
    )
    return tuple(
        Share(row.name, row.title, _room(row.balance, row.student_cap, row.drawn))
        for row in rows
    )


def _room(balance: int | None, cap: int | None, drawn: int | None) -> int:
    """Return what a course's wallet has for one student."""
    whole = balance or 0
    return whole if cap is None else min(whole, room_under(cap, drawn))
