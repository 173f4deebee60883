"""The ledger's database, SQLite or PostgreSQL: connections, transactions, what fails.

A write transaction is all or nothing, also when its task is cancelled or its process
is killed. SQLite has one writer at a time, who queues inside the process for a
connection and between processes for the file's lock; PostgreSQL locks rows. A read sees
one moment, and can change nothing.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import Connection, Insert, Table, Update, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from torchroom.ledger.connections import (
    WAIT_S,
    address_of,
    open_blocking,
    open_engines,
)
from torchroom.ledger.errors import BadInput, Unavailable
from torchroom.ledger.failures import Conflict, in_sentences
from torchroom.ledger.tables import NEVER

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TRIES = 6
_MIGRATION_LOCK = 0x746F726368  # any number that only the ledger's migration uses
_MIGRATIONS = Path(__file__).parent / "migrations"


def micros(at: datetime | None) -> int:
    """Return a time as its column has it: exact, 0 for None.

    Raises:
        BadInput: Without a time zone, or not after 1970.
    """
    if at is None:
        return NEVER
    if at.tzinfo is None or at <= EPOCH:
        raise BadInput("A time has a time zone and is after 1970.")
    return (at - EPOCH) // _MICROSECOND


def moment(column: int) -> datetime | None:
    """Return the time of a column, aware UTC; None for 0."""
    return None if column == NEVER else EPOCH + column * _MICROSECOND


class Database:
    """Connections to one ledger. Nothing is opened before it is needed."""

    def __init__(self, writers: AsyncEngine, readers: AsyncEngine) -> None:
        self._writers = writers
        self._readers = readers
        self._under_way: set[asyncio.Task[Any]] = set()

    @classmethod
    def open(cls, url: str) -> "Database":
        """Return the ledger at sqlite:///path or postgresql://...; does no I/O.

        Raises:
            BadInput: Not such an address.
        """
        return cls(*open_engines(address_of(url)))

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One write transaction: committed at the end, undone by any error.

        Short: every other writer of a SQLite ledger waits for it. Its task must not be
        cancelled: a SQLite connection that is closed in the middle of a statement keeps
        the file's lock until Python has collected the statement. `run` sees to that.

        Raises:
            Unavailable: The database does not answer; it may be tried again.
            Conflict: The same, and trying again is all it takes.
            Corrupt: The database refused a row that breaks an invariant.
        """
        with in_sentences():
            async with self._writers.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view of everything, which later writes do not change.

        Raises:
            Unavailable: The database does not answer.
        """
        with in_sentences():
            async with self._readers.connect() as connection:
                yield connection

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` returns, done in one write transaction.

        It is done again from its beginning, a bounded number of times, when another
        writer was in the way: it must not keep anything from a try that failed. If the
        caller is cancelled it goes on to its end, whole or not at all.

        Raises:
            Unavailable, Corrupt: As `write`.
        """
        task = asyncio.create_task(self._run(work))
        self._under_way.add(task)
        task.add_done_callback(self._is_done)
        return await asyncio.shield(task)

    def _is_done(self, task: "asyncio.Task[Any]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left who asks for it

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        give_up_at = time.monotonic() + WAIT_S
        n_tries = 0
        while True:
            n_tries += 1
            try:
                async with self.write() as connection:
                    return await work(connection)
            except Conflict:
                if n_tries == TRIES or time.monotonic() > give_up_at:
                    raise
                # Apart from each other, so that the same two do not meet again.
                await asyncio.sleep(random.uniform(0, 0.02 * 2**n_tries))  # noqa: S311

    async def close(self) -> None:
        """Close every connection, when the writing under way is done."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._writers.dispose()
        await self._readers.dispose()


async def next_ids(conn: AsyncConnection, table: Table, n: int) -> list[int]:
    """Return n ids for new rows of a table, rising; nobody else gets them.

    Only for tables whose `id` is a number, inside a write transaction. SQLite: the rows
    must be inserted in the same transaction, before the next call.
    """
    if n == 0:
        return []
    if conn.dialect.name == "sqlite":
        # The write lock is held: nobody else can add a row meanwhile.
        last = await conn.scalar(select(func.coalesce(func.max(table.c.id), 0)))
        first = int(last or 0) + 1
        return list(range(first, first + n))
    sequence = f"{table.name}_id_seq"
    given = await conn.scalars(
        select(func.nextval(sequence)).select_from(func.generate_series(1, n))
    )
    return sorted(given)


async def execute_many(
    conn: AsyncConnection,
    statement: Insert | Update,
    rows: Sequence[Mapping[str, int | str]],
) -> None:
    """Run a statement for each row; for 10,000s of rows twice as fast as `execute`.

    Every row has the same names, which are those of the statement's parameters. Values
    go to the driver as they are.
    """
    if not rows:
        return
    compiled = statement.compile(dialect=conn.dialect, column_keys=list(rows[0]))
    values: list[Any] = list(rows)
    if compiled.positional:
        names = compiled.positiontup or []
        values = [tuple([row[name] for name in names]) for row in rows]
    await conn.exec_driver_sql(str(compiled), values)


def migrate(url: str) -> None:
    """Bring a ledger's tables to this version, making what is missing.

    Blocks. Safe when several processes do it at once. A SQLite file is made if it is
    not there, readable for its owner only.

    Raises:
        BadInput: Not an address of a ledger.
        Unavailable: The database cannot be reached, or is of a later version.
    """
    address = address_of(url)
    if address.get_backend_name() == "sqlite":
        _make_file(Path(address.database or ""))
    engine = open_blocking(address)
    try:
        with in_sentences(is_for_admin=True), engine.begin() as connection:
            if connection.dialect.name != "sqlite":  # there, BEGIN IMMEDIATE locks
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            _upgrade(connection)
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> None:
    """Run the migrations in the connection's transaction."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise Unavailable(
            "The ledger's database was made by another version of Torchroom: "
            f"{error}. Start the version that made it, or a later one."
        ) from error


def _make_file(path: Path) -> None:
    """Make an empty SQLite file for its owner only, unless it is there.

    Raises:
        Unavailable: The folder is missing or cannot be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise Unavailable(
            f"The ledger's file {path} cannot be made or written: {error.strerror}. "
            "Make its folder, writable for the hub's user."
        ) from error
