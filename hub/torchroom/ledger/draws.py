"""What each student drew from a course's wallet: the cap per student is kept here.

A draw grows with holds, fees, hand-outs and allowances from the wallet, and shrinks
with what comes back. Its row is locked before any wallet, so two servers of one student
that start together cannot both use the same rest of the cap.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import Select, bindparam, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.drawing import Share
from torchroom.ledger.model import Code, Kind
from torchroom.ledger.tables import accounts, courses, draws, postings, transactions


async def drawn(
    conn: AsyncConnection, shares: Collection[Share], *, lock: bool = False
) -> dict[Share, int]:
    """Return what these students drew in all, in microtokens; 0 if nothing.

    Args:
        conn: In a write transaction, if it locks.
        shares: Whose.
        lock: Nobody else changes them before this transaction ends.
    """
    if not shares:
        return {}
    if lock:
        await _make(conn, shares)
    wanted = tuple_(draws.c.course, draws.c.user).in_(sorted(set(shares)))
    query = select(draws).where(wanted).order_by(draws.c.course, draws.c.user)
    rows = (await conn.execute(query.with_for_update() if lock else query)).all()
    found = {Share(row.course, row.user): row.amount for row in rows}
    return {share: found.get(share, 0) for share in shares}


async def room(
    conn: AsyncConnection, shares: Collection[Share], *, lock: bool = False
) -> dict[Share, int]:
    """Return what these students may still draw; those without a cap are not in it."""
    amounts = await drawn(conn, shares, lock=lock)
    if not amounts:
        return {}
    names = sorted({share.course for share in shares})
    rows = await conn.execute(
        select(courses.c.name, courses.c.student_cap).where(courses.c.name.in_(names))
    )
    caps = {row.name: row.student_cap for row in rows if row.student_cap is not None}
    return {
        share: room_under(caps[share.course], amount)
        for share, amount in amounts.items()
        if share.course in caps
    }


def room_under(cap: int, drawn: int | None) -> int:
    """Return what a cap still allows who drew so much; None: nothing yet."""
    return max(0, cap - (drawn or 0))


async def adjust(conn: AsyncConnection, changes: Mapping[Share, int]) -> None:
    """Add to what students drew; negative amounts for what came back.

    Call `drawn` or `room` with `lock` before, which also makes the rows.
    """
    rows = [
        {"in_course": share.course, "of_user": share.user, "change": change}
        for share, change in sorted(changes.items())
        if change
    ]
    if not rows:
        return
    await conn.execute(
        update(draws)
        .where(
            draws.c.course == bindparam("in_course"),
            draws.c.user == bindparam("of_user"),
        )
        .values(amount=draws.c.amount + bindparam("change")),
        rows,
    )


def by_hand() -> Select[str, str, int]:
    """Return what students were given from courses' wallets, less what was returned.

    Columns course, user, total. The rest of what they drew went to servers and fees.
    """
    course, user = accounts.c.course, accounts.c.name.label("user")
    codes = [Code.HAND_OUT.value, Code.ALLOWANCE.value, Code.RETURN.value]
    return (
        select(course, user, func.sum(postings.c.amount).label("total"))
        .join(accounts, accounts.c.id == postings.c.account_id)
        .join(transactions, transactions.c.id == postings.c.transaction_id)
        .where(accounts.c.kind == Kind.USER.value, transactions.c.code.in_(codes))
        .group_by(course, user)
    )


async def given(conn: AsyncConnection, share: Share) -> int:
    """Return what a student was given by hand and has not returned, in microtokens."""
    of_share = (accounts.c.course == share.course) & (accounts.c.name == share.user)
    row = (await conn.execute(by_hand().where(of_share))).first()
    return int(row.total) if row else 0


async def _make(conn: AsyncConnection, shares: Collection[Share]) -> None:
    """Have a row for each: what is not there cannot be locked."""
    insert = sqlite.insert if conn.dialect.name == "sqlite" else postgresql.insert
    await conn.execute(
        insert(draws).on_conflict_do_nothing(),
        [
            {"course": share.course, "user": share.user, "amount": 0}
            for share in sorted(set(shares))
        ],
    )
