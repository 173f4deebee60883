"""Carries the wallets of jupyterhub-credit-service over into the ledger.

A user's wallet becomes a grant; one tied to a project is earmarked for the course of
that name. A project's wallet becomes the course's budget.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger import journal
from torchroom.ledger.amounts import check_amount
from torchroom.ledger.credit_service import Found, Wallet, remarks
from torchroom.ledger.database import Database, micros
from torchroom.ledger.errors import BadInput
from torchroom.ledger.keys import own_key, request_of
from torchroom.ledger.model import ISSUED, Code, Kind, Transaction
from torchroom.ledger.names import check_name
from torchroom.ledger.posting import transfer, wallet_of_course, wallet_of_user
from torchroom.ledger.tables import courses, transactions

N_PER_WRITE = 500
SOURCE = "credit-service"


@dataclass(frozen=True, slots=True)
class Line:
    """What becomes of one wallet.

    Attributes:
        wallet: Which.
        microtokens: What it is worth.
        key: Idempotency key, "" if it is not carried over.
        problem: A sentence why it is not carried over, or "".
        is_done: It was carried over before, so nothing is changed.
    """

    wallet: Wallet
    microtokens: int
    key: str = ""
    problem: str = ""
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was, or with a dry run would be, carried over.

    Attributes:
        lines: One per wallet.
        remarks: Sentences about what has no place in the ledger.
    """

    lines: tuple[Line, ...]
    remarks: tuple[str, ...]


# ------------------------------------------------------------------------ deciding


def decide(wallets: Iterable[Wallet], per_credit: int, source: str) -> list[Line]:
    """Return what becomes of each wallet, one line each, in their order.

    Args:
        wallets: As read.
        per_credit: Microtokens that one credit is worth, at least 1.
        source: Names the other hub, so that two hubs can be carried over.
    """
    lines: list[Line] = []
    keys: set[str] = set()
    for wallet in wallets:
        line = _line(wallet, per_credit, source)
        if line.key and line.key in keys:
            problem = "There are two wallets of this name; join them first."
            line = Line(wallet, line.microtokens, problem=problem)
        keys.add(line.key)
        lines.append(line)
    return lines


def _line(wallet: Wallet, per_credit: int, source: str) -> Line:
    amount = wallet.credits * per_credit
    try:
        check_name(wallet.owner, "The name")
        if wallet.project:
            check_name(wallet.project, "The project's name")
        if wallet.credits == 0:
            return Line(wallet, 0)
        check_amount(amount)
    except BadInput as error:
        return Line(wallet, amount, problem=str(error))
    # The name is what identifies a wallet: SQLite gives ids of deleted rows again.
    identity = "" if wallet.kind is Kind.COURSE else wallet.name
    return Line(
        wallet,
        amount,
        key=own_key("import", source, wallet.kind, wallet.owner, identity),
    )


# ------------------------------------------------------------------------- writing


async def carry_over(
    db: Database,
    found: Found,
    *,
    per_credit: int,
    source: str,
    actor: str,
    at: datetime,
    is_dry_run: bool,
) -> Outcome:
    """Carry every wallet over that was not before; again changes nothing.

    It may be broken off at any time and run again.

    Raises:
        BadInput: `per_credit` or `source` cannot be used.
    """
    check_amount(per_credit)
    if not (source.isascii() and source.isprintable() and 0 < len(source) <= 64):  # noqa: PLR2004
        raise BadInput("The source is a short word in plain letters.")
    lines: list[Line] = []
    decided = decide(found.wallets, per_credit, source)
    for first in range(0, len(decided), N_PER_WRITE):
        part = decided[first : first + N_PER_WRITE]
        if is_dry_run:
            async with db.read() as conn:
                lines += await _marked(conn, part)
        else:
            lines += await db.run(partial(_carry, part=part, actor=actor, at=at))
    return Outcome(tuple(lines), remarks(found))


async def _carry(
    conn: AsyncConnection, *, part: Sequence[Line], actor: str, at: datetime
) -> list[Line]:
    """Carry over what was not before; return how the lines stood."""
    marked = await _marked(conn, part)
    await _add_courses(conn, marked, at)
    new = [line for line in marked if line.key and not line.is_done]
    if new:
        await journal.record(conn, [_transaction(line, actor, at) for line in new])
    return marked


async def _marked(conn: AsyncConnection, part: Sequence[Line]) -> list[Line]:
    """Return the lines with those marked that were carried over before."""
    keys = [line.key for line in part if line.key]
    query = select(transactions.c.key).where(transactions.c.key.in_(keys))
    done = set((await conn.execute(query)).scalars())
    return [
        Line(line.wallet, line.microtokens, line.key, is_done=line.key in done)
        if line.key
        else line
        for line in part
    ]


def _transaction(line: Line, actor: str, at: datetime) -> Transaction:
    wallet = line.wallet
    return transfer(
        Code.IMPORT,
        line.microtokens,
        source=ISSUED,
        target=wallet_of_course(wallet.owner)
        if wallet.kind is Kind.COURSE
        else wallet_of_user(wallet.owner, course=wallet.project),
        key=line.key,
        at=at,
        request=request_of(wallet.credits, line.microtokens),
        actor=actor,
        note=f"{wallet.credits} credits of jupyterhub-credit-service.",
    )


async def _add_courses(
    conn: AsyncConnection, lines: Sequence[Line], at: datetime
) -> None:
    """Add a course for each project that has none of its name yet."""
    titles = {
        line.wallet.owner: _title(line.wallet)
        for line in lines
        if line.wallet.kind is Kind.COURSE and not line.problem
    }
    rows = [
        {"name": name, "title": title, "student_cap": None, "created_at": micros(at)}
        for name, title in titles.items()
    ]
    if rows:
        dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
        await conn.execute(dialect.insert(courses).on_conflict_do_nothing(), rows)


def _title(wallet: Wallet) -> str:
    """Return a project's title, or its name if the ledger cannot have the title."""
    try:
        return check_name(wallet.name, "A title")
    except BadInput:
        return wallet.owner
