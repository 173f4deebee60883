"""Accounts as rows: found, made, locked. What is in them only `journal` changes.

Order of locks, so that writers cannot wait for each other in a circle: wallets by id,
then ISSUED, REVENUE and HOLDS.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.database import micros, moment
from torchroom.ledger.model import Account, Kind
from torchroom.ledger.tables import accounts

T = TypeVar("T")
Owner = tuple[Kind, str]
"""Whose accounts: a kind and a name."""

CHUNK = 4000
"""Values in one IN list: well below the limits of both databases."""
WALLETS = frozenset({Kind.USER, Kind.COURSE})
_KINDS = {kind.value: kind for kind in Kind}  # a look-up is much faster than Kind(...)


@dataclass(frozen=True, slots=True)
class Balance:
    """An account and what is in it.

    Attributes:
        id: Its row; also its place in the order of locks.
        account: See Account.
        amount: What is available, unless the account is expired.
    """

    id: int
    account: Account
    amount: int


async def accounts_of(
    conn: AsyncConnection,
    kind: Kind,
    name: str,
    *,
    course: str | None = None,
    lock: bool = False,
) -> list[Balance]:
    """Return the accounts of one user or course, expired ones too, by id.

    Args:
        conn: See above.
        kind: USER or COURSE.
        name: Whose.
        course: Only those with this earmark, "" for none; None: all.
        lock: Nobody else changes them until this transaction ends.
    """
    query = select(accounts).where(accounts.c.kind == kind, accounts.c.name == name)
    if course is not None:
        query = query.where(accounts.c.course == course)
    query = query.order_by(accounts.c.id)
    rows = await conn.execute(query.with_for_update() if lock else query)
    return [_balance(row) for row in rows.all()]


async def wallets(
    conn: AsyncConnection, owners: Collection[Owner], *, lock: bool = False
) -> dict[Owner, list[Balance]]:
    """Return the accounts of many users and courses at once; see `accounts_of`.

    Who locks the accounts of more than one owner does it here, in the right order.
    Every owner is in the result, with an empty list if there is no account.
    """
    found = await _rows_of_owners(conn, owners)
    if lock:
        found = await lock_rows(conn, found)
    by_owner: dict[Owner, list[Balance]] = {owner: [] for owner in owners}
    for row in sorted(found, key=lambda row: row.id):
        by_owner[_KINDS[row.kind], row.name].append(_balance(row))
    return by_owner


async def account(
    conn: AsyncConnection, wanted: Account, *, lock: bool = False
) -> Balance:
    """Return one account; it is made, empty, if it is not there.

    Only inside a write transaction.
    """
    rows = list((await find_or_make(conn, {wanted})).values())
    if lock:
        rows = await lock_rows(conn, rows)
    return _balance(rows[0])


async def find_or_make(
    conn: AsyncConnection, wanted: Collection[Account]
) -> dict[Account, Row[Any]]:
    """Return the rows of accounts, adding those that are not there."""
    rows = await _rows_of(conn, wanted)
    missing = [each for each in wanted if each not in rows]
    if not missing:
        return rows
    new = [
        {
            "kind": each.kind.value,
            "name": each.name,
            "course": each.course,
            "expires_at": micros(each.expires_at),
        }
        for each in missing
    ]
    new.sort(key=lambda row: tuple(row.values()))
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    # Another writer may make the same one at the same moment.
    await conn.execute(dialect.insert(accounts).on_conflict_do_nothing(), new)
    return rows | await _rows_of(conn, missing)


async def lock_rows(
    conn: AsyncConnection, wanted: Collection[Row[Any]]
) -> list[Row[Any]]:
    """Return rows of accounts as they are now; they stay so for this transaction."""
    if conn.dialect.name == "sqlite":
        return list(wanted)  # its writers hold the file's lock already
    found: list[Row[Any]] = []
    for is_wallet in (True, False):
        ids = sorted(row.id for row in wanted if (row.kind in WALLETS) is is_wallet)
        for chunk in chunks(ids):
            query = select(accounts).where(accounts.c.id.in_(chunk))
            query = query.order_by(accounts.c.id).with_for_update()
            found += (await conn.execute(query)).all()
    return found


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield values in lists that one statement can take."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def account_of(row: Row[Any]) -> Account:
    """Return what a row of accounts is."""
    expires_at = moment(row.expires_at)
    return Account(_KINDS[row.kind], row.name, row.course, expires_at)


async def _rows_of(
    conn: AsyncConnection, wanted: Collection[Account]
) -> dict[Account, Row[Any]]:
    """Return the rows of those accounts that are there."""
    # By owner, not by all four columns: PostgreSQL plans such a list far faster.
    owners = {(each.kind, each.name) for each in wanted}
    among = set(wanted)
    rows = await _rows_of_owners(conn, owners)
    return {each: row for row in rows if (each := account_of(row)) in among}


async def _rows_of_owners(
    conn: AsyncConnection, owners: Collection[Owner]
) -> list[Row[Any]]:
    """Return the rows of all accounts of these."""
    found: list[Row[Any]] = []
    for kind in sorted({kind for kind, _ in owners}):
        names = sorted({name for whose, name in owners if whose is kind})
        for chunk in chunks(names):
            query = select(accounts).where(
                accounts.c.kind == kind.value, accounts.c.name.in_(chunk)
            )
            found += (await conn.execute(query)).all()
    return found


def _balance(row: Row[Any]) -> Balance:
    return Balance(row.id, account_of(row), row.balance)
