"""An audit finds whatever was changed behind the ledger's back, and nothing else."""

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from torchroom.ledger import journal, posting
from torchroom.ledger.audit import audit, last
from torchroom.ledger.database import Database, micros
from torchroom.ledger.findings import SHOWN
from torchroom.ledger.model import ISSUED, Account, Code, Posting, Transaction
from torchroom.ledger.posting import wallet_of_course, wallet_of_user
from torchroom.ledger.tables import (
    audits,
    draws,
    hold_ends,
    holds,
    leases,
    redemptions,
    vouchers,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW = AT + timedelta(days=1)
ALICE = wallet_of_user("alice")
HANDED = wallet_of_user("alice", course="cs101")
COURSE = wallet_of_course("cs101")
PER_HOUR = 3_600_000_007  # does not divide evenly


def move(
    code: Code, amount: int, source: Account, target: Account, key: str
) -> Transaction:
    return posting.transfer(
        code, amount, source=source, target=target, key=key, at=AT, request=""
    )


def order(key: str, lease_id: str) -> posting.Order:
    return posting.Order(key=key, at=AT, request="", lease_id=lease_id)


def lease(lease_id: str, **values: Any) -> dict[str, Any]:
    whose = {"id": lease_id, "user": "alice", "server": "", "course": "cs101"}
    fixed = {"slot_types": '["A100"]', "per_hour": PER_HOUR, "held_at": micros(AT)}
    open_now = {"settled_s": 0, "charged": 0, "from_course": 0, "hold_id": None}
    return whose | fixed | open_now | {"closed_at": 0} | values


async def fill(conn: AsyncConnection) -> None:
    """Two leases of alice, half paid by her course: one is open, one was given up."""
    used = PER_HOUR * 100 // 3600
    parts = [Posting(COURSE, used), Posting(ALICE, 50)]
    give_up = [Posting(ALICE, 70)]
    made = await journal.record(
        conn,
        [
            move(Code.GRANT, 10**9, ISSUED, ALICE, "grant"),
            move(Code.BUDGET, 10**9, ISSUED, COURSE, "budget"),
            move(Code.HAND_OUT, 30, COURSE, HANDED, "hand-out"),
            move(Code.RETURN, 10, HANDED, COURSE, "return"),
            move(Code.VOUCHER, 40, ISSUED, ALICE, "voucher"),
            posting.hold(parts, **order("hold 1", "ls_1")),
            posting.settle(used, parts[1:], **order("settle 1", "ls_1")),
            posting.hold(parts, **order("hold 2", "ls_1")),
            posting.hold(give_up, **order("hold 3", "ls_2")),
            posting.release(Code.VOID, give_up, **order("void 3", "ls_2")),
        ],
    )
    row = [each.id for each in made]
    held = {"lease_id": "ls_1", "amount": used + 50, "expires_at": 1}
    await conn.execute(
        insert(holds),
        [
            {"id": 1, "transaction_id": row[5]} | held,
            {"id": 2, "transaction_id": row[7]} | held,
            {"id": 3, "transaction_id": row[8]}
            | {"lease_id": "ls_2", "amount": 70, "expires_at": 1},
        ],
    )
    await conn.execute(
        insert(hold_ends),
        [
            {"hold_id": 1, "transaction_id": row[6], "how": "settle"},
            {"hold_id": 3, "transaction_id": row[9], "how": "void"},
        ],
    )
    charged = {"settled_s": 100, "charged": used, "from_course": used, "hold_id": 2}
    closed = {"closed_at": micros(AT)}
    both = [lease("ls_1", **charged), lease("ls_2", **closed)]
    await conn.execute(insert(leases), both)
    drew = {"course": "cs101", "user": "alice", "amount": 30 - 10 + 2 * used}
    await conn.execute(insert(draws).values(**drew))
    voucher = {"id": "v1", "digest": "d", "amount": 40, "course": "", "expires_at": 0}
    told = {"tokens_expire_at": 0, "note": "", "actor": "admin", "created_at": 1}
    await conn.execute(insert(vouchers).values(**voucher, **told))
    redeemed = {"voucher_id": "v1", "transaction_id": row[4], "user": "alice", "at": 1}
    await conn.execute(insert(redemptions).values(**redeemed))


@pytest.fixture
async def filled(db: Database) -> Database:
    """A ledger in which everything happened once."""
    await db.run(fill)
    return db


def behind_its_back(url: str, statement: str) -> None:
    """Run a statement as somebody who may do anything with the database."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for name in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f"DROP TRIGGER {name[0]}")
            assert connection.execute(statement).rowcount > 0
        connection.close()
        return
    with psycopg.connect(url) as server:
        server.execute("SET session_replication_role = replica")
        assert server.execute(statement.encode()).rowcount > 0


async def test_an_audit_of_what_the_ledger_did_finds_nothing(filled: Database) -> None:
    """And says what it looked at."""
    found = await audit(filled, NOW)
    assert found.problems == ()
    assert (found.n_transactions, found.n_postings) == (10, 23)
    assert found.at == NOW


async def test_an_empty_ledger_is_right(db: Database) -> None:
    """Before anything happened, too."""
    assert (await audit(db, NOW)).problems == ()


async def test_the_last_audit_is_kept(filled: Database, url: str) -> None:
    """None before the first one; problems are kept as they were told."""
    assert await last(filled) is None
    assert await audit(filled, NOW) == await last(filled)
    behind_its_back(url, "UPDATE draws SET amount = amount + 1")
    found = await audit(filled, NOW + timedelta(hours=1))
    assert len(found.problems) == 1
    assert await last(filled) == found
    async with filled.read() as conn:
        assert len((await conn.execute(select(audits.c.id))).all()) == 2


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE postings SET amount = amount + 1 WHERE id = 2", "sum to 1"),
        ("DELETE FROM postings WHERE transaction_id = 1", "fewer than two"),
        ("DELETE FROM postings WHERE id = 4", "sum to"),
        (
            "UPDATE accounts SET balance = balance + 1 WHERE name = 'alice' "
            "AND course = ''",
            "its postings say",
        ),
        ("UPDATE accounts SET n_postings = n_postings + 1 WHERE id = 1", "number"),
        ("UPDATE postings SET balance_after = balance_after + 1 WHERE id = 1", "cont"),
        (
            "UPDATE postings SET balance_after = -balance_after WHERE account_id = "
            "(SELECT id FROM accounts WHERE name = 'alice' AND course = '')",
            "less than nothing",
        ),
        ("UPDATE postings SET is_lease = 1 - is_lease WHERE id = 3", "is_lease"),
        ("UPDATE transactions SET code = 'welcome' WHERE code = 'budget'", "welcome"),
        ("UPDATE transactions SET code = 'gift' WHERE code = 'budget'", "gift"),
        ("UPDATE transactions SET lease_id = '' WHERE id = 6", "not what"),
        ("UPDATE holds SET amount = amount + 1 WHERE id = 2", "open holds are"),
        ("UPDATE holds SET amount = amount + 1 WHERE id = 1", "resolve all of it"),
        ("UPDATE holds SET lease_id = 'ls_2' WHERE id = 2", "not the hold of"),
        ("UPDATE hold_ends SET how = 'expire' WHERE hold_id = 3", "resolve all of it"),
        ("DELETE FROM hold_ends WHERE hold_id = 3", "is of no hold"),
        ("DELETE FROM holds WHERE id = 2", "is of no hold"),
        ("UPDATE leases SET hold_id = NULL WHERE id = 'ls_1'", "not the hold of"),
        ("UPDATE leases SET closed_at = 1 WHERE id = 'ls_1'", "not the hold of"),
        ("UPDATE leases SET charged = charged + 1 WHERE id = 'ls_1'", "charged"),
        ("UPDATE leases SET settled_s = settled_s - 1 WHERE id = 'ls_1'", "seconds"),
        ("UPDATE leases SET per_hour = per_hour * 2 WHERE id = 'ls_1'", "price"),
        ("UPDATE leases SET from_course = 0 WHERE id = 'ls_1'", "a course paid"),
        ("DELETE FROM leases WHERE id = 'ls_1'", "is no lease"),
        ("UPDATE draws SET amount = amount - 1", "drew"),
        ("DELETE FROM draws", "drew"),
        ("UPDATE vouchers SET amount = amount - 1", "not worth"),
    ],
)
async def test_what_was_changed_by_hand_is_found(
    filled: Database, url: str, statement: str, told: str
) -> None:
    """Whoever can write the file can change it, but not without being seen."""
    behind_its_back(url, statement)
    assert told in " ".join((await audit(filled, NOW)).problems)


async def test_much_that_is_wrong_is_told_briefly(db: Database, url: str) -> None:
    """A sentence for the first of a kind, and that there are more."""
    many = [
        move(Code.GRANT, 5, ISSUED, wallet_of_user(f"u{n}"), f"k{n}") for n in range(30)
    ]
    async with db.write() as conn:
        await journal.record(conn, many)
    behind_its_back(url, "UPDATE accounts SET balance = 6 WHERE kind = 'user'")
    found = await audit(db, NOW)
    assert len(found.problems) == SHOWN + 1
    assert "more" in found.problems[-1]


async def test_an_audit_sees_one_moment_while_others_write(filled: Database) -> None:
    """What is recorded meanwhile does not look wrong."""
    is_over = False

    async def write() -> int:
        n = 0
        while not is_over:
            n += 1
            async with filled.write() as conn:
                grant = move(Code.GRANT, 5, ISSUED, ALICE, f"more {n}")
                await journal.record(conn, [grant])
        return n

    writing = asyncio.create_task(write())
    found = [await audit(filled, NOW) for _ in range(5)]
    is_over = True
    assert await writing > 0
    assert [each.problems for each in found] == [()] * 5
