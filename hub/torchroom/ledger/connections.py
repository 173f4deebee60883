"""Addresses of ledgers, and how the connections to one are set up."""

import asyncio
from typing import Any, TypeVar

import aiosqlite
import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from torchroom.ledger.errors import BadInput

WAIT_S = 30
"""How long a lock, a free connection or an answer is waited for."""
CONNECT_S = 10
FROZEN_S = 120
"""PostgreSQL ends a transaction that did nothing for so long: its process is stuck."""
STATEMENT_S = 60
"""PostgreSQL ends a statement that takes so long, unless `take_long` was called."""
LONG_S = 3600
GRACE_S = 15
"""A server that says nothing so long after it should have is given up."""
N_READERS = 5
N_WRITERS = 8  # PostgreSQL; SQLite has one

RV = TypeVar("RV")


def address_of(url: str) -> URL:
    """Return a checked address; the sentences never quote it, it may hold a password.

    Raises:
        BadInput: Not a SQLite file and not PostgreSQL.
    """
    wanted = "Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE."
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise BadInput(f"The ledger's address cannot be read. {wanted}") from error
    scheme = address.drivername.partition("+")[0]
    if scheme == "sqlite":
        if address.database in {None, "", ":memory:"} or address.query:
            raise BadInput(f"A SQLite ledger needs a file of its own. {wanted}")
        return address.set(drivername="sqlite+pysqlite")
    if scheme in {"postgresql", "postgres"}:
        return address.set(drivername="postgresql+psycopg")
    raise BadInput(f"The ledger cannot use {scheme[:20]!a} databases. {wanted}")


def open_engines(address: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """Return an engine that writes and one that can only read; does no I/O."""
    if address.get_backend_name() == "sqlite":
        return _sqlite(address, 1, is_reader=False), _sqlite(
            address, N_READERS, is_reader=True
        )
    return (
        _postgres(address, N_WRITERS, isolation="read committed", is_reader=False),
        _postgres(address, N_READERS, isolation="repeatable read", is_reader=True),
    )


def open_blocking(address: URL) -> Engine:
    """Return an engine that writes, for a migration; does no I/O."""
    if address.get_backend_name() == "sqlite":
        engine = create_engine(address, connect_args={"timeout": WAIT_S})
        _prepare(engine, is_reader=False)
        return engine
    return create_engine(address, connect_args={"connect_timeout": CONNECT_S})


async def take_long(conn: AsyncConnection) -> None:
    """Give each statement of this transaction LONG_S; call it first in it."""
    if conn.dialect.name == "sqlite":
        return
    await conn.execute(text(f"SET LOCAL statement_timeout = '{LONG_S}s'"))
    driver = (await conn.get_raw_connection()).driver_connection
    assert isinstance(driver, _Answering)  # noqa: S101 - see `_postgres`
    driver.statement_s = LONG_S


class _Answering(psycopg.AsyncConnection[Any]):
    """A connection on which nothing waits for ever.

    PostgreSQL's own limits do not help where its process is stuck or the machine
    between is: the kernel there still answers for them.
    """

    statement_s: float = STATEMENT_S

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - as psycopg's
    ) -> RV:
        """Return what a step of the protocol comes to.

        Raises:
            OperationalError: The server says nothing; the connection is closed.
        """
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self.statement_s = STATEMENT_S  # of a new transaction
        try:
            async with asyncio.timeout(self.statement_s + GRACE_S):
                return await super().wait(gen, interval, timeout)
        except TimeoutError as error:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from error


def _sqlite(address: URL, size: int, *, is_reader: bool) -> AsyncEngine:
    """Return an engine of a file."""
    engine = create_async_engine(
        address.set(drivername="sqlite+aiosqlite"),
        pool_size=size,
        max_overflow=0,
        pool_timeout=WAIT_S,
        connect_args={"timeout": WAIT_S, "async_creator_fn": _open_file},
    )
    _prepare(engine.sync_engine, is_reader=is_reader)
    return engine


async def _open_file(path: str, **options: Any) -> aiosqlite.Connection:
    """Return a connection to a file.

    The thread of one that cannot be opened ends by itself and tells the event loop so.
    It is waited for: if the loop ended before, it would print a traceback.
    """
    connection = aiosqlite.connect(path, **options)
    thread = connection._thread  # nothing else says when it has ended
    thread.daemon = True  # as SQLAlchemy has it
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(thread.join)
        raise


def _prepare(engine: Engine, *, is_reader: bool) -> None:
    """Set what SQLite is told on each connection, and how transactions begin."""
    begin = "BEGIN" if is_reader else "BEGIN IMMEDIATE"
    pragmas = ["foreign_keys = ON", "synchronous = FULL"]
    # A reader leaves the file's mode alone, so that it can read what it cannot write.
    pragmas.append("query_only = ON" if is_reader else "journal_mode = WAL")

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        # Python's driver would begin transactions late and of the wrong kind.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _postgres(
    address: URL, size: int, *, isolation: str, is_reader: bool
) -> AsyncEngine:
    """Return an engine whose sessions have these defaults."""
    options = {
        "default_transaction_isolation": isolation.replace(" ", r"\ "),
        "default_transaction_read_only": "on" if is_reader else "off",
        "lock_timeout": f"{WAIT_S}s",
        "statement_timeout": f"{STATEMENT_S}s",
        "idle_in_transaction_session_timeout": f"{FROZEN_S}s",
        "timezone": "UTC",
    }
    return create_async_engine(
        address,
        pool_size=size,
        max_overflow=0,
        pool_timeout=WAIT_S,
        pool_pre_ping=True,  # the server may have been restarted
        connect_args={
            "async_creator_fn": _Answering.connect,
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": WAIT_S * 1000,
            "options": " ".join(
                f"-c {name}={value}" for name, value in options.items()
            ),
        },
    )
