"""The only writer of transactions, postings and balances.

Everything here runs inside a transaction of `Database.write` or `run`, except reading,
which `read` does as well. `record` takes any number of transactions and needs a few
statements for all of them together.

All accounts are locked before keys are looked up and rows added, so the postings of an
account are in the order of their ids.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.accounts import (
    WALLETS,
    Balance,
    Owner,
    account,
    account_of,
    accounts_of,
    chunks,
    find_or_make,
    lock_rows,
    wallets,
)
from torchroom.ledger.amounts import text_of
from torchroom.ledger.database import execute_many, micros, next_ids
from torchroom.ledger.errors import BadInput, Corrupt, KeyReused, NotEnough
from torchroom.ledger.failures import Conflict
from torchroom.ledger.model import Account, Code, Kind, Posting, Transaction
from torchroom.ledger.names import check_key
from torchroom.ledger.posting import check, digest_of
from torchroom.ledger.tables import accounts, postings, transactions

BALANCE_MAX = 2**62
"""Half of what a column holds, so that no sum of two overflows."""

__all__ = [
    "Balance",
    "Owner",
    "Recorded",
    "account",
    "accounts_of",
    "find",
    "postings_of",
    "record",
    "wallets",
]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A transaction in the journal.

    Attributes:
        id: Its row.
        is_new: False: it was there before, under the same key, and nothing was done.
    """

    id: int
    is_new: bool


@dataclass(slots=True)
class _Open:
    """A locked account while its new balance is worked out."""

    id: int
    balance: int
    n_postings: int
    is_changed: bool = False


async def find(
    conn: AsyncConnection, key: str, *, code: Code | None = None, request: str = ""
) -> Recorded | None:
    """Return the transaction of this key, None if there is none yet.

    Use-cases whose answer depends on balances ask this before they decide: a repeat
    must get the first answer, whatever the balances are by then.

    Args:
        conn: See above.
        key: Idempotency key.
        code: With it, the request is compared as well.
        request: As in Transaction.

    Raises:
        BadInput: Not a key.
        KeyReused: The key belongs to another request.
    """
    known = await _known(conn, [check_key(key)])
    if key not in known:
        return None
    row_id, digest = known[key]
    if code is not None and digest != digest_of(code, request):
        raise _reused(key)
    return Recorded(row_id, is_new=False)


async def postings_of(
    conn: AsyncConnection, transaction_ids: Collection[int]
) -> dict[int, list[Posting]]:
    """Return the postings of transactions, in the order they were recorded."""
    found: dict[int, list[Posting]] = {each: [] for each in transaction_ids}
    for chunk in chunks(sorted(found)):
        query = (
            select(postings.c.transaction_id, postings.c.amount, accounts)
            .join(accounts, accounts.c.id == postings.c.account_id)
            .where(postings.c.transaction_id.in_(chunk))
            .order_by(postings.c.id)
        )
        for row in (await conn.execute(query)).all():
            found[row.transaction_id].append(Posting(account_of(row), row.amount))
    return found


async def record(
    conn: AsyncConnection, wanted: Sequence[Transaction]
) -> list[Recorded]:
    """Record transactions in this order, all or none; returns one answer for each.

    A transaction whose key is known already is left out, if it is the same request.
    Accounts are made when they are first posted to.

    Raises:
        BadInput: A key, a name, a note or an amount cannot be used.
        KeyReused: A key belongs to another request.
        NotEnough: A wallet would be negative after one of them.
        Corrupt: A transaction is not balanced, or the ledger's own accounts would be
            negative.
    """
    digests = _checked_digests(wanted)
    touched = {leg.account for each in wanted for leg in each.postings}
    books = await _open(conn, touched)
    known = await _known(conn, digests)
    for key, (_, digest) in known.items():
        if digests[key] != digest:
            raise _reused(key)
    fresh: dict[str, Transaction] = {}
    for each in wanted:
        if each.key not in known:
            fresh.setdefault(each.key, each)
    ids = await next_ids(conn, transactions, len(fresh))
    by_key = dict(zip(fresh, ids, strict=True))
    await _insert(conn, fresh, by_key, digests, books)
    answers = []
    for each in wanted:
        is_new = each.key in by_key
        row_id = by_key.pop(each.key) if is_new else known[each.key][0]
        known[each.key] = (row_id, "")  # a second one of the same key is not new
        answers.append(Recorded(row_id, is_new))
    return answers


def _checked_digests(wanted: Sequence[Transaction]) -> dict[str, str]:
    """Return the digest of each key, after checking all that can be checked so far."""
    digests: dict[str, str] = {}
    for each in wanted:
        check(each)
        digest = digest_of(each.code, each.request)
        if digests.setdefault(each.key, digest) != digest:
            raise _reused(each.key)
    return digests


async def _insert(
    conn: AsyncConnection,
    fresh: dict[str, Transaction],
    by_key: dict[str, int],
    digests: dict[str, str],
    books: dict[Account, _Open],
) -> None:
    """Add the rows of new transactions and change the balances with them."""
    if not fresh:
        return
    now = time.time_ns() // 1000
    heads = [
        {
            "id": by_key[key],
            "key": key,
            "code": each.code.value,
            "at": micros(each.at),
            "recorded_at": now,
            "request_digest": digests[key],
            "lease_id": each.lease_id,
            "actor": each.actor,
            "note": each.note,
        }
        for key, each in fresh.items()
    ]
    legs: list[dict[str, int]] = [
        {
            "transaction_id": by_key[key],
            "account_id": books[leg.account].id,
            "amount": leg.amount,
            "balance_after": _post(books[leg.account], leg),
            "is_lease": int(each.lease_id != ""),
        }
        for key, each in fresh.items()
        for leg in each.postings
    ]
    ids = await next_ids(conn, postings, len(legs))
    for leg_id, row in zip(ids, legs, strict=True):
        row["id"] = leg_id
    changed = [
        {"row_id": book.id, "new_balance": book.balance, "new_n": book.n_postings}
        for book in books.values()
        if book.is_changed
    ]
    try:
        await execute_many(conn, insert(transactions), heads)
    except IntegrityError as error:
        # PostgreSQL: at this moment another writer, on other accounts, took the key.
        raise Conflict("The ledger is busy. It is safe to try again.") from error
    await execute_many(conn, insert(postings), legs)
    await execute_many(
        conn,
        update(accounts)
        .where(accounts.c.id == bindparam("row_id"))
        .values(balance=bindparam("new_balance"), n_postings=bindparam("new_n")),
        changed,
    )


def _post(book: _Open, leg: Posting) -> int:
    """Return the balance after a posting, which the account keeps."""
    after = book.balance + leg.amount
    kind = leg.account.kind
    if after < 0 and leg.amount < 0 and kind is not Kind.ISSUED:
        if kind not in WALLETS:
            raise Corrupt(f"{kind} would be negative. Nothing was changed.")
        whose = "of the course " if kind is Kind.COURSE else "of "
        raise NotEnough(
            f"The tokens {whose}{leg.account.name} do not suffice: "
            f"{text_of(book.balance)} available, {text_of(-leg.amount)} needed."
        )
    if abs(after) > BALANCE_MAX:
        raise BadInput("That is more than one account can hold.")
    book.balance = after
    book.n_postings += 1
    book.is_changed = True
    return after


async def _open(
    conn: AsyncConnection, touched: Collection[Account]
) -> dict[Account, _Open]:
    """Return every account, locked, made where it was not there."""
    found = await find_or_make(conn, touched)
    by_id = {row.id: account for account, row in found.items()}
    rows = await lock_rows(conn, found.values())
    return {by_id[row.id]: _Open(row.id, row.balance, row.n_postings) for row in rows}


async def _known(
    conn: AsyncConnection, keys: Collection[str]
) -> dict[str, tuple[int, str]]:
    """Return the id and the request's digest of those keys that are recorded."""
    found: dict[str, tuple[int, str]] = {}
    columns = (transactions.c.key, transactions.c.id, transactions.c.request_digest)
    for chunk in chunks(sorted(keys)):
        query = select(*columns).where(transactions.c.key.in_(chunk))
        rows = (await conn.execute(query)).all()
        found |= {key: (row_id, digest) for key, row_id, digest in rows}
    return found


def _reused(key: str) -> KeyReused:
    return KeyReused(
        f"The idempotency key {key!a} was used for another request. Nothing was "
        "changed. Send a new key for a new request."
    )
