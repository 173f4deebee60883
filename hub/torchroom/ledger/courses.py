"""The tokens of a course: its budget, and what its instructors hand out of it.

Tokens that a student got from a course stay the course's: they pay for its servers
only, and an instructor can return what is left of them to the course.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import draws
from torchroom.ledger.amounts import check_amount, text_of
from torchroom.ledger.database import Database, micros
from torchroom.ledger.drawing import Share
from torchroom.ledger.errors import BadInput, NotEnough, OverBudget
from torchroom.ledger.journal import Recorded, find, record, wallets
from torchroom.ledger.keys import asked_key, request_of
from torchroom.ledger.model import ISSUED, Code, Course, Kind, Transaction
from torchroom.ledger.names import NAME_MAX, check_name, check_note
from torchroom.ledger.posting import gather, transfer, wallet_of_course, wallet_of_user
from torchroom.ledger.purses import check_earmark, no_course, take
from torchroom.ledger.tables import NEVER, accounts
from torchroom.ledger.tables import courses as table
from torchroom.ledger.tables import draws as drawn_table


@dataclass(frozen=True, slots=True)
class Funds:
    """A course and what is in its wallet, in microtokens."""

    course: Course
    balance: int


@dataclass(frozen=True, slots=True)
class Student:
    """Somebody who drew from a course's wallet, or has tokens for its servers only.

    Attributes:
        user: Who.
        drawn: Microtokens drawn from the wallet in all, less what came back.
        balance: Microtokens of their own for this course's servers, available now.
    """

    user: str
    drawn: int
    balance: int


class Courses:
    """Courses as the ledger knows them; members and instructors are the hub's."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(self, course: Course, *, at: datetime) -> Course:
        """Have a course with this title and cap; its tokens are not touched.

        A cap below what a student has drawn takes nothing away: no more can be drawn.

        Raises:
            BadInput: A name, a title or a cap cannot be used.
        """
        row = {
            "name": check_name(course.name, "A course's name"),
            "title": _title(course.title),
            "student_cap": course.student_cap
            if course.student_cap is None
            else check_amount(course.student_cap, least=0),
            "created_at": micros(at),
        }

        async def work(conn: AsyncConnection) -> None:
            dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
            await conn.execute(
                dialect.insert(table)
                .values(row)
                .on_conflict_do_update(
                    index_elements=[table.c.name],
                    set_={name: row[name] for name in ("title", "student_cap")},
                )
            )

        await self._db.run(work)
        return course

    async def get(self, name: str) -> Funds:
        """Return a course and what is in its wallet.

        Raises:
            BadInput: That is not the name of a course.
            NotFound: There is no such course.
        """
        check_name(name, "A course's name")
        async with self._db.read() as conn:
            row = (await conn.execute(_funds().where(table.c.name == name))).first()
        if row is None:
            raise no_course(name)
        return _funds_of(row)

    async def list(self) -> Sequence[Funds]:
        """Return all courses by name."""
        async with self._db.read() as conn:
            rows = await conn.execute(_funds().order_by(table.c.name))
            return [_funds_of(row) for row in rows]

    async def budget(
        self,
        course: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        note: str = "",
    ) -> Recorded:
        """Give tokens to a course; the same request under the same key does so once.

        Raises:
            BadInput: Something cannot be used.
            NotFound: There is no such course.
            KeyReused: The key belongs to another request.
        """
        order = transfer(
            Code.BUDGET,
            amount,
            source=ISSUED,
            target=wallet_of_course(course),
            key=asked_key(actor, key),
            at=at,
            request=request_of(course, amount),
            actor=actor,
            note=note,
        )
        return await self._move(course, order)

    async def withdraw(
        self,
        course: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        note: str = "",
    ) -> Recorded:
        """Take tokens that are available out of a course's wallet.

        Raises:
            BadInput, NotFound, KeyReused: As `budget`.
            NotEnough: There are not as many; nothing was taken.
        """
        order = transfer(
            Code.TAKE_BACK,
            amount,
            source=wallet_of_course(course),
            target=ISSUED,
            key=asked_key(actor, key),
            at=at,
            request=request_of("course", course, amount),
            actor=actor,
            note=note,
        )
        return await self._move(course, order)

    async def _move(self, course: str, order: Transaction) -> Recorded:
        """Record what only the wallet of a course that exists has to allow."""

        async def work(conn: AsyncConnection) -> Recorded:
            await check_earmark(conn, course)
            return (await record(conn, [order]))[0]

        return await self._db.run(work)

    async def hand_out(
        self,
        course: str,
        user: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        note: str = "",
    ) -> Recorded:
        """Give tokens of a course to a student, for its servers only.

        Raises:
            BadInput, NotFound, KeyReused: As `budget`.
            OverBudget: The wallet or the cap per student does not allow it; nothing
                was given.
        """
        source = wallet_of_course(course)
        order = transfer(
            Code.HAND_OUT,
            amount,
            source=source,
            target=wallet_of_user(user, course=course),
            key=asked_key(actor, key),
            at=at,
            request=request_of(course, user, amount),
            actor=actor,
            note=note,
        )
        share, purse = Share(course, user), (Kind.COURSE, course)

        async def work(conn: AsyncConnection) -> Recorded:
            await check_earmark(conn, course)
            room = await draws.room(conn, [share], lock=True)
            found = await wallets(conn, [purse, (Kind.USER, user)], lock=True)
            known = await find(conn, order.key, code=order.code, request=order.request)
            if known:
                return known
            _check_room(user, amount, room.get(share))
            _check_budget(amount, sum(each.amount for each in found[purse]))
            recorded = (await record(conn, [order]))[0]
            await draws.adjust(conn, {share: amount})
            return recorded

        return await self._db.run(work)

    async def give_back(
        self,
        course: str,
        user: str,
        amount: int,
        *,
        key: str,
        actor: str,
        at: datetime,
        note: str = "",
    ) -> Recorded:
        """Return tokens that a student has for a course to the course's wallet.

        At most what the student was given from it by hand: what servers drew from it is
        spent or held, and what an admin gave for this course is not the instructor's.

        Raises:
            BadInput, NotFound, KeyReused: As `budget`.
            NotEnough: There is less to return; nothing was changed.
        """
        target = wallet_of_course(course)
        wallet_of_user(user, course=course)
        check_amount(amount)
        request = request_of(course, user, amount)
        key = asked_key(actor, key)
        share, owner = Share(course, user), (Kind.USER, user)

        async def work(conn: AsyncConnection) -> Recorded:
            await check_earmark(conn, course)
            await draws.drawn(conn, [share], lock=True)
            found = await wallets(conn, [owner, (Kind.COURSE, course)], lock=True)
            known = await find(conn, key, code=Code.RETURN, request=request)
            if known:
                return known
            given = await draws.given(conn, share)
            if given < amount:
                raise NotEnough(
                    f"{user} was given {text_of(given)} from this course, not "
                    f"{text_of(amount)}. Nothing was changed."
                )
            earmarked = [each for each in found[owner] if each.account.course == course]
            returned = gather(
                Code.RETURN,
                take(earmarked, amount, at, who=user),
                target=target,
                key=key,
                at=at,
                request=request,
                actor=actor,
                note=note,
            )
            recorded = (await record(conn, [returned]))[0]
            await draws.adjust(conn, {share: -amount})
            return recorded

        return await self._db.run(work)

    async def students(self, course: str, *, at: datetime) -> Sequence[Student]:
        """Return everybody who has or had tokens of a course, by name.

        Raises:
            NotFound: There is no such course.
        """
        lasting = or_(
            accounts.c.expires_at == NEVER, accounts.c.expires_at > micros(at)
        )
        purses = (
            select(accounts.c.name, func.sum(accounts.c.balance))
            .where(accounts.c.kind == Kind.USER, accounts.c.course == course, lasting)
            .group_by(accounts.c.name)
        )
        shares = select(drawn_table.c.user, drawn_table.c.amount).where(
            drawn_table.c.course == course
        )
        async with self._db.read() as conn:
            await check_earmark(conn, course)
            balances = {user: int(sum_) for user, sum_ in await conn.execute(purses)}
            drawn = {row.user: row.amount for row in await conn.execute(shares)}
        users = sorted(balances.keys() | drawn.keys())
        found = [Student(u, drawn.get(u, 0), balances.get(u, 0)) for u in users]
        return [each for each in found if each.drawn or each.balance]


def _check_room(user: str, amount: int, room: int | None) -> None:
    """Return only if the cap per student leaves so much; None: there is no cap."""
    if room is not None and room < amount:
        raise OverBudget(
            f"The course's cap per student leaves {text_of(room)} for {user}, not "
            f"{text_of(amount)}. Hand out less, or ask an admin to raise the cap."
        )


def _check_budget(amount: int, available: int) -> None:
    """Return only if the wallet has so much."""
    if available < amount:
        raise OverBudget(
            f"The course has {text_of(available)} left, not {text_of(amount)}. Hand "
            "out less, or ask an admin for a larger budget."
        )


def _title(title: str) -> str:
    """Return a course's title, unchanged."""
    check_note(title, "A course's title")
    if not 1 <= len(title) <= NAME_MAX or title != title.strip():
        raise BadInput(
            f"A course's title has 1 to {NAME_MAX} characters and no space at an end."
        )
    return title


def _funds() -> Select[Any]:
    wallet = (accounts.c.kind == Kind.COURSE) & (accounts.c.name == table.c.name)
    return (
        select(table, func.coalesce(func.sum(accounts.c.balance), 0).label("balance"))
        .join_from(table, accounts, wallet, isouter=True)
        .group_by(*table.c)
    )


def _funds_of(row: Row[Any]) -> Funds:
    return Funds(Course(row.name, row.title, row.student_cap), int(row.balance))
