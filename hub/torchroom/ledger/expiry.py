"""Gives back holds that nobody resolved: their server never came up, silently.

Only leases whose meter never ran. What runs is settled however late, from the
container's own times.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import lease_rows
from torchroom.ledger.database import Database, micros
from torchroom.ledger.keys import own_key
from torchroom.ledger.model import Code
from torchroom.ledger.planning import HoldEnd, OpenHold, Plan, Standing
from torchroom.ledger.policy import Policy
from torchroom.ledger.posting import release
from torchroom.ledger.tables import NEVER, holds, leases

LEASES_AT_ONCE = 200
REASON = "It never became ready, and nobody reported its end."


class Expiry:
    """What happens to holds when nothing else does."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def expire_holds(self, at: datetime) -> int:
        """Give every hold back that is past its time; return how many.

        Their leases are closed as failed starts: nothing is charged. Safe to repeat,
        also by two at once.
        """
        n_expired, after = 0, ""
        while True:
            query = _overdue(at).where(leases.c.id > after).limit(LEASES_AT_ONCE)
            async with self._db.read() as conn:
                ids = (await conn.scalars(query)).all()
            if not ids:
                return n_expired
            n_expired += await self._expire(ids, at)
            after = ids[-1]

    async def _expire(self, ids: Sequence[str], at: datetime) -> int:
        """Expire the holds of those of these leases that are still overdue."""

        async def work(conn: AsyncConnection) -> int:
            locked = await lease_rows.lock(conn, ids)
            # Once more under the lock: one may have become ready or ended meanwhile.
            overdue = set(await conn.scalars(_overdue(at).where(leases.c.id.in_(ids))))
            due = [each for each in locked if each.lease.id in overdue]
            payers = {each.lease.payer for each in due}
            plan = await lease_rows.plan(conn, payers, Policy(), n_holds=0)
            closed = [_expired(plan, each, each.hold, at) for each in due if each.hold]
            if closed:
                await lease_rows.record(conn, plan, closed, closed_at=at)
            return len(closed)

        return await self._db.run(work)


def _expired(plan: Plan, standing: Standing, hold: OpenHold, at: datetime) -> Standing:
    """Return a lease without its hold, which the plan gives back."""
    lease = standing.lease
    plan.wallets.put_back(lease.payer, hold.parts)
    plan.ends.append(HoldEnd(hold.id, len(plan.transactions), Code.EXPIRE))
    plan.transactions.append(
        release(
            Code.EXPIRE,
            hold.parts,
            key=own_key("expire", hold.id),
            at=at,
            request="",
            lease_id=lease.id,
            note=REASON,
        )
    )
    return replace(
        standing, lease=replace(lease, ended_at=at, reason=REASON), hold=None
    )


def _overdue(at: datetime) -> Select[str]:
    """Return the query for leases with an open hold past its time, in lock order."""
    return (
        select(leases.c.id)
        .join_from(leases, holds, holds.c.id == leases.c.hold_id)
        .where(
            lease_rows.IS_OPEN,
            leases.c.ready_at == NEVER,
            holds.c.expires_at <= micros(at),
        )
        .order_by(leases.c.id)
    )
