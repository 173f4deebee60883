"""A ledger with many users, for measuring."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, text
from torchroom.ledger import journal, posting
from torchroom.ledger.audit import audit
from torchroom.ledger.database import Database, micros
from torchroom.ledger.model import ISSUED, Account, Code, Posting, Transaction
from torchroom.ledger.pricing import charge
from torchroom.ledger.tables import courses, draws, holds, leases

AT = datetime(2026, 9, 1, 8, 0, tzinfo=UTC)
CHUNK = 2000
"""Transactions recorded at once while a ledger is filled."""

AMPLE = 10**10
HOLD_S, SPREAD_S = 600, 300  # the policy's own, and the time between settlements
PRICES = {"NVIDIA A100": 6_000_000, "NVIDIA A100 MIG 1g.5gb": 900_000, "L4": 1_200_007}
"""Microtokens per hour."""
N_COURSES, COURSE_EVERY = 100, 3


def grant(user: str, amount: int) -> Transaction:
    """Return tokens for a user."""
    return posting.transfer(
        Code.GRANT,
        amount,
        source=ISSUED,
        target=posting.wallet_of_user(user),
        key=f"grant:{user}",
        at=AT,
        request=f"grant {amount}",
    )


def budget(course: str, amount: int) -> Transaction:
    """Return tokens for a course."""
    return posting.transfer(
        Code.BUDGET,
        amount,
        source=ISSUED,
        target=posting.wallet_of_course(course),
        key=f"budget:{course}",
        at=AT,
        request=f"budget {amount}",
    )


def course_of(i: int) -> str:
    """Return for which course the i-th user's server is, "" for none."""
    return f"course{i // COURSE_EVERY % N_COURSES}" if i % COURSE_EVERY == 0 else ""


async def add_courses(db: Database, names: list[str], amount: int) -> None:
    """Make courses with tokens."""
    rows = [{"name": name, "title": name, "created_at": micros(AT)} for name in names]
    async with db.write() as conn:
        await conn.execute(insert(courses), rows)
        await journal.record(conn, [budget(name, amount) for name in names])


async def add_leases(db: Database, n: int) -> dict[str, int]:
    """Make n users with tokens and a server each, whose meter runs; lease -> per hour.

    Every third draws on the wallet of one of a hundred courses. Their holds were placed
    at moments spread evenly over the time between two settlements, up to AT.
    """
    await add_courses(db, [f"course{i}" for i in range(N_COURSES)], N_COURSES * AMPLE)
    rows = list(_leases(n))
    for start in range(0, n, CHUNK):
        some = rows[start : start + CHUNK]
        async with db.write() as conn:
            await journal.record(conn, [grant(row["user"], AMPLE) for row in some])
            done = await journal.record(conn, [_hold(row) for row in some])
            placed = [
                {
                    "transaction_id": recorded.id,
                    "lease_id": row["id"],
                    "amount": _held(row),
                    "expires_at": row["held_at"] + 86400 * 10**6,
                }
                for recorded, row in zip(done, some, strict=True)
            ]
            order = insert(holds).returning(holds.c.id, sort_by_parameter_order=True)
            ids = await conn.scalars(order, placed)
            drawn = [
                {"course": row["course"], "user": row["user"], "amount": _held(row)}
                for row in some
                if row["course"]
            ]
            await conn.execute(insert(draws), drawn)
            made = zip(some, ids, strict=True)
            await conn.execute(
                insert(leases), [row | {"hold_id": hold} for row, hold in made]
            )
    return {row["id"]: row["per_hour"] for row in rows}


async def analyze(db: Database) -> None:
    """Let PostgreSQL know its tables, as it does by itself within a minute."""
    async with db.write() as conn:
        if conn.dialect.name == "postgresql":
            await conn.execute(text("ANALYZE"))


async def check(db: Database) -> dict[str, float]:
    """Return what an audit took. It finds nothing wrong, and every charge is exact.

    Raises:
        RuntimeError: It is not so.
    """
    found = await audit(db, AT)
    query = select(leases.c.id, leases.c.settled_s, leases.c.charged, leases.c.per_hour)
    async with db.read() as conn:
        rows = await conn.execute(query)
        wrong = [x.id for x in rows if x.charged != charge(x.per_hour, x.settled_s)]
    if found.problems or wrong:
        raise RuntimeError(f"the ledger is wrong: {found.problems} {wrong[:3]}")
    return {"wall_s": found.took_s, "postings": found.n_postings}


def _leases(n: int) -> Iterator[dict[str, Any]]:
    types = list(PRICES)
    for i in range(n):
        slot_type = types[i % len(types)]
        ready_at = micros(AT - timedelta(seconds=i * SPREAD_S // n))
        yield {
            "id": f"ls_{i:016x}",
            "user": f"user{i}",
            "server": "",
            "course": course_of(i),
            "slot_types": f'["{slot_type}"]',
            "per_hour": PRICES[slot_type],
            "held_at": ready_at,
            "ready_at": ready_at,
        }


def _hold(row: dict[str, Any]) -> Transaction:
    return posting.hold(
        [Posting(_wallet(row), _held(row))],
        key=f"hold:{row['id']}:0:0",
        at=AT - timedelta(seconds=SPREAD_S),
        request="hold from second 0 after hold 0",
        lease_id=row["id"],
    )


def _wallet(row: dict[str, Any]) -> Account:
    if row["course"]:
        return posting.wallet_of_course(row["course"])
    return posting.wallet_of_user(row["user"])


def _held(row: dict[str, Any]) -> int:
    return charge(row["per_hour"], HOLD_S)
