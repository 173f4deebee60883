"""Whose tokens are taken, and where the rest goes back to."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger.drawing import Share, Wallets, consume, newest_first, summed
from torchroom.ledger.model import HOLDS, ISSUED, Account, Kind, Payer, Posting

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
SOON, LATER = NOW + timedelta(days=1), NOW + timedelta(days=9)
ANA, BEN = "ana", "ben"
PHYSICS = Payer(ANA, course="physics")
NO_COURSE = Payer(ANA)

OWN = Account(Kind.USER, ANA)
OWN_SOON = Account(Kind.USER, ANA, expires_at=SOON)
OWN_LATER = Account(Kind.USER, ANA, expires_at=LATER)
MARKED = Account(Kind.USER, ANA, "physics")
MARKED_SOON = Account(Kind.USER, ANA, "physics", SOON)
MARKED_ELSE = Account(Kind.USER, ANA, "art")
COURSE = Account(Kind.COURSE, "physics")
COURSE_ELSE = Account(Kind.COURSE, "art")
OTHERS = Account(Kind.USER, BEN)
ALL = [
    COURSE_ELSE,
    OWN,
    OTHERS,
    OWN_LATER,
    MARKED,
    COURSE,
    OWN_SOON,
    MARKED_ELSE,
    MARKED_SOON,
]
TEN_EACH = dict.fromkeys(ALL, 10)


def accounts_of(parts: list[Posting] | tuple[Posting, ...]) -> list[Account]:
    return [part.account for part in parts]


def test_tokens_of_the_course_go_first_and_those_that_expire_soonest() -> None:
    """Earmarked, then the course's wallet, then the user's own; never another's."""
    wallets = Wallets(TEN_EACH, {})
    assert accounts_of(wallets.offers(PHYSICS, NOW)) == [
        MARKED_SOON,
        MARKED,
        COURSE,
        OWN_SOON,
        OWN_LATER,
        OWN,
    ]
    assert wallets.available(PHYSICS, NOW) == 60


def test_without_a_course_only_tokens_without_an_earmark_are_spent() -> None:
    """A course's tokens are for its servers."""
    wallets = Wallets(TEN_EACH, {})
    expected = [OWN_SOON, OWN_LATER, OWN]
    assert accounts_of(wallets.offers(NO_COURSE, NOW)) == expected


def test_expired_tokens_are_not_spent() -> None:
    """From the very moment on, whether or not anybody has cleared them away."""
    wallets = Wallets(TEN_EACH, {})
    assert accounts_of(wallets.offers(NO_COURSE, SOON)) == [OWN_LATER, OWN]
    before = SOON - timedelta(microseconds=1)
    assert OWN_SOON in accounts_of(wallets.offers(NO_COURSE, before))


def test_a_student_draws_from_the_course_up_to_the_cap() -> None:
    """What is planned counts at once; what comes back can be drawn again."""
    share = Share("physics", ANA)
    wallets = Wallets({COURSE: 10}, {share: 4})
    (part,) = wallets.draw(PHYSICS, 7, NOW)
    assert part == Posting(COURSE, 4)
    assert wallets.available(PHYSICS, NOW) == 0
    assert wallets.available(Payer(BEN, course="physics"), NOW) == 6
    wallets.put_back(PHYSICS, [Posting(COURSE, 3)])
    assert wallets.available(PHYSICS, NOW) == 3
    assert wallets.drawn == {share: 1}


def test_what_comes_back_to_an_account_that_was_empty_can_be_drawn() -> None:
    """A plan may have been made without reading accounts that were empty."""
    wallets = Wallets({}, {})
    wallets.put_back(PHYSICS, [Posting(OWN, 5)])
    assert wallets.draw(PHYSICS, 9, NOW) == (Posting(OWN, 5),)


balances = st.dictionaries(st.sampled_from(ALL), st.integers(0, 50))
rooms = st.dictionaries(
    st.sampled_from([Share("physics", ANA), Share("art", ANA)]), st.integers(0, 50)
)
payers = st.sampled_from([PHYSICS, NO_COURSE, Payer(ANA, course="art"), Payer(BEN)])


@given(balances, rooms, payers, st.integers(0, 200))
def test_drawing_conserves_tokens(
    held: dict[Account, int], room: dict[Share, int], payer: Payer, amount: int
) -> None:
    """What is drawn is what is gone, and putting it back leaves all as it was."""
    wallets = Wallets(held, room)
    before = wallets.offers(payer, NOW)
    available = wallets.available(payer, NOW)
    parts = wallets.draw(payer, amount, NOW)
    taken = sum(part.amount for part in parts)
    assert taken == min(amount, available)
    assert wallets.available(payer, NOW) == available - taken
    assert all(part.amount <= held[part.account] for part in parts)
    assert accounts_of(parts) == accounts_of(before)[: len(parts)]
    wallets.put_back(payer, parts)
    assert wallets.offers(payer, NOW) == before
    assert not any(wallets.drawn.values())


@given(st.permutations(ALL), payers, st.integers(0, 99))
def test_the_order_does_not_depend_on_how_accounts_were_read(
    shuffled: list[Account], payer: Payer, amount: int
) -> None:
    """Two databases, or two readings, give the same parts."""
    one = Wallets(TEN_EACH, {}).draw(payer, amount, NOW)
    other = Wallets(dict.fromkeys(shuffled, 10), {}).draw(payer, amount, NOW)
    assert one == other


parts_drawn = st.lists(
    st.builds(Posting, st.sampled_from(ALL), st.integers(1, 30)), max_size=6
)


@given(parts_drawn, st.data())
def test_using_parts_conserves_tokens(
    parts: list[Posting], data: st.DataObject
) -> None:
    """The first drawn is used first; used and rest are the whole."""
    total = sum(part.amount for part in parts)
    amount = data.draw(st.integers(0, total))
    used, rest = consume(parts, amount)
    assert sum(part.amount for part in used) == amount
    assert sum(part.amount for part in rest) == total - amount
    assert sorted(summed([*used, *rest]), key=repr) == sorted(summed(parts), key=repr)
    assert accounts_of([*used, *rest][: len(used)]) == accounts_of(parts[: len(used)])


@given(parts_drawn, st.data())
def test_a_refund_gives_the_newest_back_first(
    parts: list[Posting], data: st.DataObject
) -> None:
    """What stays paid is what was paid first."""
    total = sum(part.amount for part in parts)
    amount = data.draw(st.integers(0, total))
    back = newest_first(parts, amount)
    kept, undone = consume(parts, total - amount)
    assert sorted(summed(back), key=repr) == sorted(summed(undone), key=repr)
    assert sum(part.amount for part in kept) == total - amount


def test_more_than_there_is_cannot_be_used() -> None:
    """Nor less than nothing: both are mistakes in the code."""
    for amount in (6, -1):
        with pytest.raises(ValueError, match="do not come up"):
            consume([Posting(OWN, 5)], amount)
        with pytest.raises(ValueError, match="do not come up"):
            newest_first([Posting(OWN, 5)], amount)


def test_the_ledgers_own_accounts_are_nobodys_wallet() -> None:
    """They are never drawn from."""
    assert Wallets({ISSUED: 5, HOLDS: 5}, {}).available(PHYSICS, NOW) == 0
