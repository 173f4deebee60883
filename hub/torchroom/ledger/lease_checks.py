"""What must hold for holds, leases, fees, draws and vouchers, by their postings."""

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    Subquery,
    and_,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.amounts import text_of
from torchroom.ledger.draws import by_hand
from torchroom.ledger.findings import Check, told, wrong
from torchroom.ledger.model import Code, Kind
from torchroom.ledger.pricing import charge
from torchroom.ledger.tables import (
    accounts,
    draws,
    fees,
    hold_ends,
    holds,
    leases,
    postings,
    redemptions,
    transactions,
    vouchers,
)

_ENDS = (Code.SETTLE.value, Code.VOID.value, Code.EXPIRE.value)
_FEES = (Code.FEE.value, Code.FEE_BACK.value)


async def held(conn: AsyncConnection) -> list[str]:
    """A hold is what its transaction moved to HOLDS."""
    query = (
        select(holds.c.id)
        .join(transactions, transactions.c.id == holds.c.transaction_id)
        .where(
            or_(
                transactions.c.code != Code.HOLD.value,
                transactions.c.lease_id != holds.c.lease_id,
                _moved_to_holds(holds.c.transaction_id) != holds.c.amount,
            )
        )
        .order_by(holds.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"Hold {row.id} is not what its transaction moved."
    )


async def resolved(conn: AsyncConnection) -> list[str]:
    """What ended a hold moved all of it out of HOLDS, for the same lease."""
    query = (
        select(holds.c.id)
        .join(hold_ends, hold_ends.c.hold_id == holds.c.id)
        .join(transactions, transactions.c.id == hold_ends.c.transaction_id)
        .where(
            or_(
                transactions.c.code != hold_ends.c.how,
                transactions.c.lease_id != holds.c.lease_id,
                _moved_to_holds(hold_ends.c.transaction_id) != -holds.c.amount,
            )
        )
        .order_by(holds.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"The end of hold {row.id} does not resolve all of it."
    )


async def matched(conn: AsyncConnection) -> list[str]:
    """Every transaction that holds or ends a hold is known, so none ends twice."""
    begins = exists().where(holds.c.transaction_id == transactions.c.id)
    ends = exists().where(hold_ends.c.transaction_id == transactions.c.id)
    query = (
        select(transactions.c.id, transactions.c.code)
        .where(
            or_(
                and_(transactions.c.code == Code.HOLD.value, ~begins),
                and_(transactions.c.code.in_(_ENDS), ~ends),
            )
        )
        .order_by(transactions.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"Transaction {row.id} ({row.code}) is of no hold."
    )


async def reserved(conn: AsyncConnection) -> list[str]:
    """HOLDS has what the open holds are, and each is the open hold of an open lease."""
    is_open = ~exists().where(hold_ends.c.hold_id == holds.c.id)
    total = await conn.scalar(
        select(func.coalesce(func.sum(holds.c.amount), 0)).where(is_open)
    )
    balance = await conn.scalar(
        select(accounts.c.balance).where(accounts.c.kind == Kind.HOLDS.value)
    )
    problems = []
    if int(total or 0) != (balance or 0):
        problems.append(
            f"{text_of(balance or 0)} are held, but the open holds are "
            f"{text_of(int(total or 0))}."
        )
    of_lease = and_(leases.c.id == holds.c.lease_id, leases.c.closed_at == 0)
    query = (
        select(holds.c.id, holds.c.lease_id)
        .outerjoin(leases, and_(of_lease, leases.c.hold_id == holds.c.id))
        .where(is_open, leases.c.id.is_(None))
        .order_by(holds.c.id)
    )
    return problems + await wrong(
        conn,
        query,
        lambda row: f"Hold {row.id} is open, but not the hold of lease {row.lease_id}.",
    )


async def charged(conn: AsyncConnection) -> list[str]:
    """I4: a lease was charged its price x its seconds, and that is what it posted.

    What the site paid for it is part of that.
    """
    posted = _posted_by_leases(Kind.REVENUE)
    columns = leases.c["id", "per_hour", "settled_s", "charged"]
    query = (
        select(*columns, func.coalesce(posted.c.total, 0).label("posted"))
        .outerjoin(posted, posted.c.lease_id == leases.c.id)
        .order_by(leases.c.id)
    )
    # Multiplied here: a database's integers could overflow.
    off = [
        row
        async for row in await conn.stream(query)
        if not row.charged == row.posted == charge(row.per_hour, row.settled_s)
    ]
    strays = (
        select(posted)
        .outerjoin(leases, leases.c.id == posted.c.lease_id)
        .where(leases.c.id.is_(None), posted.c.total != 0)
        .order_by(posted.c.lease_id)
    )
    return told(
        off,
        lambda row: (
            f"Lease {row.id} says it was charged {text_of(row.charged)}; its postings "
            f"say {text_of(int(row.posted))}, and price x seconds is "
            f"{text_of(charge(row.per_hour, row.settled_s))}."
        ),
    ) + await wrong(
        conn, strays, lambda row: f"{row.lease_id!r} was charged, but is no lease."
    )


async def shared(conn: AsyncConnection) -> list[str]:
    """What a course's wallet paid of a lease is what its postings say."""
    posted = _posted_by_leases(Kind.COURSE)
    paid = -func.coalesce(posted.c.total, 0)
    query = (
        select(leases.c.id)
        .outerjoin(posted, posted.c.lease_id == leases.c.id)
        .where(leases.c.from_course != paid)
        .order_by(leases.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"What a course paid of lease {row.id} is wrong."
    )


async def drawn(conn: AsyncConnection) -> list[str]:
    """What each student drew from a course's wallet is what the postings say."""
    drew: dict[tuple[str, str], int] = {}
    for query in (_drawn_by_leases(), _drawn_by_fees(), by_hand()):
        for row in await conn.execute(query):
            share = (row.course, row.user)
            drew[share] = drew.get(share, 0) + int(row.total)
    for row in await conn.execute(select(draws)):
        share = (row.course, row.user)
        drew[share] = drew.get(share, 0) - row.amount
    return told(
        sorted(share for share, difference in drew.items() if difference),
        lambda share: (
            f"What {share[1]} drew from the course {share[0]} is not what the postings "
            f"say: they say {text_of(drew[share])} more."
        ),
    )


async def levied(conn: AsyncConnection) -> list[str]:
    """A fee is what its transaction moved to REVENUE, and every such one is noted."""
    is_fee = transactions.c.code.in_(_FEES)
    to_revenue = and_(
        postings.c.transaction_id == transactions.c.id,
        postings.c.account_id == accounts.c.id,
        accounts.c.kind == Kind.REVENUE.value,
    )
    moved = (
        select(func.coalesce(func.sum(postings.c.amount), 0))
        .where(to_revenue)
        .correlate(transactions)
        .scalar_subquery()
    )
    query = (
        select(transactions.c.id)
        .outerjoin(fees, fees.c.transaction_id == transactions.c.id)
        .where(
            or_(is_fee, fees.c.transaction_id.is_not(None)),
            or_(fees.c.amount.is_(None), fees.c.amount != moved, ~is_fee),
        )
        .order_by(transactions.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"Transaction {row.id} is not the fee that is noted."
    )


async def redeemed(conn: AsyncConnection) -> list[str]:
    """What a redeemed voucher gave is what it was worth."""
    query = (
        select(redemptions.c.voucher_id)
        .join(vouchers, vouchers.c.id == redemptions.c.voucher_id)
        .join(transactions, transactions.c.id == redemptions.c.transaction_id)
        .outerjoin(
            postings,
            and_(
                postings.c.transaction_id == transactions.c.id,
                postings.c.amount == vouchers.c.amount,
            ),
        )
        .where(or_(postings.c.id.is_(None), transactions.c.code != Code.VOUCHER.value))
        .order_by(redemptions.c.voucher_id)
    )
    return await wrong(
        conn, query, lambda row: f"Voucher {row.voucher_id} gave what it was not worth."
    )


LEASE_CHECKS: tuple[Check, ...] = (
    held,
    resolved,
    matched,
    reserved,
    charged,
    shared,
    drawn,
    levied,
    redeemed,
)


def _moved_to_holds(transaction_id: ColumnElement[int]) -> ScalarSelect[int]:
    """Return what a transaction moved to HOLDS, negative if out of it."""
    return (
        select(func.coalesce(func.sum(postings.c.amount), 0))
        .join(accounts, accounts.c.id == postings.c.account_id)
        .where(
            postings.c.transaction_id == transaction_id,
            accounts.c.kind == Kind.HOLDS.value,
        )
        .scalar_subquery()
    )


def _posted_by_leases(kind: Kind) -> Subquery:
    """Return what leases posted to a kind of account, open holds left out."""
    is_open = exists().where(
        holds.c.transaction_id == transactions.c.id,
        ~exists().where(hold_ends.c.hold_id == holds.c.id).correlate(holds),
    )
    return (
        select(transactions.c.lease_id, func.sum(postings.c.amount).label("total"))
        .join(postings, postings.c.transaction_id == transactions.c.id)
        .join(accounts, accounts.c.id == postings.c.account_id)
        .where(
            accounts.c.kind == kind.value,
            transactions.c.code.not_in(_FEES),
            ~is_open,
        )
        .group_by(transactions.c.lease_id)
        .subquery()
    )


def _drawn_by_leases() -> Select[str, str, int]:
    """Return what leases took from courses' wallets and did not give back."""
    course, user = accounts.c.name.label("course"), leases.c.user
    return (
        select(course, user, (-func.sum(postings.c.amount)).label("total"))
        .join(accounts, accounts.c.id == postings.c.account_id)
        .join(transactions, transactions.c.id == postings.c.transaction_id)
        .join(leases, leases.c.id == transactions.c.lease_id)
        .where(accounts.c.kind == Kind.COURSE.value, postings.c.is_lease == 1)
        .group_by(course, user)
    )


def _drawn_by_fees() -> Select[str, str, int]:
    """Return what fees took from courses' wallets, less what was given back."""
    course, user = accounts.c.name.label("course"), fees.c.user
    return (
        select(course, user, (-func.sum(postings.c.amount)).label("total"))
        .join(accounts, accounts.c.id == postings.c.account_id)
        .join(fees, fees.c.transaction_id == postings.c.transaction_id)
        .where(accounts.c.kind == Kind.COURSE.value)
        .group_by(course, user)
    )
