"""Ledgers for the tests: every test that asks for one runs on both databases."""

import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from ledger.books import Books
from testbed.postgres import TEMPLATE, Postgres
from torchroom.ledger.database import Database, migrate

Ledgers = Callable[[], AbstractContextManager[str]]
"""Makes a ledger without any rows; its address is good until the `with` ends."""


@pytest.fixture(scope="session")
def postgres_ledgers(postgres: Postgres) -> Ledgers:
    """Makes ledgers in the run's PostgreSQL."""
    postgres.sql(f"CREATE DATABASE {TEMPLATE}")
    migrate(postgres.url(TEMPLATE))
    return lambda: postgres.database(TEMPLATE)


@pytest.fixture(scope="session")
def sqlite_ledgers(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """Makes ledgers that are SQLite files."""
    folder = tmp_path_factory.mktemp("ledgers")
    template = folder / "template.sqlite"
    migrate(f"sqlite:///{template}")
    number = itertools.count(1)

    @contextlib.contextmanager
    def make() -> Iterator[str]:
        path = folder / f"{next(number)}.sqlite"
        shutil.copy(template, path)
        yield f"sqlite:///{path}"
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            each.unlink(missing_ok=True)

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledgers(request: pytest.FixtureRequest) -> Ledgers:
    """Makes fresh ledgers, on one database after the other."""
    made: Ledgers = request.getfixturevalue(f"{request.param}_ledgers")
    return made


@pytest.fixture
def url(ledgers: Ledgers) -> Iterator[str]:
    """The address of a fresh ledger."""
    with ledgers() as address:
        yield address


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """A fresh ledger, open."""
    database = Database.open(url)
    yield database
    await database.close()


@pytest.fixture
async def books(db: Database) -> AsyncIterator[Books]:
    """What is in that ledger; in the end an audit must find nothing wrong."""
    ledger = Books(db)
    yield ledger
    await ledger.check()
