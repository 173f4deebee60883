"""Transactions are all or nothing, whatever happens to who writes them."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.conftest import Ledgers
from sqlalchemy import Table, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from torchroom.ledger import journal
from torchroom.ledger.database import (
    TRIES,
    Database,
    micros,
    migrate,
    moment,
    next_ids,
)
from torchroom.ledger.errors import BadInput, Corrupt, Unavailable
from torchroom.ledger.failures import Conflict
from torchroom.ledger.journal import Balance
from torchroom.ledger.model import ISSUED, Account, Code, Kind, Transaction
from torchroom.ledger.posting import transfer, wallet_of_user
from torchroom.ledger.tables import (
    APPEND_ONLY,
    accounts,
    fees,
    hold_ends,
    holds,
    transactions,
    tries,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOB = wallet_of_user("alice"), wallet_of_user("bob")


def grant(key: str, to: Account = ALICE) -> Transaction:
    return transfer(Code.GRANT, 1, source=ISSUED, target=to, key=key, at=AT, request="")


async def n_transactions(db: Database) -> int:
    async with db.read() as conn:
        n = await conn.scalar(select(func.count()).select_from(transactions))
    return n or 0


# -------------------------------------------------------------------------------- times


@given(st.datetimes(datetime(1970, 1, 1, 0, 0, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_comes_back_exactly(at: datetime) -> None:
    """To the microsecond; and a later time is a larger number."""
    assert moment(micros(at)) == at
    assert micros(at) < micros(at + timedelta(microseconds=1)) if at.year < 9999 else at


def test_never_is_zero_and_zones_do_not_matter() -> None:
    """One moment is one number, and no time is no moment."""
    assert micros(None) == 0
    assert moment(0) is None
    east = timezone(timedelta(hours=5, minutes=45))
    assert micros(AT.astimezone(east)) == micros(AT)
    for odd in (datetime(2026, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)):  # noqa: DTZ001
        with pytest.raises(BadInput):
            micros(odd)


# ---------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file?mode=ro",
        "mysql://user:secret@host/db",
        "postgresql://user:secret@host:port/db",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """With what to write instead, and without quoting a password."""
    for use in (Database.open, migrate):
        with pytest.raises(BadInput, match="sqlite:///FILE") as refused:
            use(url)
        assert "secret" not in str(refused.value)


# ------------------------------------------------------------------------- transactions


async def test_an_error_undoes_everything(db: Database) -> None:
    """Nothing of a write transaction stays if anything in it fails."""

    async def fail(conn: AsyncConnection) -> None:
        await journal.record(conn, [grant("a")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await db.run(fail)
    assert await n_transactions(db) == 0


async def test_a_read_sees_one_moment(db: Database) -> None:
    """What is written meanwhile is not seen, and the writer does not wait."""
    async with db.read() as conn:
        query = select(func.count()).select_from(transactions)
        assert await conn.scalar(query) == 0
        async with db.write() as writer:
            await journal.record(writer, [grant("a")])
        assert await conn.scalar(query) == 0
    assert await n_transactions(db) == 1


async def test_a_read_cannot_write(db: Database) -> None:
    """Both databases refuse it."""
    with pytest.raises(Unavailable):
        async with db.read() as conn:
            await conn.execute(insert(tries).values(user="alice", at=1))
    async with db.write() as conn:  # and a writer still can
        await conn.execute(insert(tries).values(user="alice", at=1))


async def test_ids_are_given_once(db: Database) -> None:
    """Rising, as many as asked for, also none."""
    async with db.write() as conn:
        assert await next_ids(conn, tries, 0) == []
        first = await next_ids(conn, tries, 3)
        rows = [{"id": each, "user": "alice", "at": 1} for each in first]
        await conn.execute(insert(tries), rows)
    async with db.write() as conn:
        second = await next_ids(conn, tries, 2)
    assert sorted({*first, *second}) == [*first, *second]
    assert len({*first, *second}) == 5


@pytest.mark.parametrize("table", APPEND_ONLY, ids=lambda table: table.name)
async def test_the_database_refuses_to_change_what_is_recorded(
    db: Database, table: Table
) -> None:
    """Also for a program that is not this one."""
    async with db.write() as conn:
        [made, end] = await journal.record(conn, [grant("a"), grant("b")])
        hold = {"id": 1, "transaction_id": made.id, "lease_id": "ls_1"}
        await conn.execute(insert(holds).values(**hold, amount=5, expires_at=1))
        ended = {"hold_id": 1, "transaction_id": end.id, "how": "void"}
        await conn.execute(insert(hold_ends).values(**ended))
        fee = {"transaction_id": made.id, "what": "more time", "user": "alice"}
        await conn.execute(insert(fees).values(**fee, course="", amount=5, at=1))
    same: dict[Table, dict[str, object]] = {
        holds: {"amount": 6},
        hold_ends: {"how": "settle"},
        fees: {"amount": 6},
    }
    change: dict[str, object] = same.get(table, {"id": 99})
    for statement in (update(table).values(**change), delete(table)):
        with pytest.raises(Corrupt):
            async with db.write() as conn:
                await conn.execute(statement)


async def test_a_hold_ends_once(db: Database) -> None:
    """The database has no place for a second end."""
    async with db.write() as conn:
        made = await journal.record(conn, [grant(key) for key in "abc"])
        hold = {"id": 1, "transaction_id": made[0].id, "lease_id": "ls_1"}
        await conn.execute(insert(holds).values(**hold, amount=5, expires_at=1))
        ended = {"hold_id": 1, "transaction_id": made[1].id, "how": "void"}
        await conn.execute(insert(hold_ends).values(**ended))
    again = {"hold_id": 1, "transaction_id": made[2].id, "how": "settle"}
    with pytest.raises(Corrupt):
        async with db.write() as conn:
            await conn.execute(insert(hold_ends).values(**again))


async def test_a_balance_below_nothing_has_no_place(db: Database) -> None:
    """I3 for cached balances, also for a program that is not this one."""
    async with db.write() as conn:
        await journal.record(conn, [grant("a")])
    wrong = update(accounts).where(accounts.c.kind == "user").values(balance=-1)
    with pytest.raises(Corrupt):
        async with db.write() as conn:
            await conn.execute(wrong)


# ------------------------------------------------------------------ interrupted writers


async def test_a_writer_that_is_cancelled_at_any_moment_leaves_nothing(
    db: Database, url: str
) -> None:
    """Wherever it is cut off, it wrote all or nothing and holds no lock."""
    other = Database.open(url)  # as another process would

    async def work(number: int) -> None:
        two = [grant(f"a{number}"), grant(f"b{number}", BOB)]
        await db.run(lambda conn: journal.record(conn, two))

    n_cut = 0
    for steps in [*range(0, 60, 2), *range(60, 400, 20)]:
        task = asyncio.create_task(work(steps))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        n_cut += (await asyncio.gather(task, return_exceptions=True))[0] is not None
        async with asyncio.timeout(20), other.write() as conn:
            await journal.record(conn, [grant(f"after {steps}")])
        async with db.read() as conn:
            written = [
                await journal.find(conn, f"{word}{steps}") is not None for word in "ab"
            ]
        assert written in ([True, True], [False, False])
    assert n_cut > 5
    await other.close()


KILLED = """
import asyncio, os, signal, sys
from datetime import UTC, datetime
from sqlalchemy import event
from torchroom.ledger import journal
from torchroom.ledger.database import Database
from torchroom.ledger.model import ISSUED, Code
from torchroom.ledger.posting import transfer, wallet_of_user

left = int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    db = Database.open(sys.argv[1])
    many = [
        transfer(Code.GRANT, 1, source=ISSUED, target=wallet_of_user(f"u{n}"),
                 key=f"k{n}", at=datetime.now(UTC), request="")
        for n in range(50)
    ]
    async with db.write() as conn:
        event.listen(conn.sync_connection, "after_cursor_execute", count)
        await journal.record(conn, many)
        while left > 0:
            count()

asyncio.run(main())
"""


async def test_a_process_that_is_killed_leaves_nothing(db: Database, url: str) -> None:
    """Killed after any of its statements, before it commits."""
    for n_statements in (1, 4, 7, 9, 50):
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", KILLED, url, str(n_statements)],
            check=False,
            timeout=60,
        )
        assert killed.returncode == -signal.SIGKILL
        assert await n_transactions(db) == 0
    async with asyncio.timeout(20), db.write() as conn:
        await journal.record(conn, [grant("a")])
    assert await n_transactions(db) == 1


# ---------------------------------------------------------------- writers in the way


async def test_work_is_done_again_when_another_writer_was_in_the_way(
    db: Database,
) -> None:
    """From its beginning, and what the failed tries wrote is gone."""
    n_tries = 0

    async def work(conn: AsyncConnection) -> str:
        nonlocal n_tries
        n_tries += 1
        await journal.record(conn, [grant(f"try {n_tries}")])
        if n_tries < 3:
            raise Conflict("busy")
        return "done"

    assert await db.run(work) == "done"
    assert await n_transactions(db) == 1


async def test_work_is_not_tried_for_ever(db: Database) -> None:
    """A bounded number of times, then its user is told."""
    n_tries = 0

    async def work(conn: AsyncConnection) -> None:
        nonlocal n_tries
        n_tries += 1
        raise Conflict("The ledger is busy.")

    with pytest.raises(Unavailable, match="busy"):
        await db.run(work)
    assert n_tries == TRIES


@pytest.mark.postgres
async def test_a_deadlock_is_resolved_by_trying_again(
    postgres_ledgers: Ledgers,
) -> None:
    """Two that lock two accounts in opposite orders both end well."""
    with postgres_ledgers() as url:
        db = Database.open(url)
        async with db.write() as conn:
            await journal.record(conn, [grant("a"), grant("b", BOB)])
        both, n_begun = asyncio.Event(), 0

        async def lock(conn: AsyncConnection, *names: str) -> list[Balance]:
            nonlocal n_begun
            found = await journal.accounts_of(conn, Kind.USER, names[0], lock=True)
            n_begun += 1
            if n_begun == 2:
                both.set()
            await both.wait()
            return found + await journal.accounts_of(
                conn, Kind.USER, names[1], lock=True
            )

        found = await asyncio.gather(
            db.run(lambda conn: lock(conn, "alice", "bob")),
            db.run(lambda conn: lock(conn, "bob", "alice")),
        )
        assert [len(each) for each in found] == [2, 2]
        assert n_begun == 3
        await db.close()


# ----------------------------------------------------------------- databases that fail


async def refused(db: Database) -> None:
    """Both ways in say so in a sentence, in no driver's words."""
    for way in (db.read, db.write):
        with pytest.raises(Unavailable) as told:
            async with way() as conn:
                await conn.execute(select(accounts).limit(1))
        assert str(told.value).startswith("The token ledger cannot be reached")
    with pytest.raises(Unavailable):
        await db.run(lambda conn: journal.record(conn, [grant("a")]))
    await db.close()


async def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    """Also by the migration, which says what to do."""
    url = f"sqlite:///{tmp_path}/missing/ledger.sqlite"
    await refused(Database.open(url))
    with pytest.raises(Unavailable, match="Make its folder"):
        migrate(url)


async def test_a_file_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    """It would report to an event loop that has ended, with a traceback."""
    before = set(threading.enumerate())
    db = Database.open(f"sqlite:///{tmp_path}/missing/ledger.sqlite")
    for _ in range(50):
        with pytest.raises(Unavailable):
            await n_transactions(db)
        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert all(name.startswith("asyncio") for name in new)  # its pool stays
    await db.close()


async def test_a_file_without_tables_is_said(tmp_path: Path) -> None:
    """A ledger that was never migrated is not used."""
    await refused(Database.open(f"sqlite:///{tmp_path}/ledger.sqlite"))


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    """Neither used nor overwritten."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Unavailable):
        migrate(f"sqlite:///{path}")
    await refused(Database.open(f"sqlite:///{path}"))
    assert path.read_bytes() == b"not a database" * 1000


@pytest.mark.postgres
async def test_a_server_that_is_not_there_is_said(postgres_ledgers: Ledgers) -> None:
    """Nobody listens; or the server knows no such database; or it has no tables."""
    nobody = "postgresql://user:secret@127.0.0.1:1/ledger"
    await refused(Database.open(nobody))
    with pytest.raises(Unavailable) as told:
        migrate(nobody)
    assert "secret" not in str(told.value)
    with postgres_ledgers() as url:
        await refused(Database.open(url.replace("/test_", "/none_")))
        await refused(Database.open(re.sub("/test_[0-9]+", "/template1", url)))


@pytest.mark.postgres
async def test_connections_that_the_server_cut_are_replaced(
    postgres_ledgers: Ledgers,
) -> None:
    """A server that was restarted is found again."""
    with postgres_ledgers() as url:
        db = Database.open(url)
        assert await n_transactions(db) == 0
        other = Database.open(url)
        async with other.write() as conn:
            await conn.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert await n_transactions(db) == 0
        await db.close()
        await other.close()


async def test_a_sqlite_ledger_is_durable_and_its_owners(tmp_path: Path) -> None:
    """Written through to the disk, and nobody else on the machine reads it."""
    path = tmp_path / "ledger.sqlite"
    migrate(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    db = Database.open(f"sqlite:///{path}")
    async with db.write() as conn:
        found = {
            name: await conn.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        files = sorted(os.listdir(tmp_path))
        assert {stat.S_IMODE((tmp_path / each).stat().st_mode) for each in files} == {
            0o600
        }
    await db.close()
