"""Allowances: what each member of a course gets from its wallet every week or month.

One portion for each user and period, decided the first time the allowance is applied in
that period, and written down even if it is nothing. So who is full at that time gets
the next portion in the next period: spending first and waiting gains nothing, and
periods in which nothing ran are not made up for.

A portion is whole or not at all. Who cannot get theirs because the budget or the cap
per student is too small gets it later in the same period, if that changes.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import draws
from torchroom.ledger.amounts import check_amount, text_of
from torchroom.ledger.database import EPOCH, Database, micros, moment
from torchroom.ledger.drawing import Share
from torchroom.ledger.errors import BadInput, LedgerError, NotFound
from torchroom.ledger.journal import record
from torchroom.ledger.keys import own_key, request_of
from torchroom.ledger.model import Code
from torchroom.ledger.names import SHOWN, check_actor, check_name
from torchroom.ledger.periods import Every, Period, period_of
from torchroom.ledger.portions import (
    Allowance,
    Applied,
    Mode,
    in_fair_order,
    plan,
)
from torchroom.ledger.posting import transfer, wallet_of_course, wallet_of_user
from torchroom.ledger.purses import check_earmark
from torchroom.ledger.standings import standings_of
from torchroom.ledger.tables import NEVER, portions
from torchroom.ledger.tables import allowances as table

log = logging.getLogger(__name__)

USERS_AT_ONCE = 500


class Allowances:
    """The allowances of all courses. Safe to apply by several processes at once."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._told: dict[int, str] = {}  # allowance -> period that was warned about

    async def define(
        self,
        course: str,
        *,
        every: Every,
        mode: Mode,
        amount: int,
        time_zone: str,
        actor: str,
        at: datetime,
    ) -> Allowance:
        """Have such an allowance from now on, the period that goes on now included.

        A second one that is the same in everything is not made.

        Raises:
            BadInput: The amount or the time zone cannot be used.
            NotFound: There is no such course.
        """
        check_actor(actor)
        row = {
            "course": check_name(course, "A course's name"),
            "period": Every(every).value,
            "mode": Mode(mode).value,
            "amount": check_amount(amount),
            "time_zone": zone_of(time_zone).key,
        }

        async def work(conn: AsyncConnection) -> Allowance:
            await check_earmark(conn, course, lock=True)
            same = [table.c[name] == value for name, value in row.items()]
            query = select(table).where(*same, table.c.ended_at == NEVER)
            found = (await conn.execute(query)).first()
            if found is None:
                values = row | {"valid_from": micros(at), "actor": actor}
                made = await conn.execute(insert(table).values(values).returning(table))
                found = made.one()
            return _allowance(found)

        return await self._db.run(work)

    async def end(self, allowance_id: int, *, course: str, at: datetime) -> None:
        """Have ended a course's allowance; what it gave stays given.

        Raises:
            NotFound: The course has no such allowance.
        """
        check_name(course, "A course's name")
        this = (table.c.id == allowance_id) & (table.c.course == course)

        async def work(conn: AsyncConnection) -> None:
            if await conn.scalar(select(table.c.id).where(this)) is None:
                raise NotFound(f"The course has no allowance {allowance_id}.")
            ended = update(table).where(this, table.c.ended_at == NEVER)
            await conn.execute(ended.values(ended_at=micros(at)))

        await self._db.run(work)

    async def list(self, course: str) -> Sequence[Allowance]:
        """Return a course's allowances, ended ones too, oldest first.

        Raises:
            NotFound: There is no such course.
        """
        async with self._db.read() as conn:
            await check_earmark(conn, course)
            query = select(table).where(table.c.course == course).order_by(table.c.id)
            return [_allowance(row) for row in await conn.execute(query)]

    async def apply(
        self, members: Mapping[str, Sequence[str]], at: datetime
    ) -> Applied:
        """Give everybody what is due now; return what was given and what was not.

        Args:
            members: Course -> its students, now. Courses that are not in it get
                nothing: nobody knows who would.
            at: Now.

        Raises:
            LedgerError: An allowance failed; all the others were applied.
        """
        total, failed = Applied(), None
        for allowance in await self._open(members, at):
            try:
                total += await self._apply(allowance, members[allowance.course], at)
            except LedgerError as error:  # the other courses get theirs
                log.error("allowance failed id=%s why=%s", allowance.id, error)
                failed = error
        if failed:
            raise failed
        return total

    async def next_for(
        self, courses: Collection[str], at: datetime
    ) -> tuple[datetime, Allowance] | None:
        """Return when a member of these courses gets something next, and from what.

        None: no allowance is open. A portion that is due now and was not given yet
        (the budget is too small, or nothing ran yet) is not foreseen.
        """
        dates = [
            (period_of(each.every, zone_of(each.time_zone), at).ends_at, each)
            for each in await self._open(courses, at)
        ]
        return min(dates, key=lambda entry: (entry[0], entry[1].id), default=None)

    async def _open(
        self, courses: Collection[str], at: datetime
    ) -> Sequence[Allowance]:
        query = select(table).where(
            table.c.ended_at == NEVER, table.c.valid_from <= micros(at)
        )
        async with self._db.read() as conn:
            rows = await conn.execute(query.order_by(table.c.id))
            return [_allowance(row) for row in rows if row.course in courses]

    async def _apply(
        self, allowance: Allowance, students: Sequence[str], at: datetime
    ) -> Applied:
        """Decide about the portions of the students who have none of this period."""
        period = period_of(allowance.every, zone_of(allowance.time_zone), at)
        async with self._db.read() as conn:
            have = set(await conn.scalars(_users_with_portion(allowance, period)))
        missing = {user for user in students if _is_name(user)} - have
        todo = in_fair_order(missing, f"{allowance.id}:{period.key}")
        done = Applied()
        for start in range(0, len(todo), USERS_AT_ONCE):
            users = todo[start : start + USERS_AT_ONCE]
            done += await self._give(allowance, period, users, at)
        self._tell(allowance, period, done)
        return done

    async def _give(
        self, allowance: Allowance, period: Period, users: Sequence[str], at: datetime
    ) -> Applied:
        """Decide about the portions of these users, in one transaction."""

        async def work(conn: AsyncConnection) -> Applied:
            # This lock is what makes two processes take turns.
            still_open = (table.c.id == allowance.id) & (table.c.ended_at == NEVER)
            locked = select(table.c.id).where(still_open).with_for_update()
            if await conn.scalar(locked) is None:
                return Applied()
            query = _users_with_portion(allowance, period)
            have = set(await conn.scalars(query.where(portions.c.user.in_(users))))
            due = [user for user in users if user not in have]
            standings, budget = await standings_of(conn, allowance.course, due, at)
            given = plan(allowance, standings, budget)
            await _record(conn, allowance, period, given, at)
            return Applied(
                n_given=sum(amount > 0 for amount in given.values()),
                microtokens=sum(given.values()),
                n_short=len(due) - len(given),
            )

        return await self._db.run(work)

    def _tell(self, allowance: Allowance, period: Period, done: Applied) -> None:
        """Log what was given; a budget that is too small is worth one line a period."""
        if done.n_given:
            log.info(
                "allowance given course=%s period=%s n=%s microtokens=%s",
                *(allowance.course, period.key, done.n_given, done.microtokens),
            )
        if done.n_short and self._told.get(allowance.id) != period.key:
            self._told[allowance.id] = period.key
            log.warning(
                "allowance not given course=%s period=%s n=%s: the budget or the cap "
                "per student is too small for %s",
                *(allowance.course, period.key, done.n_short),
                text_of(allowance.amount),
            )


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this IANA name.

    Raises:
        BadInput: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise BadInput(
            f"There is no time zone {name[:SHOWN]!a}. Use an IANA name, like "
            "Europe/Berlin."
        ) from error


def _users_with_portion(allowance: Allowance, period: Period) -> Select[str]:
    """Return who has a portion of this period, or had one of an allowance that ended.

    So an allowance that is ended and defined anew with another amount does not give
    everybody a second portion.
    """
    same_kind = (table.c.course == allowance.course) & (
        table.c.period == allowance.every
    )
    return (
        select(portions.c.user)
        .distinct()
        .join(table, table.c.id == portions.c.allowance_id)
        .where(
            portions.c.period == period.key,
            same_kind,
            (table.c.id == allowance.id) | (table.c.ended_at != NEVER),
        )
    )


async def _record(
    conn: AsyncConnection,
    allowance: Allowance,
    period: Period,
    given: Mapping[str, int],
    at: datetime,
) -> None:
    """Record portions: what moves, that they are decided, and what was drawn."""
    course = allowance.course
    moves = [
        transfer(
            Code.ALLOWANCE,
            amount,
            source=wallet_of_course(course),
            target=wallet_of_user(user, course=course),
            key=own_key("allowance", allowance.id, period.key, user),
            at=at,
            request=request_of(course, user),
            note=f"Allowance for {period.key}.",
        )
        for user, amount in given.items()
        if amount
    ]
    if moves:
        await record(conn, moves)
        await draws.adjust(conn, {Share(course, user): given[user] for user in given})
    if given:
        decided = {"allowance_id": allowance.id, "period": period.key, "at": micros(at)}
        rows = [decided | {"user": u, "amount": n} for u, n in given.items()]
        await conn.execute(insert(portions), rows)


def _is_name(user: str) -> bool:
    """Return whether the ledger can have such a user; the hub has other rules."""
    try:
        check_name(user, "A user's name")
    except BadInput:
        return False
    return True


def _allowance(row: Row[Any]) -> Allowance:
    return Allowance(
        id=row.id,
        course=row.course,
        every=Every(row.period),
        mode=Mode(row.mode),
        amount=row.amount,
        time_zone=row.time_zone,
        valid_from=moment(row.valid_from) or EPOCH,
        ended_at=moment(row.ended_at),
        actor=row.actor,
    )
