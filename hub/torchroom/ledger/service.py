"""Every use-case of the ledger behind one object, for the hub, the console and the CLI.

It owns nothing but the connections: what a use-case promises stands in its own file.
"""

from datetime import datetime
from typing import Self

from sqlalchemy import select

from torchroom.ledger import audit
from torchroom.ledger.allowances import Allowances
from torchroom.ledger.audit import Audit
from torchroom.ledger.courses import Courses
from torchroom.ledger.database import Database, migrate
from torchroom.ledger.expiry import Expiry
from torchroom.ledger.fees import Fees
from torchroom.ledger.grants import Grants
from torchroom.ledger.leases import Leases
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import Prices
from torchroom.ledger.statements import Statements
from torchroom.ledger.topups import TopUps
from torchroom.ledger.totals import Totals, read_totals
from torchroom.ledger.vouchers import Vouchers


class Ledger:
    """The use-cases of one database; safe beside those of other processes.

    Args:
        db: Its tables are those of this version; see `migrate`.
        policy: What this site decides.
        topup_secret: Shared with who sends top-ups; "": none are taken.
    """

    def __init__(self, db: Database, policy: Policy, topup_secret: str = "") -> None:
        self.db = db
        self.policy = policy
        self.prices = Prices(db)
        self.leases = Leases(db, policy)
        self.grants = Grants(db)
        self.courses = Courses(db)
        self.allowances = Allowances(db)
        self.vouchers = Vouchers(db)
        self.fees = Fees(db)
        self.topups = TopUps(db, topup_secret)
        self.expiry = Expiry(db)
        self.statements = Statements(db)

    async def audit(self, now: datetime) -> Audit:
        """Return what an audit of everything finds now; it is kept for `last_audit`."""
        return await audit.audit(self.db, now)

    async def last_audit(self) -> Audit | None:
        """Return what the last audit found, None if there was none."""
        return await audit.last(self.db)

    async def totals(self) -> Totals:
        """Return what is in the ledger as a whole."""
        return await read_totals(self.db)

    async def check(self) -> None:
        """Return only if the database answers.

        Raises:
            Unavailable: It does not.
        """
        async with self.db.read() as conn:
            await conn.execute(select(1))

    async def close(self) -> None:
        """Close the connections."""
        await self.db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def open_ledger(
    url: str, *, policy: Policy | None = None, topup_secret: str = ""
) -> Ledger:
    """Return the ledger at this address, brought to this version's tables. Blocks.

    Args:
        url: sqlite:///path or postgresql://...
        policy: The defaults if None.
        topup_secret: See Ledger.

    Raises:
        BadInput: Not such an address.
        Unavailable: The database does not answer, or is of a later version.
    """
    migrate(url)
    return Ledger(Database.open(url), policy or Policy(), topup_secret)
