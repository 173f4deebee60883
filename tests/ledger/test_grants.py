"""What admins give and take is exact, happens once, and never below zero."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.books import COURSE, DAY, HOUR, NOW, TOKEN, Books
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, KeyReused, NotEnough, NotFound
from torchroom.ledger.grants import Grants
from torchroom.ledger.keys import asked_key, own_key, request_of
from torchroom.ledger.model import AMOUNT_MAX, Account, Kind
from torchroom.ledger.names import check_key

BAD_AMOUNTS: list[Any] = [
    0,
    -1,
    -(10**18),
    AMOUNT_MAX + 1,
    10**30,
    1.5,
    True,
    "5",
    None,
]
BAD_NAMES = ["", " ada", "a/b", "a\nb", "x" * 256, "\ud800", "../" * 3000, "\x00"]
ODD_NAMES = ["Zoë", "名前", "a:b", "ask:#", "x" * 255, "%2F", "o'neill; --", "😀"]


@pytest.fixture
def grants(db: Database) -> Grants:
    return Grants(db)


# ------------------------------------------------------------------------------ giving


async def test_a_grant_is_the_users_at_once(grants: Grants, books: Books) -> None:
    """To the microtoken, and it was issued."""
    done = await grants.grant("ada", 12_345_678, key="k", actor="admin", at=NOW)

    assert done.is_new
    assert await books.of("ada") == 12_345_678
    assert await books.issued() == 12_345_678


async def test_the_same_request_again_gives_nothing_more(
    grants: Grants, books: Books
) -> None:
    """The answer is the same transaction, even after its expiry has passed."""
    expires_at = NOW + HOUR
    first = await grants.grant(
        "ada", TOKEN, key="k", actor="admin", at=NOW, expires_at=expires_at
    )
    again = await grants.grant(
        "ada", TOKEN, key="k", actor="admin", at=NOW + DAY, expires_at=expires_at
    )

    assert (again.id, again.is_new) == (first.id, False)
    assert await books.of("ada") == TOKEN


async def test_the_same_request_many_times_at_once_gives_once(
    grants: Grants, books: Books
) -> None:
    """Whoever comes first; all get the same answer."""
    done = await asyncio.gather(
        *(grants.grant("ada", TOKEN, key="k", actor="admin", at=NOW) for _ in range(20))
    )

    assert len({each.id for each in done}) == 1
    assert sum(each.is_new for each in done) == 1
    assert await books.of("ada") == TOKEN


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 2 * TOKEN},
        {"user": "bob"},
        {"expires_at": NOW + DAY},
        {"course": COURSE},
    ],
    ids=str,
)
async def test_a_key_is_for_one_request(
    grants: Grants, books: Books, other: dict[str, object]
) -> None:
    """Another amount, user, expiry or course under it is refused."""
    await books.course(0)
    asked = {"user": "ada", "amount": TOKEN, "key": "k", "actor": "admin", "at": NOW}
    await grants.grant(**asked)  # type: ignore[arg-type]

    with pytest.raises(KeyReused):
        await grants.grant(**asked | other)  # type: ignore[arg-type]
    assert await books.issued() == TOKEN


async def test_two_senders_may_use_the_same_key(grants: Grants, books: Books) -> None:
    """Keys are each sender's own; nobody can use up another's."""
    for actor in ("admin", "other admin"):
        await grants.grant("ada", TOKEN, key="k", actor=actor, at=NOW)
    assert await books.of("ada") == 2 * TOKEN


async def test_no_key_that_is_sent_takes_the_place_of_a_welcome(
    grants: Grants, books: Books
) -> None:
    """The ledger's own keys are out of everybody's reach."""
    for key in ("welcome:ada", "ask:welcome:ada", own_key("welcome", "ada")):
        await grants.grant("bob", TOKEN, key=key, actor="welcome", at=NOW)
    assert await grants.welcome("ada", TOKEN, at=NOW)


async def test_a_negative_zero_fractional_or_huge_amount_moves_nothing(
    grants: Grants, books: Books
) -> None:
    """Weakness 4 of jupyterhub-credit-service: a negative number minted credits."""
    await books.give("ada", TOKEN)
    for amount in BAD_AMOUNTS:
        for use in (grants.grant, grants.take_back):
            with pytest.raises(BadInput, match="amount"):
                await use("ada", amount, key="k", actor="admin", at=NOW)
    assert await books.of("ada") == await books.issued() == TOKEN


async def test_names_that_cannot_be_used_are_refused(
    grants: Grants, books: Books
) -> None:
    """Slashes, control characters, 10 kB: as a user and as a course."""
    for name in BAD_NAMES:
        with pytest.raises(BadInput):
            await grants.grant(name, TOKEN, key="k", actor="admin", at=NOW)
        with pytest.raises(BadInput):
            await grants.take_back(name, TOKEN, key="k", actor="admin", at=NOW)
        with pytest.raises(BadInput):
            await grants.welcome(name, TOKEN, at=NOW)
        if name:
            with pytest.raises(BadInput):
                await grants.grant("ada", 1, key="k", actor="a", at=NOW, course=name)
    assert await books.issued() == 0


async def test_unusual_names_are_names(grants: Grants, books: Books) -> None:
    """Unicode, 255 characters, quotes: each is its own account."""
    for name in ODD_NAMES:
        await grants.grant(name, TOKEN, key="k", actor=name, at=NOW)
        assert await grants.welcome(name, TOKEN, at=NOW)
        await grants.take_back(name, 5, key="k2", actor=name, at=NOW)
    for name in ODD_NAMES:
        assert await books.of(name) == 2 * TOKEN - 5


async def test_tokens_that_would_be_expired_already_are_not_given(
    grants: Grants, books: Books
) -> None:
    """It says to choose a later time."""
    for ago in (timedelta(0), timedelta(microseconds=1), DAY):
        with pytest.raises(BadInput, match="in the future"):
            await grants.grant(
                "ada", TOKEN, key="k", actor="admin", at=NOW, expires_at=NOW - ago
            )
    with pytest.raises(BadInput, match="time zone"):
        await grants.grant(
            "ada",
            TOKEN,
            key="k",
            actor="admin",
            at=NOW,
            expires_at=datetime(2030, 1, 1),  # noqa: DTZ001 - the mistake
        )
    assert await books.issued() == 0


async def test_an_earmark_for_a_course_that_is_not_there_is_refused(
    grants: Grants, books: Books
) -> None:
    """A typing mistake would make tokens that pay for nothing."""
    with pytest.raises(NotFound, match="no course"):
        await grants.grant(
            "ada", TOKEN, key="k", actor="admin", at=NOW, course="deep-lerning"
        )
    assert await books.issued() == 0


async def test_a_key_that_cannot_be_used_is_refused(grants: Grants) -> None:
    """Empty, too long, or not printable ASCII."""
    for key in ("", "x" * 201, "ü", "a\n", " a"):
        with pytest.raises(BadInput, match="idempotency key"):
            await grants.grant("ada", TOKEN, key=key, actor="admin", at=NOW)


async def test_a_user_who_has_more_than_any_cap_can_still_be_given_tokens(
    grants: Grants, books: Books
) -> None:
    """Weakness 6: jupyterhub-credit-service refused a top-up above its cap."""
    await books.course(10 * TOKEN, cap=TOKEN)
    await books.give("ada", 100 * TOKEN)
    await books.give("ada", 100 * TOKEN, course=COURSE)
    assert await books.of("ada") == await books.of("ada", COURSE) == 100 * TOKEN


# ----------------------------------------------------------------------------- welcome


async def test_everybody_is_welcomed_once(grants: Grants, books: Books) -> None:
    """However often they log in, and however many processes notice them."""
    news = await asyncio.gather(
        *(grants.welcome("ada", TOKEN, at=NOW) for _ in range(10))
    )
    assert sorted(news) == [False] * 9 + [True]
    assert not await grants.welcome("ada", TOKEN, at=NOW + DAY)
    assert await books.of("ada") == TOKEN


async def test_another_welcome_amount_is_for_new_users_only(
    grants: Grants, books: Books
) -> None:
    """Weakness 6: there, every login wrote the configured values over the balances."""
    await grants.welcome("ada", TOKEN, at=NOW)
    await grants.take_back("ada", TOKEN, key="k", actor="admin", at=NOW)

    assert not await grants.welcome("ada", 5 * TOKEN, at=NOW + DAY)
    assert await books.of("ada") == 0
    assert await grants.welcome("bob", 5 * TOKEN, at=NOW + DAY)


async def test_no_welcome_is_nothing(grants: Grants, books: Books) -> None:
    """And can become something later."""
    assert not await grants.welcome("ada", 0, at=NOW)
    assert await books.codes() == []
    assert await grants.welcome("ada", TOKEN, at=NOW)


# -------------------------------------------------------------------------- taking back


async def test_what_expires_soonest_is_taken_first_and_what_lasts_last(
    grants: Grants, books: Books
) -> None:
    """The user loses what would be lost first anyway."""
    await books.give("ada", 10)
    await books.give("ada", 20, expires_at=NOW + 2 * DAY)
    await books.give("ada", 30, expires_at=NOW + DAY)

    await grants.take_back("ada", 51, key="k", actor="admin", at=NOW)

    assert await books.legs() == [
        ("ada", NOW + DAY, -30),
        ("ada", NOW + 2 * DAY, -20),
        ("ada", None, -1),
        ("", None, 51),
    ]


async def test_more_than_is_available_is_refused_with_what_is(
    grants: Grants, books: Books
) -> None:
    """Held, expired and earmarked tokens are not available; nothing is taken."""
    await books.course(0)
    await books.give("ada", 3 * TOKEN)
    await books.give("ada", 5 * TOKEN, expires_at=NOW + HOUR)
    await books.give("ada", 7 * TOKEN, course=COURSE)
    await books.hold("lease", "ada", {Account(Kind.USER, "ada"): TOKEN})

    with pytest.raises(NotEnough, match=r"2 tokens can be taken, not 2\.000001 tokens"):
        await grants.take_back(
            "ada", 2 * TOKEN + 1, key="k", actor="admin", at=NOW + HOUR
        )
    await grants.take_back("ada", 2 * TOKEN, key="k", actor="admin", at=NOW + HOUR)
    assert await books.of("ada", COURSE) == 7 * TOKEN


async def test_earmarked_tokens_are_taken_when_they_are_meant(
    grants: Grants, books: Books
) -> None:
    """And only they."""
    await books.course(0)
    await books.give("ada", 10)
    await books.give("ada", 20, course=COURSE)

    await grants.take_back("ada", 20, key="k", actor="a", at=NOW, course=COURSE)
    with pytest.raises(NotEnough):
        await grants.take_back("ada", 1, key="l", actor="a", at=NOW, course=COURSE)
    assert await books.of("ada") == 10


async def test_a_repeated_take_back_takes_nothing_more(
    grants: Grants, books: Books
) -> None:
    """Even when there is nothing left that it could take."""
    await books.give("ada", TOKEN)
    first = await grants.take_back("ada", TOKEN, key="k", actor="admin", at=NOW)
    again = await grants.take_back("ada", TOKEN, key="k", actor="admin", at=NOW)

    assert (again.id, again.is_new) == (first.id, False)


async def test_the_same_take_back_many_times_at_once_takes_once(
    grants: Grants, books: Books
) -> None:
    """None is refused for the tokens that the first of them took."""
    await books.give("ada", TOKEN)
    done = await asyncio.gather(
        *(
            grants.take_back("ada", TOKEN, key="k", actor="admin", at=NOW)
            for _ in range(8)
        )
    )

    assert sum(each.is_new for each in done) == 1
    assert await books.of("ada") == 0


async def test_nothing_is_taken_from_who_has_nothing(grants: Grants) -> None:
    """Of a name that the ledger never heard of, too."""
    with pytest.raises(NotEnough, match="0 tokens can be taken"):
        await grants.take_back("nobody", 1, key="k", actor="admin", at=NOW)


async def test_many_take_backs_at_once_take_what_there_is(
    grants: Grants, books: Books
) -> None:
    """Ten of eleven that ask for a tenth each; nobody goes below zero."""
    await books.give("ada", 4 * TOKEN)
    await books.give("ada", 6 * TOKEN, expires_at=NOW + DAY)
    done = await asyncio.gather(
        *(
            grants.take_back("ada", TOKEN, key=f"k{n}", actor="admin", at=NOW)
            for n in range(11)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(each, NotEnough) for each in done) == 1
    assert await books.of("ada") == 0


# ------------------------------------------------------------------------------- lapses


async def test_expired_tokens_leave_the_ledger_when_their_time_has_come(
    grants: Grants, books: Books
) -> None:
    """Not a microsecond before; those that last stay."""
    await books.course(0)
    await books.give("ada", 10)
    await books.give("ada", 20, expires_at=NOW + DAY)
    await books.give("bob", 30, expires_at=NOW + DAY, course=COURSE)

    assert await grants.lapse(NOW + DAY - timedelta(microseconds=1)) == 0
    assert await grants.lapse(NOW + DAY) == 2
    assert await grants.lapse(NOW + 2 * DAY) == 0
    assert (await books.of("ada"), await books.of("bob", COURSE)) == (10, 0)
    assert await books.issued() == 10


async def test_several_at_once_lapse_the_same_tokens_once(
    grants: Grants, books: Books
) -> None:
    """Each account once in all."""
    for user in ("ada", "bob", "eve"):
        await books.give(user, TOKEN, expires_at=NOW + DAY)
    done = await asyncio.gather(*(grants.lapse(NOW + DAY) for _ in range(5)))

    assert sum(done) == 3
    assert await books.issued() == 0


async def test_what_comes_back_to_an_expired_account_lapses_the_next_time(
    grants: Grants, books: Books
) -> None:
    """Like the rest of a hold."""
    expires_at = NOW + DAY
    for amount in (TOKEN, TOKEN):
        await books.give("ada", amount, expires_at=expires_at)
        assert await grants.lapse(expires_at) == 1
    assert (await books.codes()).count("lapse") == 2
    assert await books.issued() == 0


async def test_more_accounts_than_fit_into_one_write_lapse(
    grants: Grants, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, each once."""
    monkeypatch.setattr("torchroom.ledger.grants.LAPSED_AT_ONCE", 2)
    for n in range(5):
        await books.give(f"user{n}", TOKEN, expires_at=NOW + DAY)

    assert await grants.lapse(NOW + DAY) == 5
    assert await books.issued() == 0


# --------------------------------------------------------------------------------- keys

texts = st.text(max_size=300)


@given(st.lists(st.tuples(texts, texts), min_size=2, max_size=2, unique=True))
def test_different_parts_have_different_keys(pair: list[tuple[str, str]]) -> None:
    """And all of them are keys that the journal takes."""
    one, other = (own_key("allowance", *parts) for parts in pair)
    assert one != other
    assert check_key(one)
    assert check_key(other)
    assert request_of(*pair[0]) != request_of(*pair[1])


def test_a_sender_whose_name_has_colons_gets_no_others_key() -> None:
    """What is "a:b" with "c" is not "a" with "b:c"."""
    assert asked_key("a:b", "c") != asked_key("a", "b:c")
    assert asked_key("a", "k") != own_key("ask", "a:k")
    assert asked_key("x" * 300, "k") != asked_key("x" * 300, "l")
