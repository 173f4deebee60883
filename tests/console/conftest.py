"""A real hub, and real consoles on both databases, for all tests of this folder."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
from testbed.bare_hub import BareHub, bare_hub
from testbed.console import ConsoleProcess, Ledgers, console_process
from testbed.postgres import Postgres

BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareHub]:
    """A running hub with users, courses and roles."""
    with bare_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session", params=BOTH)
def ledgers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Ledgers:
    """Makes addresses of empty databases, of one kind after the other."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return server.database
    folder = tmp_path_factory.mktemp("ledgers")
    return lambda: nullcontext(f"sqlite:///{folder / uuid4().hex}.sqlite")


@pytest.fixture(scope="session")
def console(
    ledgers: Ledgers, hub: BareHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    """A running console that tests share."""
    with (
        ledgers() as url,
        console_process(hub, tmp_path_factory.mktemp("console"), url) as made,
    ):
        yield made


@pytest.fixture
def fresh_console(
    ledgers: Ledgers, hub: BareHub, tmp_path: Path
) -> Iterator[ConsoleProcess]:
    """A running console of the test's own, with an empty ledger."""
    with ledgers() as url, console_process(hub, tmp_path, url) as made:
        yield made


@pytest.fixture
def own_console(hub: BareHub, tmp_path: Path) -> Iterator[ConsoleProcess]:
    """A console of the test's own, on a SQLite file; not started yet."""
    made = ConsoleProcess(hub, tmp_path, f"sqlite:///{tmp_path / 'l.sqlite'}")
    yield made
    if made.process is not None:
        made.end()


@pytest.fixture(scope="session")
def numbers() -> "count[int]":
    """Numbers, each once in a run."""
    return count(1)


@pytest.fixture
def student(hub: BareHub, numbers: "count[int]") -> Callable[..., str]:
    """Makes users of the test's own, in these groups; returns the name."""
    return lambda *groups: hub.add(f"student-{next(numbers)}", *groups)
