"""Reads histories page by page, newest first. A page costs the same however far back.

Two streams are merged: transactions that are not of a lease, by the number of their
posting, and leases, by when they were held. A cursor is a place in both, so nothing is
shown twice or left out, even if clocks were set back between two transactions.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.accounts import account_of
from torchroom.ledger.cursors import Place
from torchroom.ledger.database import micros, moment
from torchroom.ledger.errors import Corrupt
from torchroom.ledger.model import Code, Kind
from torchroom.ledger.rows import lease_of
from torchroom.ledger.tables import accounts, hold_ends, holds, leases, postings
from torchroom.ledger.tables import transactions as txs
from torchroom.ledger.views import Entry, Line, Page

_ACCOUNTS_AT_ONCE = 100  # SQLite: at most 500 parts in a UNION ALL
# Spelled as the partial indexes have it: with a parameter they would not be used.
_ZERO: ColumnElement[int] = literal_column("0")
_EMPTY: ColumnElement[str] = literal_column("''")


# ------------------------------------------------------------------------ two histories


async def read_full(
    conn: AsyncConnection, kind: Kind, name: str, place: Place, limit: int
) -> Page:
    """Return every transaction of the owner's accounts, with all its postings."""
    found = await _transactions(conn, kind, name, place.posting_id, limit + 1)
    entries = [entry for _, entry in found[:limit]]
    if len(found) <= limit:
        return Page(tuple(entries), None)
    return Page(tuple(entries), Place(posting_id=found[limit - 1][0]).text())


async def read_plain(
    conn: AsyncConnection, kind: Kind, name: str, place: Place, limit: int
) -> Page:
    """Return the owner's history as people read it: one row for all of a lease."""
    moved = await _transactions(
        conn, kind, name, place.posting_id, limit + 1, is_plain=True
    )
    used = await _leases(conn, kind, name, place, limit + 1)
    entries: list[Entry] = []
    while len(entries) < limit and (moved or used):
        # The later of both heads; which one comes first depends on nothing else.
        if moved and (not used or moved[0][1].at >= used[0].at):
            posting_id, entry = moved.pop(0)
            place = Place(posting_id, place.held_at, place.lease_id)
        else:
            entry = used.pop(0)
            place = Place(place.posting_id, micros(entry.at), entry.id)
        entries.append(entry)
    has_more = bool(moved or used)
    return Page(tuple(entries), place.text() if has_more else None)


# ------------------------------------------------------------------------- transactions


async def _transactions(
    conn: AsyncConnection,
    kind: Kind,
    name: str,
    before: int,
    n: int,
    *,
    is_plain: bool = False,
) -> list[tuple[int, Entry]]:
    """Return up to n transactions with the number of their place, newest first.

    The place of one that posts to several of the owner's accounts is its highest
    posting, so that no page shows it again.
    """
    query = select(accounts.c.id).where(
        accounts.c.kind == kind, accounts.c.name == name, accounts.c.n_postings > 0
    )
    own = list((await conn.execute(query)).scalars())
    found: list[tuple[int, Entry]] = []
    while own and len(found) < n:
        places = await _postings(conn, own, before, n, is_plain=is_plain)
        if not places:
            break
        before = min(places)
        found += await _entries(conn, places, frozenset(own))
        if len(places) < n:
            break
    return found[:n]


async def _postings(
    conn: AsyncConnection, own: Sequence[int], before: int, n: int, *, is_plain: bool
) -> dict[int, int]:
    """Return the n highest postings of these accounts -> their transaction."""
    found: dict[int, int] = {}
    for first in range(0, len(own), _ACCOUNTS_AT_ONCE):
        # A part per account: each reads the end of one index, and no more than n rows.
        parts = [
            select(_newest(account_id, before, n, is_plain=is_plain).subquery())
            for account_id in own[first : first + _ACCOUNTS_AT_ONCE]
        ]
        rows = await conn.execute(union_all(*parts))
        found.update((row.id, row.transaction_id) for row in rows)
    return {id_: found[id_] for id_ in sorted(found, reverse=True)[:n]}


def _newest(
    account_id: int, before: int, n: int, *, is_plain: bool
) -> Select[tuple[int, int]]:
    query = select(postings.c.id, postings.c.transaction_id).where(
        postings.c.account_id == account_id, postings.c.id < before
    )
    if is_plain:
        query = query.where(postings.c.is_lease == _ZERO)
    return query.order_by(postings.c.id.desc()).limit(n)


async def _entries(
    conn: AsyncConnection, places: dict[int, int], own: frozenset[int]
) -> list[tuple[int, Entry]]:
    """Return the entries of those transactions whose place is here, in this order."""
    rows = await conn.execute(
        select(
            txs,
            postings.c.id.label("posting_id"),
            postings.c.account_id,
            postings.c.amount,
            postings.c.balance_after,
            accounts.c.kind,
            accounts.c.name,
            accounts.c.course,
            accounts.c.expires_at,
        )
        .select_from(
            postings.join(txs, txs.c.id == postings.c.transaction_id).join(
                accounts, accounts.c.id == postings.c.account_id
            )
        )
        .where(postings.c.transaction_id.in_(set(places.values())))
        .order_by(postings.c.id)
    )
    grouped: dict[int, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row.id, []).append(row)
    ends = await _hold_ends(conn, [id_ for id_, legs in grouped.items() if _held(legs)])
    found = []
    for posting_id, transaction_id in places.items():
        legs = grouped[transaction_id]
        if posting_id == max(leg.posting_id for leg in legs if leg.account_id in own):
            entry = _entry(legs, own, ends.get(transaction_id, ""))
            found.append((posting_id, entry))
    return found


def _held(legs: Sequence[Any]) -> bool:
    return bool(legs[0].code == Code.HOLD)


async def _hold_ends(conn: AsyncConnection, ids: Sequence[int]) -> dict[int, str]:
    """Return how these holds ended; those that are open are not in it."""
    if not ids:
        return {}
    rows = await conn.execute(
        select(holds.c.transaction_id, hold_ends.c.how, hold_ends.c.transaction_id)
        .select_from(holds.join(hold_ends, hold_ends.c.hold_id == holds.c.id))
        .where(holds.c.transaction_id.in_(ids))
    )
    return {held: f"{how} {ended}" for held, how, ended in rows}


def _entry(legs: Sequence[Any], own: frozenset[int], ended_by: str) -> Entry:
    """Return a transaction's row from all its postings."""
    first = legs[0]
    mine = [leg for leg in legs if leg.account_id in own]
    at = moment(first.at)
    if at is None:
        raise Corrupt(f"Transaction {first.id} has no time.")
    return Entry(
        id=str(first.id),
        at=at,
        code=Code(first.code),
        amount=sum(leg.amount for leg in mine),
        note=first.note,
        actor=first.actor,
        course=next((leg.course for leg in mine if leg.course), ""),
        expires_at=next((moment(leg.expires_at) for leg in mine), None),
        key=first.key,
        recorded_at=moment(first.recorded_at),
        lease_id=first.lease_id,
        ended_by=ended_by,
        lines=tuple(
            Line(account_of(leg), leg.amount, leg.balance_after) for leg in legs
        ),
    )


# ------------------------------------------------------------------------------- leases


async def _leases(
    conn: AsyncConnection, kind: Kind, name: str, place: Place, n: int
) -> list[Entry]:
    """Return up to n leases of a user, or for a course, that cost something."""
    whose = {Kind.USER: leases.c.user, Kind.COURSE: leases.c.course}.get(kind)
    if whose is None:
        return []
    query = (
        select(leases)
        .where(
            whose == name,
            leases.c.per_hour > 0,
            # The first is implied by the second; it is what an index is used for.
            leases.c.held_at <= place.held_at,
            tuple_(leases.c.held_at, leases.c.id)
            < tuple_(place.held_at, place.lease_id),
        )
        .order_by(leases.c.held_at.desc(), leases.c.id.desc())
        .limit(n)
    )
    rows = (await conn.execute(query)).all()
    waived = await _waived(conn, [row.id for row in rows])
    return [_charge(row, waived.get(row.id, 0), kind) for row in rows]


async def _waived(conn: AsyncConnection, ids: Sequence[str]) -> dict[str, int]:
    """Return what nobody paid of those leases that have such a part.

    Read from the few transactions that can have it, not from every slice of a lease.
    """
    rows = await conn.execute(
        select(txs.c.lease_id, func.sum(postings.c.amount).label("got"))
        .select_from(
            txs.join(postings, postings.c.transaction_id == txs.c.id).join(
                accounts, accounts.c.id == postings.c.account_id
            )
        )
        .where(
            txs.c.lease_id.in_(ids),
            txs.c.lease_id != _EMPTY,
            txs.c.code == Code.WAIVE,
            accounts.c.kind == Kind.ISSUED,
        )
        .group_by(txs.c.lease_id)
    )
    return {row.lease_id: -int(row.got) for row in rows}


def _charge(row: Any, waived: int, kind: Kind) -> Entry:
    """Return a lease's row: what the owner's accounts paid for it so far."""
    lease = lease_of(row)
    by_user = row.charged - row.from_course - waived
    return Entry(
        id=lease.id,
        at=lease.held_at,
        code=Code.SETTLE,
        amount=-(row.from_course if kind is Kind.COURSE else by_user),
        note=lease.reason,
        actor=lease.payer.user,
        course=lease.payer.course,
        lease=lease,
        paid_by_course=row.from_course,
        waived=waived,
        lease_id=lease.id,
    )
