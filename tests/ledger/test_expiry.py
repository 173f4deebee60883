"""Tokens are not reserved for ever for a server that never came up."""

import asyncio
from datetime import timedelta

import pytest
from ledger.books import COURSE, DAY, HOUR, NOW, Books
from sqlalchemy import select
from torchroom.ledger.database import Database
from torchroom.ledger.errors import NotFound
from torchroom.ledger.expiry import REASON, Expiry
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import Account, Ending, Kind, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import Prices
from torchroom.ledger.rows import lease_of
from torchroom.ledger.tables import hold_ends, leases

ADA = Account(Kind.USER, "ada")
WALLET = Account(Kind.COURSE, COURSE)


@pytest.fixture
def expiry(db: Database) -> Expiry:
    return Expiry(db)


async def test_an_overdue_hold_goes_back_to_where_it_came_from(
    expiry: Expiry, books: Books
) -> None:
    """Each account gets its part, and the student's cap is free again."""
    await books.course(50, cap=20)
    await books.give("ada", 30)
    await books.hold("lease", "ada", {WALLET: 20, ADA: 5})
    assert (await books.held(), await books.drawn("ada")) == (25, 20)

    assert await expiry.expire_holds(NOW + DAY - timedelta(microseconds=1)) == 0
    assert await expiry.expire_holds(NOW + DAY) == 1
    assert (await books.of("ada"), await books.wallet()) == (30, 50)
    assert (await books.held(), await books.drawn("ada")) == (0, 0)


async def test_its_lease_is_closed_as_a_start_that_failed(
    expiry: Expiry, books: Books, db: Database
) -> None:
    """Nothing is charged, and the reason is kept."""
    await books.give("ada", 30)
    await books.hold("lease", "ada", {ADA: 5})
    await expiry.expire_holds(NOW + DAY)

    async with db.read() as conn:
        row = (await conn.execute(select(leases))).one()
        how = await conn.scalar(select(hold_ends.c.how))
    lease = lease_of(row)
    assert (row.charged, row.hold_id, how) == (0, None, "expire")
    assert (lease.ended_at, lease.reason) == (NOW + DAY, REASON)


async def test_a_server_that_runs_keeps_its_hold_however_late_it_is_settled(
    expiry: Expiry, books: Books
) -> None:
    """The hub may have been down for days."""
    await books.give("ada", 30)
    await books.hold("lease", "ada", {ADA: 5}, ready_at=NOW + HOUR)

    assert await expiry.expire_holds(NOW + 30 * DAY) == 0
    # As if it had become ready just after it was found overdue.
    assert await expiry._expire(["lease"], NOW + 30 * DAY) == 0
    assert await books.held() == 5


async def test_two_processes_expire_a_hold_once(expiry: Expiry, books: Books) -> None:
    """Many holds of several users, in several writes each."""
    for n in range(6):
        await books.give(f"user{n}", 30)
        account = Account(Kind.USER, f"user{n}")
        await books.hold(f"lease{n}", f"user{n}", {account: 5})
    done = await asyncio.gather(*(expiry.expire_holds(NOW + DAY) for _ in range(5)))

    assert sum(done) == 6
    assert await books.held() == 0


async def test_more_holds_than_fit_into_one_write_expire(
    expiry: Expiry, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page."""
    monkeypatch.setattr("torchroom.ledger.expiry.LEASES_AT_ONCE", 2)
    await books.give("ada", 30)
    for n in range(5):
        await books.hold(f"lease{n}", "ada", {ADA: 1})
    assert await expiry.expire_holds(NOW + DAY) == 5


async def test_a_hold_of_the_metering_expires_and_its_late_end_changes_nothing(
    expiry: Expiry, books: Books, db: Database
) -> None:
    """Also when the end comes at the same moment as the expiry."""
    await Prices(db).set("T4", 3600, valid_from=NOW, at=NOW, actor="admin")
    await books.give("ada", 5000)
    metering = Leases(db, Policy())
    failed = End(Ending.FAILED, NOW + DAY, "It did not start.")
    for n in range(4):
        await metering.hold(f"lease{n}", Payer("ada", f"{n}"), ["T4"], NOW)
    assert await books.held() == 4 * 600

    await expiry.expire_holds(NOW + HOUR)
    await asyncio.gather(
        expiry.expire_holds(NOW + DAY),
        *(metering.end(f"lease{n}", failed, now=NOW + DAY) for n in range(4)),
    )
    with pytest.raises(NotFound):
        await metering.ready("lease0", NOW + DAY)
    await metering.end("lease0", failed, now=NOW + DAY)

    assert await books.of("ada") == 5000
    codes = await books.codes()
    assert codes.count("expire") + codes.count("void") == 4
