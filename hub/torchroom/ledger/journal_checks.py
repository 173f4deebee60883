"""What must hold for transactions, postings and balances, whatever they are for."""

from sqlalchemy import (
    and_,
    case,
    func,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.amounts import text_of
from torchroom.ledger.findings import Check, wrong
from torchroom.ledger.model import Code, Kind
from torchroom.ledger.posting import SHAPES
from torchroom.ledger.tables import (
    accounts,
    postings,
    transactions,
)


async def balanced(conn: AsyncConnection) -> list[str]:
    """I3: the postings of every transaction sum to zero, and there are at least two."""
    total = func.coalesce(func.sum(postings.c.amount), 0)
    n = func.count(postings.c.id)
    query = (
        select(transactions.c.id, transactions.c.key, total.label("total"))
        .outerjoin(postings, postings.c.transaction_id == transactions.c.id)
        .group_by(transactions.c.id, transactions.c.key)
        .having(or_(n < 2, total != 0))  # noqa: PLR2004
        .order_by(transactions.c.id)
    )
    return await wrong(
        conn,
        query,
        lambda row: (
            f"The postings of transaction {row.id} ({row.key}) sum to {row.total} "
            "microtokens, or there are fewer than two."
        ),
    )


async def shaped(conn: AsyncConnection) -> list[str]:
    """Tokens moved only from and to the kinds of account that a code allows."""
    is_source = case((postings.c.amount < 0, 1), else_=0).label("is_source")
    moves = (
        select(transactions.c.code, accounts.c.kind, is_source)
        .join(postings, postings.c.transaction_id == transactions.c.id)
        .join(accounts, accounts.c.id == postings.c.account_id)
        .distinct()
    )
    return [
        f"A {row.code} moved tokens {'from' if row.is_source else 'to'} {row.kind}."
        for row in await conn.execute(moves)
        if row.code not in set(Code)
        or row.kind not in SHAPES[Code(row.code)][0 if row.is_source else 1]
    ]


async def cached(conn: AsyncConnection) -> list[str]:
    """The cached balance of every account is the sum of its postings."""
    sums = (
        select(
            postings.c.account_id,
            func.sum(postings.c.amount).label("total"),
            func.count().label("n"),
        )
        .group_by(postings.c.account_id)
        .subquery()
    )
    total, n = func.coalesce(sums.c.total, 0), func.coalesce(sums.c.n, 0)
    query = (
        select(accounts, total.label("total"))
        .outerjoin(sums, sums.c.account_id == accounts.c.id)
        .where(or_(accounts.c.balance != total, accounts.c.n_postings != n))
        .order_by(accounts.c.id)
    )
    return await wrong(
        conn,
        query,
        lambda row: (
            f"Account {row.id} ({row.kind} {row.name}) says {text_of(row.balance)}, "
            f"its postings say {text_of(int(row.total))}, or their number is wrong."
        ),
    )


async def chained(conn: AsyncConnection) -> list[str]:
    """Every posting continues the balance that the one before it left, none below 0."""
    before = func.lag(postings.c.balance_after, 1, 0).over(
        partition_by=postings.c.account_id, order_by=postings.c.id
    )
    chain = select(postings, before.label("before")).subquery()
    query = (
        select(chain.c.id, accounts.c.kind, accounts.c.name)
        .join(accounts, accounts.c.id == chain.c.account_id)
        .where(
            or_(
                chain.c.before + chain.c.amount != chain.c.balance_after,
                and_(chain.c.balance_after < 0, accounts.c.kind != Kind.ISSUED.value),
            )
        )
        .order_by(chain.c.id)
    )
    return await wrong(
        conn,
        query,
        lambda row: (
            f"Posting {row.id} of {row.kind} {row.name} does not continue the balance "
            "before it, or leaves less than nothing."
        ),
    )


async def marked(conn: AsyncConnection) -> list[str]:
    """Every posting is marked as one of a lease exactly if its transaction is."""
    is_lease = case((transactions.c.lease_id != "", 1), else_=0)
    query = (
        select(postings.c.id)
        .join(transactions, transactions.c.id == postings.c.transaction_id)
        .where(postings.c.is_lease != is_lease)
        .order_by(postings.c.id)
    )
    return await wrong(
        conn, query, lambda row: f"Posting {row.id} is marked wrongly (is_lease)."
    )


JOURNAL_CHECKS: tuple[Check, ...] = (balanced, shaped, cached, chained, marked)
