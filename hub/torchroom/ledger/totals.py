"""What is in the ledger as a whole, at one moment. It never writes."""

from dataclasses import dataclass

from sqlalchemy import func, select

from torchroom.ledger.database import Database
from torchroom.ledger.model import Kind
from torchroom.ledger.tables import NEVER, accounts, leases


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of balances, in microtokens; users + courses + held + revenue == issued.

    Attributes:
        issued: Given out and not taken back.
        users: What users have and is not held.
        courses: What courses have and is not held.
        held: Reserved for leases.
        revenue: What leases were charged, and fees.
        n_open_holds: Holds that nothing has resolved yet.
        n_open_leases: Leases that go on.
    """

    issued: int
    users: int
    courses: int
    held: int
    revenue: int
    n_open_holds: int
    n_open_leases: int


async def read_totals(db: Database) -> Totals:
    """Return the sums of the cached balances.

    Raises:
        Unavailable: The database does not answer.
    """
    sums = select(accounts.c.kind, func.sum(accounts.c.balance)).group_by(
        accounts.c.kind
    )
    is_open = leases.c.closed_at == NEVER
    open_holds = select(func.count()).where(is_open, leases.c.hold_id.is_not(None))
    open_leases = select(func.count()).where(is_open)
    async with db.read() as conn:
        balances = {kind: int(total) for kind, total in await conn.execute(sums)}
        n_holds = await conn.scalar(open_holds)
        n_leases = await conn.scalar(open_leases)
    return Totals(
        issued=-balances.get(Kind.ISSUED, 0),
        users=balances.get(Kind.USER, 0),
        courses=balances.get(Kind.COURSE, 0),
        held=balances.get(Kind.HOLDS, 0),
        revenue=balances.get(Kind.REVENUE, 0),
        n_open_holds=int(n_holds or 0),
        n_open_leases=int(n_leases or 0),
    )
