"""The worked example of the ledger's README is what the ledger does."""

from pathlib import Path

from ledger.lab import ANA, HOUR, Lab, at, used
from sqlalchemy import select
from torchroom.ledger.accounts import account_of
from torchroom.ledger.amounts import text_of
from torchroom.ledger.database import Database
from torchroom.ledger.model import MICRO, Account, Kind
from torchroom.ledger.tables import accounts, postings, transactions

README = Path(__file__).parents[2] / "hub" / "torchroom" / "ledger" / "README.md"


def shown(account: Account) -> str:
    if account.kind is Kind.COURSE:
        return f"course {account.name}"
    return account.name or account.kind.upper()


async def test_the_worked_example_is_what_happens(db: Database) -> None:
    """Every posting of it, with the balance it leaves, on both databases."""
    lab = await Lab(db).set_up({"A100": HOUR // 300})  # 12 tokens an hour
    await lab.give(5 * MICRO, ANA)
    await lab.endow("cs101", 100 * MICRO, student_cap=MICRO * 3 // 2)
    await lab.hold("ls_1", "A100", course="cs101")
    await lab.leases.ready("ls_1", at(60))
    await lab.leases.settle({"ls_1": at(60 + 400)})
    await lab.end("ls_1", used(60 + 630))
    query = (
        select(transactions.c.code, postings.c.transaction_id, postings.c.amount)
        .add_columns(postings.c.balance_after, accounts)
        .join(postings, postings.c.transaction_id == transactions.c.id)
        .join(accounts, accounts.c.id == postings.c.account_id)
        .order_by(postings.c.id)
    )
    lines, before = [], 0
    async with db.read() as conn:
        for row in (await conn.execute(query)).all():
            code = "" if row.transaction_id == before else row.code
            before = row.transaction_id
            amount, after = (
                text_of(figure).rpartition(" ")[0]
                for figure in (row.amount, row.balance_after)
            )
            whose = shown(account_of(row))
            lines.append(f"{code:8}{whose:14}{amount:>10}{after:>12}".rstrip())
    example = "\n".join(lines)
    assert example in README.read_text(encoding="utf-8"), f"\n{example}"
    await lab.check()
