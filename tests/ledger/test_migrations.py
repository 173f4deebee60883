"""The migrations make exactly the tables that the code uses, whoever runs them."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext
from ledger.lab import ANA, Lab, at, used
from sqlalchemy import Engine, create_engine, event, func, inspect, select, text
from testbed.postgres import Postgres
from torchroom.ledger import migrations
from torchroom.ledger.connections import address_of, open_blocking
from torchroom.ledger.database import migrate
from torchroom.ledger.errors import Unavailable
from torchroom.ledger.model import MICRO
from torchroom.ledger.service import open_ledger
from torchroom.ledger.tables import (
    APPEND_ONLY,
    accounts,
    holds,
    metadata,
    postings,
    prices,
    transactions,
)

Empty = Callable[[], str]


@pytest.fixture
def sqlite_empty(tmp_path: Path) -> Empty:
    number = itertools.count()
    return lambda: f"sqlite:///{tmp_path}/{next(number)}.sqlite"


@pytest.fixture
def postgres_empty(postgres: Postgres, request: pytest.FixtureRequest) -> Empty:
    def make() -> str:
        made = postgres.database()
        url = made.__enter__()
        request.addfinalizer(lambda: made.__exit__(None, None, None))
        return url

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty(request: pytest.FixtureRequest) -> Empty:
    """Makes databases without any table."""
    made: Empty = request.getfixturevalue(f"{request.param}_empty")
    return made


def engine_of(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def shape_of(url: str) -> dict[str, Any]:
    """Return what a database says of its tables."""
    engine = engine_of(url)
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        asked = inspect(connection)
        for table in sorted(set(asked.get_table_names()) - {"alembic_version"}):
            found[table] = {
                "columns": [
                    {key: repr(value) for key, value in column.items()}
                    for column in asked.get_columns(table)
                ],
                "key": asked.get_pk_constraint(table),
                "foreign": by_name(asked.get_foreign_keys(table)),
                "unique": by_name(asked.get_unique_constraints(table)),
                "checks": by_name(asked.get_check_constraints(table)),
                "indexes": [
                    as_text(each) for each in by_name(asked.get_indexes(table))
                ],
            }
    engine.dispose()
    return found


def as_text(index: Any) -> dict[str, str]:
    options = index.get("dialect_options", {})
    told = {name: str(value) for name, value in options.items()}
    return {name: str(value) for name, value in index.items()} | {
        "dialect_options": str(told)
    }


def by_name(found: list[Any]) -> list[Any]:
    return sorted(found, key=lambda each: str(each["name"]))


def test_the_migrations_make_the_tables_of_the_code(empty: Empty) -> None:
    """Columns, keys, indexes and checks are the same, by two ways of looking."""
    migrated, made = empty(), empty()
    migrate(migrated)
    engine = engine_of(made)
    metadata.create_all(engine)
    engine.dispose()
    assert shape_of(migrated) == shape_of(made)
    engine = engine_of(migrated)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_what_is_recorded_has_its_guards(empty: Empty) -> None:
    """Every append-only table refuses both, on both databases."""
    url = empty()
    migrate(url)
    queries = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT pg_get_triggerdef(oid) FROM pg_trigger "
        "WHERE NOT tgisinternal",
    }
    engine = engine_of(url)
    with engine.connect() as connection:
        rows = connection.scalars(text(queries[engine.dialect.name])).all()
    engine.dispose()
    told = " ".join(rows)
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            assert re.search(rf"BEFORE [A-Z ]*{change}[A-Z ]* ON \S*{table.name}", told)


def test_a_second_migration_changes_nothing(empty: Empty) -> None:
    """It is run at every start."""
    url = empty()
    migrate(url)
    before = shape_of(url)
    migrate(url)
    assert shape_of(url) == before


def test_several_processes_can_migrate_at_once(empty: Empty) -> None:
    """The hub, the console and an admin's command start together."""
    url = empty()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(migrate, [url] * 6)) == [None] * 6
    assert "postings" in shape_of(url)


@pytest.fixture
def broken() -> Iterator[None]:
    """Every database breaks off in the middle of the first migration."""

    def fail(*call: Any) -> None:
        if "CREATE TABLE holds" in call[2]:
            raise OSError("the cable was pulled")

    event.listen(Engine, "before_cursor_execute", fail)
    yield
    event.remove(Engine, "before_cursor_execute", fail)


def test_a_migration_that_breaks_off_leaves_nothing(
    empty: Empty, request: pytest.FixtureRequest
) -> None:
    """The next one begins where this one did."""
    url = empty()
    request.getfixturevalue("broken")
    with pytest.raises(Unavailable):
        migrate(url)
    assert shape_of(url) == {}


def test_a_ledger_of_a_later_version_is_left_alone(empty: Empty) -> None:
    """An older Torchroom says so, and changes nothing."""
    url = empty()
    migrate(url)
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    before = shape_of(url)
    with pytest.raises(Unavailable, match="another version"):
        migrate(url)
    assert shape_of(url) == before


def leave_a_first_version(url: str) -> None:
    """Make the tables of version 0001, with what r0001.sql says in them."""
    engine = open_blocking(address_of(url))
    rows = Path(__file__).with_name("r0001.sql").read_text()
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        upgrade(config, "0001")
        for statement in rows.split(";\n"):
            connection.exec_driver_sql(statement)
        if connection.dialect.name == "postgresql":
            for table in (accounts, transactions, postings, holds, prices):
                last = select(func.max(table.c.id)).scalar_subquery()
                connection.execute(select(func.setval(f"{table.name}_id_seq", last)))
    engine.dispose()


async def test_a_ledger_of_the_first_version_goes_on(empty: Empty) -> None:
    """What it has adds up, keys are known, and what runs is charged exactly."""
    url = empty()
    await asyncio.to_thread(leave_a_first_version, url)
    ledger = await asyncio.to_thread(open_ledger, url)
    async with ledger:
        assert (await ledger.audit(at(1400))).problems == ()
        again = await ledger.courses.hand_out(
            "physics", ANA, 10 * MICRO, key="w1", actor="ivy", at=at(1400)
        )
        assert not again.is_new
        await ledger.leases.end("ls_2", used(1630), now=at(1700))
        lab = Lab(ledger.db)
        assert await lab.charged("ls_2") == (630 * MICRO, 630)
        assert await lab.has() == 240 * MICRO
        charge = partial(
            ledger.fees.charge, ANA, "physics", MICRO, key="e1", actor=ANA, why="More."
        )
        assert (await charge(at=at(1700))).is_new
        assert not (await charge(at=at(1701))).is_new
        assert await lab.has() == 239 * MICRO
        assert (await ledger.audit(at(1800))).problems == ()
