"""PostgreSQL that does not answer is given up; what needs long gets long."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from ledger.conftest import Ledgers
from sqlalchemy import text
from torchroom.ledger import connections
from torchroom.ledger.audit import audit
from torchroom.ledger.connections import take_long
from torchroom.ledger.database import EPOCH, Database
from torchroom.ledger.errors import Unavailable

pytestmark = pytest.mark.postgres
WITHIN_S = 60
SHOW = text("SHOW statement_timeout")


@pytest.fixture
async def db(postgres_ledgers: Ledgers) -> AsyncIterator[Database]:
    with postgres_ledgers() as url:
        made = Database.open(url)
        yield made
        await made.close()


async def test_a_statement_has_a_minute_and_one_of_an_audit_an_hour(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hour ends with the transaction, although the connection is kept."""
    for _ in range(2):
        async with db.read() as conn:
            assert await conn.scalar(SHOW) == "1min"
            driver = (await conn.get_raw_connection()).driver_connection
            assert driver is not None
            assert driver.statement_s == connections.STATEMENT_S
        async with db.read() as conn:
            await take_long(conn)
            assert await conn.scalar(SHOW) == "1h"
            assert driver.statement_s == connections.LONG_S
    monkeypatch.setattr(connections, "GRACE_S", -connections.STATEMENT_S)
    with pytest.raises(Unavailable):  # no time at all
        async with db.read() as conn:
            await conn.scalar(SHOW)


async def test_a_statement_that_takes_too_long_is_ended(
    postgres_ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By PostgreSQL, and the connection is good for the next one."""
    monkeypatch.setattr(connections, "STATEMENT_S", 1)
    with postgres_ledgers() as url:
        db = Database.open(url)
        with pytest.raises(Unavailable, match="safe to try again"):
            async with asyncio.timeout(WITHIN_S), db.write() as conn:
                await conn.execute(text("SELECT pg_sleep(3600)"))
        assert not (await audit(db, EPOCH.replace(year=2026))).problems
        await db.close()


async def test_a_server_that_says_nothing_is_given_up(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped, its kernel goes on; the next connection is a new one."""
    stopped = []

    async def ask_a_stopped_server() -> None:
        async with asyncio.timeout(WITHIN_S), db.read() as conn:
            stopped.append(await conn.scalar(text("SELECT pg_backend_pid()")) or 0)
            os.kill(stopped[0], signal.SIGSTOP)
            monkeypatch.setattr(connections, "GRACE_S", 0.1 - connections.STATEMENT_S)
            await conn.execute(text("SELECT 1"))

    try:
        with pytest.raises(Unavailable, match="safe to try again"):
            await ask_a_stopped_server()
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    assert stopped
    monkeypatch.undo()
    async with db.read() as conn:
        assert await conn.scalar(text("SELECT pg_backend_pid()")) not in stopped
