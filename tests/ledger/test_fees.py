"""A fee is paid once, whole or not at all, from what pays for servers."""

import asyncio
from typing import Any

import pytest
from ledger.books import COURSE, DAY, HOUR, NOW, TOKEN, Books
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import DBAPIError
from torchroom.ledger.audit import audit
from torchroom.ledger.database import Database, micros
from torchroom.ledger.errors import BadInput, KeyReused, LedgerError, NotEnough
from torchroom.ledger.fees import Fees, Paid
from torchroom.ledger.journal import Recorded, record
from torchroom.ledger.model import REVENUE, Account, Code, Kind
from torchroom.ledger.posting import transfer, wallet_of_user
from torchroom.ledger.statements import Statements
from torchroom.ledger.tables import draws, fees
from torchroom.ledger.totals import read_totals
from torchroom.ledger.usage import By

WHY = "30 more minutes for your idle server."


class Till:
    """Charges fees of ada."""

    def __init__(self, db: Database) -> None:
        self.fees = Fees(db)

    async def take(
        self, amount: int, key: str = "k", *, course: str = COURSE, **more: Any
    ) -> Recorded:
        """Charge a fee."""
        how: dict[str, Any] = {"at": NOW, "actor": "ada", "why": WHY} | more
        return await self.fees.charge("ada", course, amount, key=key, **how)


@pytest.fixture
def till(db: Database) -> Till:
    return Till(db)


# ------------------------------------------------------------------- from whose tokens


async def test_a_fee_is_drawn_in_the_order_of_servers(till: Till, books: Books) -> None:
    """Earmarked tokens, soonest expiring first; the course's; those for anything."""
    await books.course(3 * TOKEN)
    await books.give("ada", TOKEN)
    await books.give("ada", TOKEN, course=COURSE)
    await books.give("ada", TOKEN, course=COURSE, expires_at=NOW + DAY)

    await till.take(TOKEN // 2, "first")
    assert await books.legs() == [
        ("ada", NOW + DAY, -TOKEN // 2),
        ("", None, TOKEN // 2),
    ]
    await till.take(3 * TOKEN, "second")
    assert await books.wallet() == 3 * TOKEN // 2
    assert await books.of("ada") == TOKEN
    await till.take(2 * TOKEN, "third")
    assert await books.wallet() == 0
    assert await books.of("ada") == TOKEN // 2
    assert await books.drawn("ada") == 3 * TOKEN


async def test_a_fee_without_a_course_takes_the_users_own(
    till: Till, books: Books
) -> None:
    """Neither a course's tokens nor those that are earmarked for one."""
    await books.course(9 * TOKEN)
    await books.give("ada", TOKEN)
    await books.give("ada", TOKEN, course=COURSE)
    with pytest.raises(NotEnough):
        await till.take(TOKEN + 1, course="")
    await till.take(TOKEN, course="")
    assert await books.of("ada") == 0
    assert await books.of("ada", COURSE) == TOKEN
    assert await books.wallet() == 9 * TOKEN


async def test_the_cap_per_student_holds_for_fees(till: Till, books: Books) -> None:
    """A fee counts to what a student drew, so a server cannot draw it again."""
    await books.course(9 * TOKEN, cap=2 * TOKEN)
    await till.take(TOKEN, "a")
    with pytest.raises(NotEnough, match="only 1 token can"):
        await till.take(TOKEN + 1, "b")
    await till.take(TOKEN, "b")
    assert await books.drawn("ada") == 2 * TOKEN
    assert await books.wallet() == 7 * TOKEN


async def test_what_is_held_and_what_is_expired_pays_nothing(
    till: Till, books: Books
) -> None:
    """Nothing is taken if what is available does not suffice, and it says so."""
    own = Account(Kind.USER, "ada")
    await books.give("ada", 3 * TOKEN)
    await books.give("ada", 3 * TOKEN, expires_at=NOW + HOUR)
    await books.hold("ls_1", "ada", {own: 2 * TOKEN})
    with pytest.raises(NotEnough, match=r"costs 1\.5 tokens, but only 1 token can"):
        await till.take(3 * TOKEN // 2, at=NOW + HOUR)
    assert await books.of("ada") == 4 * TOKEN
    assert await books.held() == 2 * TOKEN
    assert "fee" not in await books.codes()


async def test_a_refused_fee_can_be_paid_later_under_its_key(
    till: Till, books: Books
) -> None:
    """A refusal leaves nothing behind."""
    with pytest.raises(NotEnough):
        await till.take(TOKEN)
    await books.give("ada", TOKEN)
    assert (await till.take(TOKEN)).is_new
    assert await books.of("ada") == 0


# ---------------------------------------------------------------------------- only once


async def test_the_same_fee_again_takes_nothing_more(till: Till, books: Books) -> None:
    """Also if nothing is left by then, and whoever asks: the key says what for."""
    await books.give("ada", TOKEN)
    first = await till.take(TOKEN)
    again = await till.take(TOKEN, at=NOW + DAY, actor="service steward", why="Again.")
    assert (again.id, again.is_new) == (first.id, False)
    assert await books.of("ada") == 0


@pytest.mark.parametrize("change", [{"amount": 2 * TOKEN}, {"course": ""}])
async def test_another_fee_under_the_key_is_refused(
    till: Till, books: Books, change: dict[str, Any]
) -> None:
    """Another amount, or for another course."""
    await books.give("ada", 9 * TOKEN)
    await till.take(TOKEN)
    with pytest.raises(KeyReused):
        await till.take(**{"amount": TOKEN} | change)
    assert await books.of("ada") == 8 * TOKEN


async def test_the_key_of_something_else_is_not_the_fees(
    till: Till, books: Books
) -> None:
    """Whatever people choose as keys for grants."""
    await books.give("ada", 2 * TOKEN)  # under "key-1"
    assert (await till.take(TOKEN, "key-1")).is_new


async def test_many_at_once_take_it_once(till: Till, books: Books) -> None:
    """From a course's wallet and the user's own together."""
    await books.course(TOKEN)
    await books.give("ada", 9 * TOKEN)
    done = await asyncio.gather(*(till.take(2 * TOKEN) for _ in range(12)))
    assert len({each.id for each in done}) == 1
    assert sum(each.is_new for each in done) == 1
    assert (await books.wallet(), await books.of("ada")) == (0, 8 * TOKEN)


async def test_the_last_tokens_pay_one_of_many_fees(till: Till, books: Books) -> None:
    """Never below zero, and no cap is passed, however they race."""
    await books.course(9 * TOKEN, cap=2 * TOKEN)
    await books.give("ada", TOKEN)

    async def try_one(number: int) -> bool:
        try:
            await till.take(TOKEN, f"{number}")
        except NotEnough:
            return False
        return True

    paid = await asyncio.gather(*(try_one(number) for number in range(12)))
    assert sum(paid) == 3
    assert (await books.wallet(), await books.of("ada")) == (7 * TOKEN, 0)
    assert await books.drawn("ada") == 2 * TOKEN


# --------------------------------------------------------------------------- given back


async def test_a_fee_goes_back_to_where_it_came_from(
    till: Till, books: Books, db: Database
) -> None:
    """Once; what expired meanwhile comes back without an expiry."""
    await books.course(TOKEN, cap=TOKEN)
    await books.give("ada", TOKEN, course=COURSE, expires_at=NOW + HOUR)
    await books.give("ada", 2 * TOKEN)
    await till.take(3 * TOKEN)
    backs = [
        await till.fees.give_back("k", at=NOW + HOUR, why="It was too late.")
        for _ in range(2)
    ]
    assert backs == [True, False]
    assert await books.of("ada") == 2 * TOKEN
    assert await books.of("ada", COURSE) == TOKEN
    assert (await books.wallet(), await books.drawn("ada")) == (TOKEN, 0)
    assert (await read_totals(db)).revenue == 0
    newest = (await Statements(db).history(Kind.USER, "ada")).items[0]
    assert (newest.code, newest.note) == (Code.FEE_BACK, "It was too late.")
    (used,) = await Statements(db).usage(By.USER, NOW, NOW + DAY)
    assert used.microtokens == 0


async def test_a_fee_that_was_given_back_can_be_paid_again(
    till: Till, books: Books
) -> None:
    """And given back again."""
    await books.give("ada", TOKEN)
    for _ in range(3):
        assert (await till.take(TOKEN)).is_new
        assert not (await till.take(TOKEN)).is_new
        assert await books.of("ada") == 0
        assert await till.fees.give_back("k", at=NOW, why="")
        assert await books.of("ada") == TOKEN


async def test_many_who_give_back_at_once_give_once(till: Till, books: Books) -> None:
    """And what was not paid is not given back."""
    await books.course(9 * TOKEN)
    assert not await till.fees.give_back("k", at=NOW, why="")
    await till.take(TOKEN)
    backs = [till.fees.give_back("k", at=NOW, why="") for _ in range(8)]
    assert sum(await asyncio.gather(*backs)) == 1
    assert await books.wallet() == 9 * TOKEN


async def test_what_was_paid_lately_is_listed(till: Till, books: Books) -> None:
    """Without what was given back, or paid before or after."""
    await books.give("ada", 9 * TOKEN)
    for number, at in enumerate((NOW - DAY, NOW, NOW, NOW + HOUR)):
        await till.take(TOKEN + number, f"{number}", at=at)
    await till.fees.give_back("1", at=NOW + DAY, why="")
    assert await till.fees.paid(NOW, NOW + HOUR) == [Paid("2", "ada", TOKEN + 2)]


async def test_what_was_paid_under_a_key_is_found(till: Till, books: Books) -> None:
    """Until it is given back."""
    await books.give("ada", 9 * TOKEN)
    assert await till.fees.paid_for("k") is None
    for _ in range(2):
        await till.take(TOKEN)
        assert await till.fees.paid_for("k") == Paid("k", "ada", TOKEN)
        await till.fees.give_back("k", at=NOW, why="")
        assert await till.fees.paid_for("k") is None
    with pytest.raises(BadInput):
        await till.fees.paid_for("")


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, None, 10**16])
async def test_an_amount_is_more_than_nothing(
    till: Till, books: Books, amount: Any
) -> None:
    """And a whole number."""
    await books.give("ada", TOKEN)
    with pytest.raises(BadInput):
        await till.take(amount)
    assert await books.of("ada") == TOKEN


@pytest.mark.parametrize("key", ["", " x", "x" * 201, "ü"])
async def test_a_key_is_one(till: Till, key: str) -> None:
    """As everywhere in the ledger."""
    with pytest.raises(BadInput):
        await till.take(TOKEN, key)


# -------------------------------------------------------------------------- it is shown


async def test_statements_show_it(till: Till, books: Books, db: Database) -> None:
    """The user's and the course's own part, with why; and all of it as revenue."""
    await books.course(TOKEN)
    await books.give("ada", TOKEN)
    await till.take(3 * TOKEN // 2)
    read = Statements(db)
    for kind, name, amount in (
        (Kind.USER, "ada", -TOKEN // 2),
        (Kind.COURSE, COURSE, -TOKEN),
    ):
        for full in (False, True):
            newest = (await read.history(kind, name, full=full)).items[0]
            assert (newest.code, newest.amount) == (Code.FEE, amount)
            assert (newest.note, newest.actor) == (WHY, "ada")
    assert (await read_totals(db)).revenue == 3 * TOKEN // 2


@pytest.mark.parametrize(
    ("by", "key"),
    [
        (By.DAY, "2026-11-25"),
        (By.COURSE, COURSE),
        (By.TYPE, "fee"),
        (By.USER, "ada"),
    ],
)
async def test_usage_counts_it_without_seconds(
    till: Till, books: Books, db: Database, by: By, key: str
) -> None:
    """On the day it was paid; adjoining spans add up."""
    await books.give("ada", 9 * TOKEN)
    await till.take(TOKEN, "a")
    await till.take(2 * TOKEN, "b", at=NOW + HOUR)
    read = Statements(db)
    found = await read.usage(by, NOW, NOW + DAY)
    assert [(u.key, u.seconds, u.slot_seconds, u.microtokens) for u in found] == [
        (key, 0, 0, 3 * TOKEN)
    ]
    halves = [
        await read.usage(by, NOW, NOW + HOUR),
        await read.usage(by, NOW + HOUR, NOW + DAY),
    ]
    assert [half[0].microtokens for half in halves] == [TOKEN, 2 * TOKEN]
    for other in ({"user": "bob"}, {"course": "other"}, {"course": ""}):
        assert await read.usage(by, NOW, NOW + DAY, **other) == ()
    mine = await read.usage(by, NOW, NOW + DAY, user="ada", course=COURSE)
    assert mine == found


# ------------------------------------------------------------------------ it is audited


async def test_the_database_keeps_fees(till: Till, books: Books, db: Database) -> None:
    """What is recorded is not changed, whoever tries."""
    await books.give("ada", TOKEN)
    await till.take(TOKEN)
    for change in (update(fees).values(amount=1), delete(fees)):
        with pytest.raises((LedgerError, DBAPIError)):
            async with db.write() as conn:
                await conn.execute(change)


async def test_an_audit_finds_a_fee_that_nobody_paid(till: Till, db: Database) -> None:
    """It is noted, but its transaction is another."""
    books = Books(db)
    await books.give("ada", 9 * TOKEN)
    done = await till.take(TOKEN)
    await books.check()
    row = {"what": "f", "user": "ada", "course": "", "amount": TOKEN, "at": micros(NOW)}
    async with db.write() as conn:
        await conn.execute(insert(fees).values(transaction_id=done.id - 1, **row))
    said = f"Transaction {done.id - 1} is not the fee that is noted."
    assert (await audit(db, NOW)).problems == (said,)


@pytest.mark.parametrize("noted", [None, TOKEN + 1])
async def test_an_audit_finds_a_fee_that_is_not_noted_as_it_was_paid(
    db: Database, noted: int | None
) -> None:
    """Not at all, or as another amount."""
    books = Books(db)
    await books.give("ada", 9 * TOKEN)
    paid = transfer(
        Code.FEE,
        TOKEN,
        source=wallet_of_user("ada"),
        target=REVENUE,
        key="f",
        at=NOW,
        request="",
    )
    async with db.write() as conn:
        (done,) = await record(conn, [paid])
        row = {
            "what": "f",
            "user": "ada",
            "course": "",
            "amount": noted,
            "at": micros(NOW),
        }
        if noted is not None:
            await conn.execute(insert(fees).values(transaction_id=done.id, **row))
    said = f"Transaction {done.id} is not the fee that is noted."
    assert (await audit(db, NOW)).problems == (said,)


async def test_an_audit_finds_what_a_fee_drew(till: Till, db: Database) -> None:
    """What a student drew from a course is computed with the fees."""
    books = Books(db)
    await books.course(9 * TOKEN)
    await till.take(TOKEN)
    await books.check()
    async with db.write() as conn:
        await conn.execute(update(draws).values(amount=0))
    found = (await audit(db, NOW)).problems
    assert len(found) == 1
    assert "they say 1 token more" in found[0]
