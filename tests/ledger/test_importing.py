"""Carrying over the wallets of jupyterhub-credit-service 0.4.2."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from testbed.postgres import Postgres
from torchroom.ledger.audit import audit
from torchroom.ledger.credit_service import Found, Wallet, read_wallets, remarks
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, LedgerError, NotFound
from torchroom.ledger.importing import Outcome, carry_over, decide
from torchroom.ledger.model import AMOUNT_MAX, Code, Kind
from torchroom.ledger.statements import Statements

AT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
TENTH = 100_000  # microtokens: a tenth of a token

# As orm.py of jupyterhub-credit-service 0.4.2 makes them.
THEIRS = sa.MetaData()
_BALANCES = {
    "balance": sa.Integer,
    "cap": sa.Integer,
    "grant_value": sa.Integer,
    "grant_interval": sa.Integer,
    "grant_last_update": sa.DateTime,
    "user_options": sa.JSON,
}
PROJECTS = sa.Table(
    "credits_project",
    THEIRS,
    sa.Column("name", sa.Unicode, primary_key=True),
    sa.Column("display_name", sa.Unicode),
    *[sa.Column(name, kind) for name, kind in _BALANCES.items()],
)
USERS = sa.Table(
    "credits_user",
    THEIRS,
    sa.Column("name", sa.Unicode, primary_key=True),
    sa.Column("spawner_bills", sa.JSON),
)
VALUES = sa.Table(
    "credits_user_values",
    THEIRS,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Unicode),
    *[sa.Column(name, kind) for name, kind in _BALANCES.items()],
    sa.Column("user_name", sa.ForeignKey("credits_user.name"), nullable=False),
    sa.Column("project_name", sa.ForeignKey("credits_project.name")),
)


@dataclass
class Theirs:
    """A hub's database with their tables."""

    url: str
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        driver = self.url.replace("postgresql://", "postgresql+psycopg://")
        self.engine = sa.create_engine(driver)
        THEIRS.create_all(self.engine)

    def project(self, name: str, balance: int | None, **more: Any) -> None:
        """Add a project with their defaults."""
        row = {"display_name": name, **_defaults(balance), **more}
        with self.engine.begin() as conn:
            conn.execute(sa.insert(PROJECTS), [{"name": name, **row}])

    def wallet(
        self, user: str, balance: Any, name: str = "default", **more: Any
    ) -> None:
        """Add a wallet of a user, and the user if needed."""
        with self.engine.begin() as conn:
            known = sa.select(USERS.c.name).where(USERS.c.name == user)
            if conn.scalar(known) is None:
                bills = {"7": "2026-03-01T00:00:00"} if user == "running" else {}
                row = {"name": user, "spawner_bills": bills}
                conn.execute(sa.insert(USERS), [row])
            values = {"name": name, "user_name": user, **_defaults(balance), **more}
            conn.execute(sa.insert(VALUES), [values])

    def dump(self) -> str:
        """Return all rows."""
        with self.engine.connect() as conn:
            tables = (PROJECTS, USERS, VALUES)
            return json.dumps(
                [[list(row) for row in conn.execute(sa.select(t))] for t in tables],
                default=str,
            )


def _defaults(balance: Any) -> dict[str, Any]:
    return {
        "balance": balance,
        "cap": 100,
        "grant_value": 5,
        "grant_interval": 300,
        "grant_last_update": datetime(2026, 3, 1),  # noqa: DTZ001 - as they do
        "user_options": None,
    }


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Theirs]:
    """Their database, empty."""
    if request.param == "sqlite":
        made = Theirs(f"sqlite:///{tmp_path / 'jupyter hub?#%41.sqlite'}")
        yield made
        made.engine.dispose()
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        made = Theirs(url)
        yield made
        made.engine.dispose()


async def carried(
    db: Database, theirs: Theirs, per_credit: int = TENTH, *, is_dry_run: bool = False
) -> Outcome:
    return await carry_over(
        db,
        await read_wallets(theirs.url),
        per_credit=per_credit,
        source="credit-service",
        actor="admin",
        at=AT,
        is_dry_run=is_dry_run,
    )


async def amounts(db: Database, user: str) -> dict[str, int]:
    view = await Statements(db).balance(user, AT)
    return {purse.course: purse.microtokens for purse in view.purses}


async def n_postings(db: Database) -> int:
    return len([row async for row in Statements(db).export()])


async def test_wallets_become_grants_and_projects_budgets(
    db: Database, theirs: Theirs
) -> None:
    """A wallet is a grant, with an earmark if it has a project; a project a budget."""
    theirs.project("cs101", 1000, display_name="Deep learning")
    theirs.wallet("alice", 30)
    theirs.wallet("bob", 7, project_name="cs101")
    theirs.wallet("bob", 20, name="extra")
    await carried(db, theirs)
    assert await amounts(db, "alice") == {"": 30 * TENTH}
    assert await amounts(db, "bob") == {"cs101": 7 * TENTH, "": 20 * TENTH}
    view = await Statements(db).balance("carol", AT, courses=["cs101"])
    assert [(share.title, share.microtokens) for share in view.shares] == [
        ("Deep learning", 1000 * TENTH)
    ]
    page = await Statements(db).history(Kind.USER, "alice")
    assert [(entry.code, entry.note) for entry in page.items] == [
        (Code.IMPORT, "30 credits of jupyterhub-credit-service.")
    ]


async def test_twice_changes_nothing(db: Database, theirs: Theirs) -> None:
    """What was carried over once stays as it is, also if it changed there since."""
    theirs.project("cs101", 1000)
    theirs.wallet("alice", 30)
    first = await carried(db, theirs)
    assert not any(line.is_done for line in first.lines)
    before = await n_postings(db)
    with theirs.engine.begin() as conn:
        conn.execute(sa.update(VALUES).values(balance=99))
    second = await carried(db, theirs, per_credit=7)
    assert all(line.is_done for line in second.lines)
    assert await n_postings(db) == before
    assert await amounts(db, "alice") == {"": 30 * TENTH}


async def test_a_broken_off_run_is_finished_by_the_next(
    db: Database, theirs: Theirs
) -> None:
    """Wallets that are new on the second run are carried over then, and only these."""
    theirs.wallet("alice", 30)
    await carried(db, theirs)
    theirs.wallet("bob", 5)
    outcome = await carried(db, theirs)
    assert [line.is_done for line in outcome.lines] == [True, False]
    assert await amounts(db, "bob") == {"": 5 * TENTH}


async def test_a_dry_run_changes_nothing_and_says_the_same(
    db: Database, theirs: Theirs
) -> None:
    """A dry run shows what a run would do, in both databases nothing is changed."""
    theirs.project("cs101", 1000)
    theirs.wallet("alice", 30)
    told = theirs.dump()
    dry = await carried(db, theirs, is_dry_run=True)
    assert await n_postings(db) == 0
    assert theirs.dump() == told
    assert await carried(db, theirs) == dry
    assert theirs.dump() == told


async def test_a_course_that_is_there_keeps_its_title(
    db: Database, theirs: Theirs
) -> None:
    """Two hubs with a project of one name fill one course; a title is not changed."""
    theirs.project("cs101", 10, display_name="One")
    await carried(db, theirs)
    found = await read_wallets(theirs.url)
    again = Found(
        tuple(Wallet(w.kind, w.owner, "Two", credits=5) for w in found.wallets)
    )
    await carry_over(
        db, again, per_credit=TENTH, source="other-hub", actor="admin", at=AT,
        is_dry_run=False,
    )  # fmt: skip
    view = await Statements(db).balance("alice", AT, courses=["cs101"])
    assert [(s.title, s.microtokens) for s in view.shares] == [("One", 15 * TENTH)]


@pytest.mark.parametrize(
    ("user", "balance"),
    [
        ("a/b", 1),
        (" alice", 1),
        ("x" * 256, 1),
        ("debtor", -5),
        ("rich", 2**31 - 1),
    ],
)
async def test_what_cannot_be_carried_over_is_told_and_the_rest_is_done(
    db: Database, theirs: Theirs, user: str, balance: int
) -> None:
    """A wallet that the ledger cannot have has a sentence; the others are done."""
    theirs.wallet("alice", 1)
    theirs.wallet(user, balance)
    per_credit = AMOUNT_MAX // 1000
    outcome = await carried(db, theirs, per_credit)
    problems = {line.wallet.owner: line.problem for line in outcome.lines}
    assert problems["alice"] == ""
    assert problems[user].endswith(".")
    assert await amounts(db, "alice") == {"": per_credit}


async def test_two_wallets_of_one_name_are_not_taken_for_one(
    db: Database, theirs: Theirs
) -> None:
    """Their table allows two wallets of a name; only one can be told by its name."""
    theirs.wallet("alice", 1)
    theirs.wallet("alice", 2)
    outcome = await carried(db, theirs)
    assert [bool(line.problem) for line in outcome.lines] == [False, True]


async def test_a_title_that_the_ledger_cannot_have_is_the_name(
    db: Database, theirs: Theirs
) -> None:
    """Their titles are free text; a course without a usable one has its name."""
    theirs.project("cs101", 5, display_name="Deep\nlearning " * 50)
    theirs.project("cs102", 0, display_name=None)
    await carried(db, theirs)
    view = await Statements(db).balance("alice", AT, courses=["cs101", "cs102"])
    assert [share.title for share in view.shares] == ["cs101", "cs102"]


async def test_empty_wallets_and_nulls_are_nothing(
    db: Database, theirs: Theirs
) -> None:
    """Their columns may be NULL; such a wallet is empty."""
    theirs.wallet("alice", 0)
    theirs.wallet("bob", None, grant_value=None, cap=None, grant_interval=None)
    outcome = await carried(db, theirs)
    assert [line.microtokens for line in outcome.lines] == [0, 0]
    assert await n_postings(db) == 0


async def test_what_has_no_place_is_told_in_sentences(theirs: Theirs) -> None:
    """Refills, limits to certain servers and open bills are named, once for many."""
    for n in range(3):
        theirs.wallet(f"user{n}", 1, name="gpu", user_options={"partition": "gpu"})
    theirs.wallet("running", 1, grant_value=0)
    told = remarks(await read_wallets(theirs.url))
    assert len(told) == 3
    assert "wallet 'gpu' (3x) got 5 credits every 300 seconds up to 100" in told[0]
    assert "certain options" in told[1]
    assert "1 users have servers" in told[2]


async def test_more_wallets_than_one_transaction_takes(
    db: Database, theirs: Theirs
) -> None:
    """A thousand wallets are carried over, each once."""
    with theirs.engine.begin() as conn:
        names = [f"user{n:04}" for n in range(1200)]
        conn.execute(sa.insert(USERS), [{"name": name} for name in names])
        rows = [
            {"name": "default", "user_name": name, **_defaults(3)} for name in names
        ]
        conn.execute(sa.insert(VALUES), rows)
    await carried(db, theirs)
    assert await n_postings(db) == 2 * 1200
    assert await amounts(db, "user1199") == {"": 3 * TENTH}


async def test_two_at_once_carry_each_wallet_over_once(
    url: str, theirs: Theirs
) -> None:
    """Whoever comes second finds it done, or tries again."""
    theirs.project("cs101", 10)
    for n in range(40):
        theirs.wallet(f"user{n}", 3, project_name="cs101")
    here, there = Database.open(url), Database.open(url)
    await asyncio.gather(carried(here, theirs), carried(there, theirs))
    assert await n_postings(here) == 2 * 41
    assert (await audit(here, AT)).problems == ()
    for db in (here, there):
        await db.close()


@pytest.mark.parametrize(
    ("url", "error", "word"),
    [
        ("mysql://x/y", BadInput, "mysql"),
        ("no url", BadInput, "not the URL"),
        ("sqlite:////nowhere/at/all.sqlite", NotFound, "There is no file"),
        ("sqlite://", NotFound, "There is no file"),
    ],
)
async def test_a_wrong_url_is_told_in_a_sentence(
    url: str, error: type[LedgerError], word: str
) -> None:
    """What is not a database of wallets is refused with what to do."""
    with pytest.raises(error, match=word):
        await read_wallets(url)


async def test_a_database_without_their_tables_is_told(tmp_path: Path) -> None:
    """A file that is a database of something else has no wallets."""
    path = tmp_path / "other.sqlite"
    with sa.create_engine(f"sqlite:///{path}").begin() as conn:
        conn.execute(sa.text("CREATE TABLE users (id INTEGER)"))
    with pytest.raises(NotFound, match="credits_project is missing"):
        await read_wallets(f"sqlite:///{path}")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """Any file at all gives a sentence, not a traceback."""
    path = tmp_path / "notes.txt"
    path.write_text("hello " * 100)
    with pytest.raises(LedgerError, match="not a database"):
        await read_wallets(f"sqlite:///{path}")


@pytest.mark.parametrize("source", ["", "a\nb", "é", "x" * 65])
async def test_the_source_is_a_short_word(db: Database, source: str) -> None:
    """It becomes a part of keys, so it must fit into one."""
    with pytest.raises(BadInput):
        await carry_over(
            db, Found(()), per_credit=1, source=source, actor="a", at=AT,
            is_dry_run=True,
        )  # fmt: skip


WALLETS = st.builds(
    Wallet,
    kind=st.sampled_from([Kind.USER, Kind.COURSE]),
    owner=st.sampled_from(["a", "b", "a:b", "é", "a b", "/"]),
    name=st.sampled_from(["a", "b", ":b", ""]),
    project=st.sampled_from(["", "a", "/"]),
    credits=st.integers(-(2**31), 2**31),
)


@given(st.lists(WALLETS, max_size=12), st.integers(1, AMOUNT_MAX))
def test_every_wallet_has_one_line_and_every_key_one_wallet(
    wallets: Sequence[Wallet], per_credit: int
) -> None:
    """Nothing is lost, doubled or rounded, whatever there is."""
    lines = decide(wallets, per_credit, "source")
    assert [line.wallet for line in lines] == list(wallets)
    keys = [line.key for line in lines if line.key]
    assert len(keys) == len(set(keys))
    for line in lines:
        assert line.microtokens == line.wallet.credits * per_credit
        assert not (line.key and line.problem)
        if line.key:
            assert 0 < line.microtokens <= AMOUNT_MAX
