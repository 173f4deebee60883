"""Leases and their holds as rows: reading and locking them, recording a plan."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, insert, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import draws, journal
from torchroom.ledger.database import micros, next_ids
from torchroom.ledger.drawing import Part, Share, Wallets
from torchroom.ledger.model import Code, Kind, MeteredLease, Payer
from torchroom.ledger.planning import OpenHold, Plan, Standing
from torchroom.ledger.policy import Policy
from torchroom.ledger.pricing import charge
from torchroom.ledger.rows import lease_of
from torchroom.ledger.tables import hold_ends, holds, leases, transactions

IS_OPEN = leases.c.closed_at == literal_column("0")
"""Spelled as the index of open leases has it; with a parameter it would not be used."""

_WALLETS = {Kind.USER, Kind.COURSE}


async def add(conn: AsyncConnection, lease: MeteredLease) -> bool:
    """Have a row for a lease; tell whether it was not there before.

    From then on this transaction is the only one that changes the lease.
    """
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    row = {
        "id": lease.id,
        "user": lease.payer.user,
        "server": lease.payer.server,
        "course": lease.payer.course,
        "slot_types": json.dumps(lease.slot_types),
        "per_hour": lease.per_hour,
        "held_at": micros(lease.held_at),
    }
    added = await conn.execute(
        dialect.insert(leases)
        .values(row)
        .on_conflict_do_nothing()
        .returning(leases.c.id)
    )
    return added.first() is not None


async def find(conn: AsyncConnection, lease_id: str) -> MeteredLease | None:
    """Return one lease, ended or not; None if the ledger does not know it."""
    row = (await conn.execute(select(leases).where(leases.c.id == lease_id))).first()
    return lease_of(row) if row else None


async def lock(conn: AsyncConnection, lease_ids: Collection[str]) -> list[Standing]:
    """Return those of these leases that are open, locked, by id, with their holds."""
    query = select(leases).where(leases.c.id.in_(sorted(lease_ids)), IS_OPEN)
    query = query.order_by(leases.c.id).with_for_update()
    found = (await conn.execute(query)).all()
    # Not joined above: who waited for a lock would see the lease's new hold_id, but
    # join it with the holds of before.
    open_holds = await _holds(conn, [row.hold_id for row in found if row.hold_id])
    return [
        Standing(lease_of(row), open_holds.get(row.hold_id), row.from_course)
        for row in found
    ]


async def wallets(
    conn: AsyncConnection, payers: Collection[Payer], *, lock: bool
) -> Wallets:
    """Return everything that these payers can spend.

    Args:
        conn: In a write transaction, if it locks.
        payers: Whose tokens.
        lock: Nobody else changes it before this transaction ends; caps are locked
            first, then accounts.
    """
    shares = {Share(each.course, each.user) for each in payers if each.course}
    room = await draws.room(conn, shares, lock=lock)
    owners = {(Kind.USER, each.user) for each in payers}
    owners |= {(Kind.COURSE, each.course) for each in payers if each.course}
    found = await journal.wallets(conn, owners, lock=lock)
    balances = {each.account: each.amount for own in found.values() for each in own}
    return Wallets(balances, room)


async def plan(
    conn: AsyncConnection, payers: Collection[Payer], policy: Policy, *, n_holds: int
) -> Plan:
    """Return an empty plan on locked wallets that may place so many holds."""
    locked = await wallets(conn, payers, lock=True)
    return Plan(locked, iter(await next_ids(conn, holds, n_holds)), policy)


async def record(
    conn: AsyncConnection,
    made: Plan,
    changed: Sequence[Standing],
    *,
    closed_at: datetime | None = None,
) -> None:
    """Record a plan and how leases stand after it.

    Args:
        conn: The transaction in which they were locked.
        made: The plan.
        changed: The leases that it changed.
        closed_at: Now, if they have ended.

    Raises:
        LedgerError: The journal refused it; nothing is recorded.
    """
    recorded = await journal.record(conn, made.transactions)
    if made.holds:
        rows = [
            {
                "id": each.id,
                "transaction_id": recorded[each.index].id,
                "lease_id": each.lease_id,
                "amount": each.amount,
                "expires_at": micros(each.expires_at),
            }
            for each in made.holds
        ]
        await conn.execute(insert(holds), rows)
    if made.ends:
        ends = [
            {
                "hold_id": each.hold_id,
                "transaction_id": recorded[each.index].id,
                "how": each.how.value,
            }
            for each in made.ends
        ]
        await conn.execute(insert(hold_ends), ends)
    await draws.adjust(conn, made.wallets.drawn)
    await _update(conn, changed, closed_at)


async def history(
    conn: AsyncConnection, lease_id: str
) -> list[tuple[Code, list[Part]]]:
    """Return all that moved for a lease, oldest first."""
    query = select(transactions.c.id, transactions.c.code)
    query = query.where(
        transactions.c.lease_id == lease_id, transactions.c.lease_id != ""
    )
    rows = (await conn.execute(query.order_by(transactions.c.id))).all()
    legs = await journal.postings_of(conn, [row.id for row in rows])
    return [(Code(row.code), legs[row.id]) for row in rows]


def open_leases() -> Select[Any]:
    """Return the query for all open leases with the amounts of their holds."""
    return (
        select(
            leases.c.id,
            leases.c.user,
            leases.c.course,
            leases.c.per_hour,
            leases.c.ready_at,
            leases.c.settled_s,
            leases.c.warned_s,
            holds.c.amount.label("held"),
        )
        .outerjoin(holds, holds.c.id == leases.c.hold_id)
        .where(IS_OPEN)
    )


async def _holds(conn: AsyncConnection, ids: Sequence[int]) -> dict[int, OpenHold]:
    """Return open holds by id."""
    if not ids:
        return {}
    query = select(holds.c.id, holds.c.transaction_id).where(holds.c.id.in_(ids))
    rows = (await conn.execute(query)).all()
    legs = await journal.postings_of(conn, [row.transaction_id for row in rows])
    return {row.id: OpenHold(row.id, _drawn(legs[row.transaction_id])) for row in rows}


def _drawn(legs: Sequence[Part]) -> tuple[Part, ...]:
    """Return what a hold's postings took from whom."""
    return tuple(
        Part(leg.account, -leg.amount) for leg in legs if leg.account.kind in _WALLETS
    )


async def _update(
    conn: AsyncConnection, standings: Sequence[Standing], closed_at: datetime | None
) -> None:
    """Write what the ledger's moves change in leases."""
    rows = []
    for standing in standings:
        lease = standing.lease
        rows.append(
            {
                "of_lease": lease.id,
                "settled_s": lease.settled_s,
                "charged": charge(lease.per_hour, lease.settled_s),
                "from_course": standing.from_course,
                "hold_id": standing.hold.id if standing.hold else None,
                "ended_at": micros(lease.ended_at),
                "closed_at": micros(closed_at),
                "reason": lease.reason,
            }
        )
    if rows:
        values: dict[str, Any] = {
            name: bindparam(name) for name in rows[0] if name != "of_lease"
        }
        await conn.execute(
            update(leases).where(leases.c.id == bindparam("of_lease")).values(values),
            rows,
        )
