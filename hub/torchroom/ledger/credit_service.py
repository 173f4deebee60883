"""Reads the wallets of a hub on which jupyterhub-credit-service is installed.

The tables are those of its version 0.4.2 (`orm.py`): credits_project, credits_user,
credits_user_values. They are in that hub's own database, and are only read.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from torchroom.ledger.errors import BadInput, NotFound, Unavailable
from torchroom.ledger.model import Kind


def _table(name: str, *columns: str) -> sa.TableClause:
    """Return one of the two tables of wallets."""
    both = ("name", "balance", "cap", "grant_value", "grant_interval")
    options = sa.column("user_options", sa.JSON)
    return sa.table(name, *(sa.column(each) for each in (*both, *columns)), options)


_PROJECTS = _table("credits_project", "display_name")
_VALUES = _table("credits_user_values", "id", "user_name", "project_name")
_USERS = sa.table(
    "credits_user", sa.column("name"), sa.column("spawner_bills", sa.JSON)
)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet as jupyterhub-credit-service keeps it.

    Attributes:
        kind: USER, or COURSE for a project's.
        owner: The user or the project.
        name: Of the wallet; a project's has the title here.
        project: What a user's wallet is tied to, "" for nothing.
        credits: What is in it.
        cap: The most it is refilled to.
        grant_value: Credits that it got,
        grant_interval: and every how many seconds.
        is_limited: It paid only for servers with certain options.
    """

    kind: Kind
    owner: str
    name: str
    project: str = ""
    credits: int = 0
    cap: int = 0
    grant_value: int = 0
    grant_interval: int = 0
    is_limited: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was read.

    Attributes:
        wallets: See Wallet; projects first.
        n_bills: Users with servers that were not billed to their end.
    """

    wallets: tuple[Wallet, ...]
    n_bills: int = 0


async def read_wallets(url: str) -> Found:
    """Return all wallets of a hub's database, which is opened to be read only.

    Raises:
        BadInput: The URL is not one of SQLite or PostgreSQL.
        NotFound: The database has no such wallets.
        Unavailable: The database does not answer.
    """
    return await asyncio.to_thread(_read, url)


def _read(url: str) -> Found:
    engine = _engine(url)
    try:
        with engine.connect() as conn:
            names = set(sa.inspect(conn).get_table_names())
            if missing := {"credits_project", "credits_user_values"} - names:
                raise NotFound(
                    "This database has no wallets of jupyterhub-credit-service: "
                    f"the table {min(missing)} is missing. Give the URL of the "
                    "database of the hub on which it is installed."
                )
            projects = conn.execute(sa.select(_PROJECTS).order_by("name")).all()
            values = conn.execute(
                sa.select(_VALUES).order_by("user_name", "name", "id")
            ).all()
            bills = conn.execute(sa.select(_USERS.c.spawner_bills)).scalars()
            return Found(
                tuple(
                    [_wallet(row._mapping) for row in projects]
                    + [_wallet(row._mapping) for row in values]
                ),
                n_bills=sum(1 for bill in bills if bill),
            )
    except SQLAlchemyError as error:
        raise Unavailable(
            "The database of the other hub cannot be read: "
            f"{str(getattr(error, 'orig', None) or error).splitlines()[0]}."
        ) from error
    finally:
        engine.dispose()


def _engine(url: str) -> sa.Engine:
    """Return an engine that cannot write, whatever it is asked to."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise BadInput(
            "This is not the URL of a database. Write sqlite:///path of its file, or "
            "postgresql://user:password@host/name."
        ) from error
    match parsed.get_backend_name():
        case "sqlite":
            path = Path(parsed.database or "")
            if not path.is_file():
                raise NotFound(f"There is no file {path}.")
            return sa.create_engine(
                f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true"
            )
        case "postgresql":
            return sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                isolation_level="REPEATABLE READ",
                connect_args={"options": "-c default_transaction_read_only=on"},
            )
        case other:
            raise BadInput(
                f"A database of {other} cannot be read. Copy its three tables named "
                "credits_... into an SQLite file first."
            )


def _wallet(row: Mapping[Any, Any]) -> Wallet:
    """Return a row of either table; what is NULL there counts as nothing."""
    is_user = "user_name" in row
    owner = row["user_name"] if is_user else row["name"]
    name = row["name"] if is_user else row["display_name"] or row["name"]
    return Wallet(
        kind=Kind.USER if is_user else Kind.COURSE,
        owner=str(owner),
        name=str(name or ""),
        project=str(row.get("project_name") or ""),
        credits=_whole(row["balance"]),
        cap=_whole(row["cap"]),
        grant_value=_whole(row["grant_value"]),
        grant_interval=_whole(row["grant_interval"]),
        is_limited=bool(row["user_options"]),
    )


def _whole(value: object) -> int:
    """Return a column of whole numbers; SQLite would let anything into it."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def remarks(found: Found) -> tuple[str, ...]:
    """Return a sentence for everything that has no place in the ledger."""
    said: list[str] = []
    refills = Counter(
        (w.kind, w.name, w.cap, w.grant_value, w.grant_interval)
        for w in found.wallets
        if w.grant_value > 0
    )
    for (kind, name, cap, value, interval_s), n in refills.items():
        whose = f"project {name!r}" if kind is Kind.COURSE else f"wallet {name!r}"
        said.append(
            f"The {whose} ({n}x) got {value} credits every {interval_s} seconds up to "
            f"{cap}: this is not carried over. Give the course an allowance instead."
        )
    limited = Counter(w.name for w in found.wallets if w.is_limited)
    said += [
        f"The wallet {name!r} ({n}x) paid only for servers with certain options: "
        "its tokens pay for any server now."
        for name, n in limited.items()
    ]
    if found.n_bills:
        said.append(
            f"{found.n_bills} users have servers that the credit service bills: what "
            "they used since their last bill is not charged."
        )
    return tuple(said)
