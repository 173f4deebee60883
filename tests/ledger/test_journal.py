"""The journal against a model that is a dictionary, on both databases."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger.conftest import Ledgers
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from torchroom.ledger import journal, posting
from torchroom.ledger.database import Database
from torchroom.ledger.errors import (
    BadInput,
    Corrupt,
    KeyReused,
    LedgerError,
    NotEnough,
)
from torchroom.ledger.journal import Recorded
from torchroom.ledger.model import (
    AMOUNT_MAX,
    HOLDS,
    ISSUED,
    REVENUE,
    Account,
    Code,
    Kind,
    Posting,
    Transaction,
)
from torchroom.ledger.posting import wallet_of_course, wallet_of_user
from torchroom.ledger.tables import accounts, postings, transactions

AT = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOB = wallet_of_user("alice"), wallet_of_user("bob")
EARMARKED = wallet_of_user("alice", course="cs101")
EXPIRING = wallet_of_user("alice", expires_at=AT + timedelta(days=1, microseconds=1))
COURSE = wallet_of_course("cs101")
WALLETS = (ALICE, BOB, EARMARKED, EXPIRING, COURSE)


def grant(amount: int, to: Account = ALICE, key: str = "grant") -> Transaction:
    code = Code.BUDGET if to.kind is Kind.COURSE else Code.GRANT
    return posting.transfer(
        code, amount, source=ISSUED, target=to, key=key, at=AT, request=f"{amount}"
    )


def take_back(amount: int, key: str, whose: Account = ALICE) -> Transaction:
    return posting.transfer(
        Code.TAKE_BACK,
        amount,
        source=whose,
        target=ISSUED,
        key=key,
        at=AT,
        request=f"{amount}",
    )


async def write(db: Database, *wanted: Transaction) -> list[Recorded]:
    async with db.write() as conn:
        return await journal.record(conn, wanted)


async def balances(db: Database) -> dict[Account, int]:
    """Return every balance that is not 0, as the cache says."""
    owners = {(account.kind, account.name) for account in (*WALLETS, HOLDS, REVENUE)}
    async with db.read() as conn:
        found = await journal.wallets(conn, [*owners, (Kind.ISSUED, "")])
    every = (balance for of_owner in found.values() for balance in of_owner)
    return {each.account: each.amount for each in every if each.amount}


async def sums(db: Database) -> dict[Account, int]:
    """Return the same from the postings alone."""
    async with db.read() as conn:
        ids = (await conn.scalars(select(transactions.c.id))).all()
        found = await journal.postings_of(conn, ids)
    total: dict[Account, int] = {}
    for leg in (leg for legs in found.values() for leg in legs):
        total[leg.account] = total.get(leg.account, 0) + leg.amount
    return {account: amount for account, amount in total.items() if amount}


# ----------------------------------------------------------------- against a dictionary


class Model:
    """What the journal must do, one transaction after the other."""

    def __init__(self) -> None:
        self.balances: dict[Account, int] = {}
        self.requests: dict[str, tuple[Code, str]] = {}

    def record(self, wanted: Sequence[Transaction]) -> list[bool]:
        """Return for each whether it is new; raise, changed by nothing, as it must."""
        balances, requests, answers = dict(self.balances), dict(self.requests), []
        # A key that is used for two things is seen before anything is counted.
        for each in wanted:
            request = (each.code, each.request)
            if requests.setdefault(each.key, request) != request:
                raise KeyReused
        seen = set(self.requests)
        for each in wanted:
            answers.append(each.key not in seen)
            if each.key in seen:
                continue
            seen.add(each.key)
            for leg in each.postings:
                after = balances.get(leg.account, 0) + leg.amount
                if after < 0 and leg.amount < 0 and leg.account != ISSUED:
                    raise NotEnough if leg.account in WALLETS else Corrupt
                balances[leg.account] = after
        self.balances, self.requests = balances, requests
        return answers


amounts = st.integers(1, 8)
keys = st.sampled_from([f"k{number}" for number in range(12)])
wallets = st.sampled_from(WALLETS)


@st.composite
def movements(draw: st.DrawFn) -> Transaction:
    """Any transaction between a few accounts, small enough to run out of tokens."""
    order = posting.Order(key=draw(keys), at=AT, request=draw(st.sampled_from("ab")))
    amount, wallet, other = draw(amounts), draw(wallets), draw(wallets)
    match draw(st.integers(0, 6)):
        case 0 | 1:
            code = Code.IMPORT
            return posting.transfer(code, amount, source=ISSUED, target=wallet, **order)
        case 2:
            code = Code.TAKE_BACK
            return posting.transfer(code, amount, source=wallet, target=ISSUED, **order)
        case 3:
            parts = {wallet: amount, other: draw(amounts)}
            return posting.hold([Posting(*part) for part in parts.items()], **order)
        case 4:
            rest = [Posting(other, draw(amounts))] if draw(st.booleans()) else []
            return posting.settle(amount, rest, **order)
        case 5:
            return posting.refund([Posting(wallet, amount)], **order)
        case _:
            return posting.waive(amount, **order)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(st.lists(movements(), max_size=4), max_size=14))
def test_the_journal_does_what_a_dictionary_does(
    ledgers: Ledgers, batches: list[list[Transaction]]
) -> None:
    """I3: every batch is recorded as the model says, or changes nothing at all."""

    async def play(url: str) -> None:
        db, model = Database.open(url), Model()
        try:
            for batch in batches:
                try:
                    expected: list[bool] | type[LedgerError] = model.record(batch)
                except LedgerError as error:
                    expected = type(error)
                if isinstance(expected, list):
                    answers = await write(db, *batch)
                    assert [answer.is_new for answer in answers] == expected
                else:
                    with pytest.raises(expected):
                        await write(db, *batch)
                left = {key: value for key, value in model.balances.items() if value}
                assert await balances(db) == left == await sums(db)
        finally:
            await db.close()

    with ledgers() as url:
        asyncio.run(play(url))


# --------------------------------------------------------------------------- by example


async def test_a_repeat_changes_nothing_and_gets_the_same_answer(db: Database) -> None:
    """The same key with the same request is the same transaction, now or later."""
    [first] = await write(db, grant(5))
    [again] = await write(db, grant(5))
    [one, two] = await write(db, grant(7, key="other"), grant(7, key="other"))
    assert first.is_new
    assert again == Recorded(first.id, is_new=False)
    assert one.is_new
    assert two == Recorded(one.id, is_new=False)
    assert (await balances(db))[ALICE] == 12


async def test_a_repeat_is_found_before_tokens_are_counted(db: Database) -> None:
    """A retry of what used the last tokens is not refused for want of tokens."""
    await write(db, grant(5))
    [first] = await write(db, take_back(5, "back"))
    [again] = await write(db, take_back(5, "back"))
    assert again == Recorded(first.id, is_new=False)


async def test_a_key_is_for_one_request(db: Database) -> None:
    """Another amount or another code under a known key is refused; time may differ."""
    await write(db, grant(5))
    for other in (grant(6), take_back(5, "grant")):
        with pytest.raises(KeyReused, match="'grant'"):
            await write(db, other)
    with pytest.raises(KeyReused):
        await write(db, grant(1, key="new"), grant(2, key="new"))
    assert await balances(db) == {ALICE: 5, ISSUED: -5}


async def test_find_tells_a_repeat_from_another_request(db: Database) -> None:
    """A use-case can ask before it decides."""
    [made] = await write(db, grant(5))
    async with db.read() as conn:
        assert await journal.find(conn, "nobody's") is None
        assert await journal.find(conn, "grant") == Recorded(made.id, is_new=False)
        known = await journal.find(conn, "grant", code=Code.GRANT, request="5")
        assert known == Recorded(made.id, is_new=False)
        with pytest.raises(KeyReused):
            await journal.find(conn, "grant", code=Code.GRANT, request="6")
        with pytest.raises(BadInput):
            await journal.find(conn, "\ud800")


async def test_nobody_goes_below_nothing(db: Database) -> None:
    """I3: the last of several takes too much, so none of them is recorded."""
    await write(db, grant(5), grant(5, BOB, "bob"))
    with pytest.raises(NotEnough, match=r"of alice .* 0\.000002 tokens available"):
        await write(
            db,
            take_back(3, "first"),
            take_back(3, "bob's", BOB),
            take_back(3, "second"),
        )
    assert await balances(db) == {ALICE: 5, BOB: 5, ISSUED: -10}
    async with db.read() as conn:
        assert await journal.find(conn, "first") is None


async def test_more_than_was_held_cannot_be_settled(db: Database) -> None:
    """The ledger's own accounts are guarded as well: that would be a mistake here."""
    order = posting.Order(key="settle", at=AT, request="")
    with pytest.raises(Corrupt):
        await write(db, posting.settle(5, [], **order))


async def test_no_account_overflows(db: Database) -> None:
    """The largest grants are refused with a sentence before a column is too small."""
    n = journal.BALANCE_MAX // AMOUNT_MAX
    await write(db, *(grant(AMOUNT_MAX, key=f"g{each}") for each in range(n)))
    with pytest.raises(BadInput, match="can hold"):
        await write(db, grant(AMOUNT_MAX, key="one more"))


async def test_an_unbalanced_transaction_is_not_recorded(db: Database) -> None:
    """I3 is checked again here, whoever made the transaction."""
    legs = (Posting(ISSUED, -5), Posting(ALICE, 4))
    order = posting.Order(key="odd", at=AT, request="")
    with pytest.raises(Corrupt):
        await write(db, grant(1), Transaction(code=Code.GRANT, postings=legs, **order))
    assert await balances(db) == {}


async def test_accounts_are_apart_by_earmark_and_expiry(db: Database) -> None:
    """One user has several accounts; each is found by what it is."""
    await write(
        db,
        grant(1),
        grant(2, EARMARKED, "earmarked"),
        grant(3, EXPIRING, "expiring"),
        grant(4, BOB, "bob"),
    )
    async with db.read() as conn:
        hers = await journal.accounts_of(conn, Kind.USER, "alice")
        plain = await journal.accounts_of(conn, Kind.USER, "alice", course="")
        course = await journal.accounts_of(conn, Kind.USER, "alice", course="cs101")
        nobody = await journal.accounts_of(conn, Kind.USER, "nobody")
    assert {each.account: each.amount for each in hers} == {
        ALICE: 1,
        EARMARKED: 2,
        EXPIRING: 3,
    }
    assert {each.account for each in plain} == {ALICE, EXPIRING}
    assert [each.account for each in course] == [EARMARKED]
    assert hers == sorted(hers, key=lambda each: each.id)
    assert nobody == []


async def test_an_account_is_made_once(db: Database) -> None:
    """Asking for it makes it, empty; a posting uses the same one."""
    async with db.write() as conn:
        made = await journal.account(conn, EXPIRING)
        again = await journal.account(conn, EXPIRING, lock=True)
        await journal.record(conn, [grant(3, EXPIRING)])
        after = await journal.account(conn, EXPIRING)
    assert (made.account, made.amount) == (EXPIRING, 0)
    assert again == made
    assert (after.id, after.amount) == (made.id, 3)


async def test_postings_come_back_in_the_order_they_were_recorded(
    db: Database,
) -> None:
    """What each wallet gave to a hold is known later, and in which order."""
    await write(db, grant(5), grant(5, BOB, "bob"), grant(5, COURSE, "course"))
    parts = [Posting(COURSE, 1), Posting(BOB, 2), Posting(ALICE, 3)]
    order = posting.Order(key="hold", at=AT, request="", lease_id="ls_1")
    [held] = await write(db, posting.hold(parts, **order))
    async with db.read() as conn:
        found = await journal.postings_of(conn, [held.id, 10**6])
        marks = await conn.scalars(
            select(postings.c.is_lease).where(postings.c.transaction_id == held.id)
        )
        assert set(marks) == {1}
    assert found == {
        held.id: [*(Posting(p.account, -p.amount) for p in parts), Posting(HOLDS, 6)],
        10**6: [],
    }


async def test_every_posting_keeps_the_balance_it_left(db: Database) -> None:
    """The balance at any time in the past can be read from one row."""
    await write(db, grant(5), take_back(2, "a"), grant(4, key="b"))
    await write(db, take_back(7, "c"))
    async with db.read() as conn:
        rows = await conn.execute(
            select(postings.c.balance_after)
            .join(accounts, accounts.c.id == postings.c.account_id)
            .where(accounts.c.name == "alice")
            .order_by(postings.c.id)
        )
        assert [row.balance_after for row in rows] == [5, 3, 7, 0]
        n = select(accounts.c.n_postings).where(accounts.c.name == "alice")
        assert await conn.scalar(n) == 4


async def test_a_thousand_transactions_take_a_few_statements(db: Database) -> None:
    """The number of statements does not grow with the number of transactions."""
    n_statements = 0

    def count(*_: object) -> None:
        nonlocal n_statements
        n_statements += 1

    async with db.write() as conn:
        event.listen(conn.sync_connection, "before_cursor_execute", count)
        many = [grant(9, wallet_of_user(f"u{n}"), f"k{n}") for n in range(1000)]
        await journal.record(conn, many)
        assert n_statements < 20
        n_rows = await conn.scalar(select(func.count()).select_from(postings))
    assert n_rows == 2000


async def test_two_holds_at_once_cannot_spend_the_same_tokens(db: Database) -> None:
    """Of thirty that each want a third of the wallet, three get it."""
    await write(db, grant(9))

    async def hold(number: int) -> bool:
        order = posting.Order(key=f"hold {number}", at=AT, request="")
        try:
            await write(db, posting.hold([Posting(ALICE, 3)], **order))
        except NotEnough:
            return False
        return True

    assert sum(await asyncio.gather(*map(hold, range(30)))) == 3
    assert await balances(db) == {HOLDS: 9, ISSUED: -9} == await sums(db)


async def test_one_request_sent_many_times_at_once_is_recorded_once(
    db: Database,
) -> None:
    """Whoever comes second learns that it is there already."""

    async def send() -> Recorded:
        return await db.run(lambda conn: _only(conn, grant(5)))

    async def _only(conn: AsyncConnection, wanted: Transaction) -> Recorded:
        [answer] = await journal.record(conn, [wanted])
        return answer

    answers = await asyncio.gather(*(send() for _ in range(20)))
    assert sum(answer.is_new for answer in answers) == 1
    assert len({answer.id for answer in answers}) == 1
    assert (await balances(db))[ALICE] == 5


async def test_moves_in_both_directions_at_once_do_not_block_each_other(
    db: Database,
) -> None:
    """Locks are taken in one order, so no two writers wait for each other."""
    await write(db, grant(100, EARMARKED), grant(100, COURSE, "course"))

    async def move(number: int) -> None:
        order = posting.Order(key=f"move {number}", at=AT, request="")
        there, back = (EARMARKED, COURSE) if number % 2 else (COURSE, EARMARKED)
        code = Code.RETURN if number % 2 else Code.HAND_OUT
        await write(db, posting.transfer(code, 1, source=there, target=back, **order))

    await asyncio.gather(*map(move, range(60)))
    assert await balances(db) == {EARMARKED: 100, COURSE: 100, ISSUED: -200}
