"""The life of a lease in the ledger: hold, ready, settle, end. Each is safe to repeat.

What a lease costs depends only on its price and on when it was ready and ended. Ticks,
restarts, retries and processes that do the same at once change nothing in that: every
step locks the lease, looks at how it stands, and adds what is missing.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import lease_rows, looking
from torchroom.ledger.database import Database, micros, moment
from torchroom.ledger.errors import (
    BadInput,
    KeyReused,
    LedgerError,
    NotEnough,
    NotFound,
    Unavailable,
)
from torchroom.ledger.model import MeteredLease, Payer
from torchroom.ledger.names import NOTE_MAX, check_key, check_name
from torchroom.ledger.outlook import Notice, Outlook, Pots
from torchroom.ledger.planning import End, Standing, paid
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import price_list
from torchroom.ledger.pricing import per_hour_of
from torchroom.ledger.quoting import Cost, Means, cost_of
from torchroom.ledger.slices import Tab, seconds_between
from torchroom.ledger.tables import ID_MAX, courses, leases

T = TypeVar("T")

log = logging.getLogger(__name__)

BATCH = 500
"""Leases per write transaction: a hold that waits for it does not wait long."""
ROUNDS = 4
"""Enough for a lease that nobody looked at for long: its hold, its past, what comes."""


@dataclass(frozen=True, slots=True)
class Round:
    """What settling found.

    Attributes:
        notices: See Notice; each warning once.
        next_at: When something is due again, None if nothing runs.
        n_settled: Leases for which tokens moved.
        ends: See Review.
    """

    notices: tuple[Notice, ...] = ()
    next_at: datetime | None = None
    n_settled: int = 0
    ends: Mapping[str, datetime] = field(default_factory=dict)


class Leases:
    """Holds and charges of leases. Any number of processes may do this at once."""

    def __init__(self, db: Database, policy: Policy) -> None:
        self._db = db
        self._policy = policy

    async def quote(
        self, payer: Payer, choices: Sequence[Sequence[str]], at: datetime
    ) -> list[Cost]:
        """Return what servers would cost, and whether they can be paid for now.

        Args:
            payer: Who would pay.
            choices: Of each server the types of all its slots, (CPU,) if none.
            at: Now.
        """
        async with self._db.read() as conn:
            listed = await price_list(conn, at)
            wallets = await lease_rows.wallets(conn, [payer], lock=False)
            cap = await _cap(conn, payer)
        return [
            cost_of(choice, listed, self._policy, Means(payer, wallets, cap, at))
            for choice in choices
        ]

    async def hold(
        self,
        lease_id: str,
        payer: Payer,
        slot_types: Sequence[str],
        at: datetime,
        *,
        is_free: bool = False,
    ) -> MeteredLease:
        """Reserve what the first minutes cost; the price is fixed for the whole lease.

        Args:
            lease_id: The plugin's; the same again changes nothing.
            payer: Whose tokens.
            slot_types: Of all slots that were granted, (CPU,) if none.
            at: Now.
            is_free: It costs nothing, whatever the price list says.

        Raises:
            NotEnough: It cannot be paid for; nothing is reserved.
            UnknownPrice: A slot has no price.
            KeyReused: The id belongs to another user's lease or to other slots.
            BadInput: The id or a name cannot be used.
        """
        _check_lease(lease_id, payer)

        async def work(conn: AsyncConnection) -> MeteredLease:
            listed = {} if is_free else await price_list(conn, at)
            rate = 0 if is_free else per_hour_of(slot_types, listed)
            lease = MeteredLease(lease_id, payer, tuple(slot_types), rate, at)
            if not await lease_rows.add(conn, lease):
                return await _known(conn, lease)
            amount = Tab(rate, 0, 0).cost_until(self._policy.hold_s)
            if amount:
                plan = await lease_rows.plan(conn, [payer], self._policy, n_holds=1)
                cap = await _cap(conn, payer)
                means = Means(payer, plan.wallets, cap, at)
                cost = cost_of(slot_types, listed, self._policy, means)
                if cost.refusal:
                    raise NotEnough(cost.refusal)
                held = plan.hold(Standing(lease), amount, at)
                await lease_rows.record(conn, plan, [held])
            return lease

        return await self._db.run(work)

    async def ready(self, lease_id: str, at: datetime) -> None:
        """Let the meter run from this moment; a second call changes nothing.

        Raises:
            NotFound: The ledger does not know the lease, or its hold was given back
                before: a server on it would never be charged.
        """
        start = (
            update(leases)
            .where(leases.c.id == lease_id, lease_rows.IS_OPEN, leases.c.ready_at == 0)
            .values(ready_at=micros(at))
        )

        async def work(conn: AsyncConnection) -> None:
            if (await conn.execute(start)).rowcount:
                return
            lease = await lease_rows.find(conn, lease_id)
            if lease is None or lease.ready_at is None:
                raise NotFound(
                    "The tokens that were reserved for this server were given back "
                    "before it was ready. Start it again."
                )

        await self._db.run(work)

    async def settle(self, running: Mapping[str, datetime]) -> Round:
        """Charge leases for what they used, hold for what comes, say what runs low.

        A moment before what is settled already is an old message: it changes nothing.

        Args:
            running: Lease id -> a moment at which it certainly ran.

        Raises:
            Unavailable: The database does not answer; what was settled stays settled.
        """
        n_settled = 0
        failed: set[str] = set()
        outlook = await self._look(running)
        for _ in range(ROUNDS):
            due = sorted(each.id for each in outlook.due() if each.id not in failed)
            if not due:
                break
            for batch in _batches(due):
                n_settled += await self._settle(batch, running, failed)
            outlook = await self._look(running)
        review = outlook.review()
        await self._note_warnings(review.warned)
        return Round(review.notices, review.next_at, n_settled, review.ends)

    async def end(self, lease_id: str, end: End, *, now: datetime) -> None:
        """Charge exactly what was used, give the reserve back; twice changes nothing.

        What was used beyond all tokens is waived, so nobody goes below zero. What was
        settled beyond the end is refunded.

        Args:
            lease_id: Which; one that the ledger does not know has nothing to end.
            end: See End.
            now: Now.
        """

        async def work(conn: AsyncConnection) -> None:
            for standing in await lease_rows.lock(conn, [lease_id]):
                lease = standing.lease
                plan = await lease_rows.plan(
                    conn, [lease.payer], self._policy, n_holds=1
                )
                used_s, _ = plan.usage(lease, end)
                is_less = used_s < lease.settled_s
                history = await lease_rows.history(conn, lease_id) if is_less else []
                closed = plan.close(standing, _in_one_line(end), paid(history))
                await lease_rows.record(conn, plan, [closed], closed_at=now)

        await self._db.run(work)

    async def open(self) -> dict[str, datetime | None]:
        """Return the leases that have not ended -> until when each is charged.

        None: its meter does not run yet.
        """
        query = select(leases.c.id, leases.c.ready_at, leases.c.settled_s)
        async with self._db.read() as conn:
            rows = await conn.execute(query.where(lease_rows.IS_OPEN))
            return {row.id: _settled_until(row.ready_at, row.settled_s) for row in rows}

    async def find(self, lease_id: str) -> MeteredLease | None:
        """Return a lease, ended or not; None if the ledger does not know it."""
        async with self._db.read() as conn:
            return await lease_rows.find(conn, lease_id)

    async def _look(self, running: Mapping[str, datetime]) -> Outlook:
        async with self._db.read() as conn:
            found = await looking.running(conn, running)
            now = max((each.until for each in found), default=None)
            pots = await looking.pots(conn, now) if now else Pots()
        return Outlook(found, pots, self._policy)

    async def _settle(
        self,
        lease_ids: Sequence[str],
        running: Mapping[str, datetime],
        failed: set[str],
    ) -> int:
        """Settle leases in one transaction; return for how many tokens moved.

        If one of them cannot be settled, the others are, and it is in `failed` after.
        """

        async def work(conn: AsyncConnection) -> int:
            locked = await lease_rows.lock(conn, lease_ids)
            payers = {each.lease.payer for each in locked}
            plan = await lease_rows.plan(
                conn, payers, self._policy, n_holds=len(locked)
            )
            changed = []
            for standing in locked:
                until = running[standing.lease.id]
                if standing.lease.ready_at is None:
                    continue
                used_s = seconds_between(standing.lease.ready_at, until)
                after = plan.advance(standing, used_s, until)
                if after is not standing:
                    changed.append(after)
            if changed:
                await lease_rows.record(conn, plan, changed)
            return len(changed)

        try:
            return await self._db.run(work)
        except Unavailable:
            raise
        except LedgerError as error:
            if len(lease_ids) == 1:
                log.error("lease not settled lease_id=%s error=%s", lease_ids[0], error)
                failed.update(lease_ids)
                return 0
        half = len(lease_ids) // 2
        return await self._settle(
            lease_ids[:half], running, failed
        ) + await self._settle(lease_ids[half:], running, failed)

    async def _note_warnings(self, warned: Mapping[str, int]) -> None:
        """Remember the last warning of each lease."""
        if not warned:
            return
        rows = [
            {"of_lease": lease_id, "mark": mark}
            for lease_id, mark in sorted(warned.items())
        ]
        note = (
            update(leases)
            .where(leases.c.id == bindparam("of_lease"))
            .values(warned_s=bindparam("mark"))
        )
        for batch in _batches(rows):

            async def work(
                conn: AsyncConnection, rows: Sequence[dict[str, object]] = batch
            ) -> None:
                await conn.execute(note, rows)

            await self._db.run(work)


async def _known(conn: AsyncConnection, wanted: MeteredLease) -> MeteredLease:
    """Return the lease that is there already.

    Raises:
        KeyReused: It is another one.
    """
    known = await lease_rows.find(conn, wanted.id)
    if (
        known is None
        or known.payer != wanted.payer
        or known.slot_types != wanted.slot_types
    ):
        raise KeyReused(f"The lease {wanted.id!a} is another one in the ledger.")
    return known


async def _cap(conn: AsyncConnection, payer: Payer) -> int | None:
    """Return what the payer may draw from the course in all, None without a cap."""
    if not payer.course:
        return None
    query = select(courses.c.student_cap).where(courses.c.name == payer.course)
    cap: int | None = await conn.scalar(query)
    return cap


def _check_lease(lease_id: str, payer: Payer) -> None:
    if len(check_key(lease_id)) > ID_MAX:
        raise BadInput(f"A lease's id has at most {ID_MAX} characters.")
    check_name(payer.user, "A user's name")
    if payer.course:
        check_name(payer.course, "A course's name")


def _in_one_line(end: End) -> End:
    """Return the same end, its reason fit for a note."""
    words = "".join(each if each.isprintable() else " " for each in end.reason).split()
    return End(end.ending, end.at, " ".join(words)[:NOTE_MAX], end.broke_at)


def _settled_until(ready_at: int, settled_s: int) -> datetime | None:
    start = moment(ready_at)
    return None if start is None else start + timedelta(seconds=settled_s)


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
