"""What may be recorded at all: balanced, of its code's shape, with usable words."""

from datetime import UTC, datetime
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger import posting
from torchroom.ledger.errors import BadInput, Corrupt
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
from torchroom.ledger.names import check_key, check_name, check_note
from torchroom.ledger.posting import Order, wallet_of_course, wallet_of_user

AT = datetime(2026, 1, 1, tzinfo=UTC)
ORDER = Order(key="k", at=AT, request="r")
ALICE = wallet_of_user("alice")
ACCOUNTS = {
    Kind.USER: wallet_of_user("alice", course="cs101"),
    Kind.COURSE: wallet_of_course("cs101"),
    Kind.ISSUED: ISSUED,
    Kind.REVENUE: REVENUE,
    Kind.HOLDS: HOLDS,
}
amounts = st.integers(1, AMOUNT_MAX // 4)
parts = st.lists(amounts, min_size=1, max_size=4).map(
    lambda gives: [
        Posting(wallet_of_user(f"u{place}"), amount)
        for place, amount in enumerate(gives)
    ]
)


def total(transaction: Transaction, account: Account) -> int:
    return sum(leg.amount for leg in transaction.postings if leg.account == account)


@given(parts, amounts, st.data())
def test_whatever_is_held_goes_back_or_is_charged(
    held: list[Posting], used: int, data: st.DataObject
) -> None:
    """Every constructor's postings sum to zero, and move what it was told."""
    taken = posting.hold(held, **ORDER)
    voided = posting.release(Code.VOID, held, **ORDER)
    expired = posting.release(Code.EXPIRE, held, **ORDER)
    settled = posting.settle(used, held, **ORDER)
    refunded = posting.refund(held, **ORDER)
    everything = sum(part.amount for part in held)
    assert total(taken, HOLDS) == everything
    assert total(voided, HOLDS) == total(expired, HOLDS) == -everything
    assert total(settled, HOLDS) == -everything - used
    assert total(settled, REVENUE) == used
    assert total(refunded, REVENUE) == -everything
    for each in (taken, voided, expired, settled, refunded):
        assert sum(leg.amount for leg in each.postings) == 0


@pytest.mark.parametrize("code", Code)
def test_each_code_moves_tokens_only_its_own_way(code: Code) -> None:
    """Of all ways between two kinds of account, only those of the table are taken."""
    for source, target in product(Kind, Kind):
        legs = (Posting(ACCOUNTS[source], -5), Posting(ACCOUNTS[target], 5))
        wanted = Transaction(code=code, postings=legs, **ORDER)
        sources, targets = posting.SHAPES[code]
        if source in sources and target in targets and source is not target:
            assert posting.check(wanted) is wanted
        else:
            with pytest.raises(Corrupt):
                posting.check(wanted)


@pytest.mark.parametrize(
    "legs",
    [
        (),
        (Posting(ISSUED, -5),),
        (Posting(ISSUED, -5), Posting(ALICE, 4)),
        (Posting(ISSUED, 0), Posting(ALICE, 0)),
        (Posting(ISSUED, -5), Posting(ALICE, 3), Posting(ALICE, 2)),
    ],
)
def test_unbalanced_postings_are_refused(legs: tuple[Posting, ...]) -> None:
    """I3: too few, not zero in all, nothing at all, or one account twice."""
    with pytest.raises(Corrupt):
        posting.check(Transaction(code=Code.GRANT, postings=legs, **ORDER))


@pytest.mark.parametrize("amount", [0, -1, AMOUNT_MAX + 1, True, 1.5, 2**70])
def test_no_amount_that_is_not_one(amount: int) -> None:
    """Zero, negative, fractional and huge amounts are refused by every constructor."""
    with pytest.raises(BadInput):
        posting.transfer(Code.GRANT, amount, source=ISSUED, target=ALICE, **ORDER)
    bad = [Posting(ALICE, amount)]
    with pytest.raises(BadInput):
        posting.hold(bad, **ORDER)
    with pytest.raises(BadInput):
        posting.settle(1, bad, **ORDER)
    with pytest.raises(BadInput):
        posting.refund(bad, **ORDER)
    with pytest.raises(BadInput):
        posting.waive(amount, **ORDER)


def test_parts_that_are_too_much_together_are_refused() -> None:
    """One posting moves at most AMOUNT_MAX, also as the sum of parts."""
    two = [Posting(wallet_of_user(name), AMOUNT_MAX) for name in ("a", "b")]
    with pytest.raises(BadInput):
        posting.hold(two, **ORDER)


@pytest.mark.parametrize("code", [Code.HAND_OUT, Code.ALLOWANCE])
@pytest.mark.parametrize("course", ["", "cs102"])
def test_a_courses_tokens_stay_for_that_course(code: Code, course: str) -> None:
    """What leaves a course's wallet is earmarked for it, and can only return there."""
    wallet, hers = wallet_of_course("cs101"), wallet_of_user("a", course=course)
    with pytest.raises(Corrupt):
        posting.transfer(code, 5, source=wallet, target=hers, **ORDER)
    with pytest.raises(Corrupt):
        posting.transfer(Code.RETURN, 5, source=hers, target=wallet, **ORDER)


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a/b", "a\nb", "a\0", "\x7f", "\u2028", "\ud800", "x" * 256],
)
def test_names_that_no_hub_has_are_refused(name: str) -> None:
    """A name has 1 to 255 characters that print, no slash, no space at an end."""
    with pytest.raises(BadInput) as refused:
        check_name(name, "A user's name")
    assert str(refused.value).encode()  # also for a half of a surrogate pair
    with pytest.raises(BadInput):
        wallet_of_course(name)


@pytest.mark.parametrize(
    "name", ["a", "älice", "李雷", "a b", "x" * 255, "a@b.c", "😀"]
)
def test_names_that_hubs_have_are_taken(name: str) -> None:
    """Other alphabets and inner spaces are fine."""
    assert check_name(name, "A user's name") == name


@pytest.mark.parametrize("key", ["", " k", "k ", "k\n", "ä", "x" * 201, "a\tb"])
def test_keys_are_printable_ascii(key: str) -> None:
    """1 to 200 characters, so that any client and any log can carry them."""
    with pytest.raises(BadInput):
        check_key(key)
    assert check_key("x" * 200) == "x" * 200
    assert check_key("hold:ls_0 1") == "hold:ls_0 1"


def test_a_note_is_one_line() -> None:
    """Up to 500 characters without control characters, or nothing."""
    assert check_note("") == ""
    assert check_note("x" * 500) == "x" * 500
    for bad in ("x" * 501, "a\nb", "\x1b[31m", "\ud800"):
        with pytest.raises(BadInput):
            check_note(bad)


def test_an_actor_is_as_long_as_its_column() -> None:
    """A user's name, also with what goes before it; PostgreSQL would refuse more."""
    legs = (Posting(ISSUED, -5), Posting(ALICE, 5))
    longest = "service " + "x" * 255
    for actor, is_taken in ((longest, True), (longest + "x", False), ("a\nb", False)):
        order = Order(key="k", at=AT, request="r", actor=actor)
        wanted = Transaction(code=Code.GRANT, postings=legs, **order)
        if is_taken:
            assert posting.check(wanted) is wanted
        else:
            with pytest.raises(BadInput, match="An actor"):
                posting.check(wanted)


def test_the_same_request_has_one_digest() -> None:
    """The code is part of what was asked for."""
    assert posting.digest_of(Code.GRANT, "r") == posting.digest_of(Code.GRANT, "r")
    assert posting.digest_of(Code.GRANT, "r") != posting.digest_of(Code.WELCOME, "r")
    assert posting.digest_of(Code.GRANT, "r") != posting.digest_of(Code.GRANT, "s")
