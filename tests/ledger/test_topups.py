"""Tokens paid elsewhere arrive once, and only from who knows the secret."""

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.books import Books
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, BadSignature, KeyReused, NotFound
from torchroom.ledger.model import AMOUNT_MAX
from torchroom.ledger.signatures import TOLERANCE_S, check, sign
from torchroom.ledger.topups import BODY_MAX, Received, TopUp, TopUps, parse

SECRET, OTHER = "s" * 32, "o" * 32
T = 1_795_000_000
AT = datetime.fromtimestamp(T, UTC)
BODY = b'{"id": "pay-1", "user": "ada", "microtokens": 5000000}'


# ---------------------------------------------------------------------- the signature


def test_the_signature_is_what_every_language_can_make() -> None:
    """HMAC-SHA256 of `<t>.<body>` in hex."""
    by_hand = hmac.new(SECRET.encode(), f"{T}.".encode() + BODY, hashlib.sha256)
    header = f"t={T},v1={by_hand.hexdigest()}"

    assert sign(BODY, [SECRET], T) == header
    check(BODY, header, SECRET, T)


def test_while_the_secret_changes_either_of_two_signatures_will_do() -> None:
    """The sender signs with both until the site knows the new one."""
    header = sign(BODY, [OTHER, SECRET], T)
    check(BODY, header, SECRET, T)
    check(BODY, header, OTHER, T)
    with pytest.raises(BadSignature, match="does not fit"):
        check(BODY, header, "x" * 32, T)


@pytest.mark.parametrize("off_s", [-TOLERANCE_S, -1, 0, 1, TOLERANCE_S])
def test_clocks_may_differ_a_little(off_s: int) -> None:
    """Five minutes, either way."""
    check(BODY, sign(BODY, [SECRET], T + off_s), SECRET, T)


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, -T])
def test_a_message_from_another_time_is_refused(off_s: int) -> None:
    """The sentence says how far away, and what to do."""
    with pytest.raises(BadSignature, match="Sign it again with the present time"):
        check(BODY, sign(BODY, [SECRET], T + off_s), SECRET, T)


def test_who_does_not_know_the_secret_learns_nothing_about_the_clock() -> None:
    """A forged old message is forged, not old."""
    with pytest.raises(BadSignature, match="does not fit"):
        check(BODY, sign(BODY, [OTHER], 0), SECRET, T)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        f"t={T}",
        f"v1={'0' * 64}",
        f"t={T},v1=",
        f"t={T},v1={'0' * 63}",
        f"t={T},v1={'A' * 64}",
        f"t=-{T},v1={'0' * 64}",
        f"t=0{T},v1={'0' * 64}",
        f"t=1e9,v1={'0' * 64}",
        f"t={'9' * 5000},v1={'0' * 64}",
        f"t=\u0661,v1={'0' * 64}",
        f"t={T},v0={'0' * 64}",
        f"t={T},v1={'0' * 64},v1={'0' * 64},v1={'0' * 64}",
        f"t={T}, v1={'0' * 64}",
        f"t={T},v1={'0' * 64}\n",
    ],
)
def test_a_header_that_cannot_be_read_is_refused(header: str) -> None:
    """It says how one looks."""
    with pytest.raises(BadSignature, match="cannot be read"):
        check(BODY, header, SECRET, T)


def test_without_a_secret_nothing_fits() -> None:
    """Not even a signature made with the empty one."""
    with pytest.raises(BadSignature):
        check(BODY, sign(BODY, [""], T), "", T)


@given(body=st.binary(), at=st.integers(0, 10**11), data=st.data())
def test_a_changed_byte_anywhere_breaks_the_signature(
    body: bytes, at: int, data: st.DataObject
) -> None:
    """In the body or in the time."""
    header = sign(body, [SECRET], at)
    check(body, header, SECRET, at)
    place = data.draw(st.integers(0, len(body)))
    for changed in (body[:place] + b"0" + body[place:], body[:place]):
        if changed != body:
            with pytest.raises(BadSignature):
                check(changed, header, SECRET, at)
    with pytest.raises(BadSignature):
        check(body, header.replace("t=", "t=1"), SECRET, at)


# ------------------------------------------------------------------------- the message


def told(**fields: object) -> bytes:
    """Return a message that is right but for these fields."""
    right = {"id": "pay-1", "user": "ada", "microtokens": 5_000_000}
    return json.dumps(right | fields).encode()


def test_a_message_says_who_gets_what_for_which_payment() -> None:
    """The note may be left out."""
    assert parse(BODY) == TopUp("pay-1", "ada", 5_000_000)
    assert parse(told(note="Thank you")).note == "Thank you"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        BODY + b"x",
        b"[" * 16_000,
        b'{"id":' * 2_000,
        b'{"id": "a", "id": "b", "user": "ada", "microtokens": 5}',
        b'{"id": "a", "user": "ada", "microtokens": 5, "microtokens": 6}',
        b'{"id": "a", "user": "ada", "microtokens": 5.0}',
        b'{"id": "a", "user": "ada", "microtokens": 1e9}',
        b'{"id": "a", "user": "ada", "microtokens": NaN}',
        b'{"id": "a", "user": "ada", "microtokens": Infinity}',
        b'{"id": "a", "user": "ada", "microtokens": ' + b"9" * 5_000 + b"}",
        b'{"id": "a", "user": "ada", "microtokens": 05}',
        b'{"id": "a", "user": "ada"}',
        told(microtokens="5"),
        told(microtokens=True),
        told(microtokens=None),
        told(microtokens=[5]),
        told(microtokens=0),
        told(microtokens=-5),
        told(microtokens=AMOUNT_MAX + 1),
        told(course="deep-learning"),
        told(expires_at=None),
        told(id=5),
        told(id=""),
        told(id="x" * 201),
        told(id="a\n"),
        told(id="\ud800"),
        told(user=None),
        told(user=""),
        told(user="a/b"),
        told(user="\ud800"),
        told(user="x" * 10_000),
        told(user={"name": "ada"}),
        told(note=None),
        told(note="x" * 501),
        told(note="a\nb"),
    ],
    ids=lambda body: ascii(body[:60].decode("latin-1")),
)
def test_what_is_not_exactly_such_a_message_is_refused(body: bytes) -> None:
    """Fractions, names that are there twice, unknown names, other types."""
    with pytest.raises(BadInput):
        parse(body)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
names = st.sampled_from(["id", "user", "microtokens", "note", "x"])


@given(st.binary() | st.dictionaries(names, scalars).map(json.dumps).map(str.encode))
def test_no_bytes_break_the_reading_of_messages(body: bytes) -> None:
    """They are refused with a sentence, or are a message with a whole amount."""
    try:
        topup = parse(body)
    except BadInput:
        return
    assert type(topup.microtokens) is int
    assert 1 <= topup.microtokens <= AMOUNT_MAX


# --------------------------------------------------------------------------- receiving


@pytest.fixture
def topups(db: Database) -> TopUps:
    return TopUps(db, SECRET)


async def receive(topups: TopUps, body: bytes, at_s: int = T) -> Received:
    """Receive a message that was signed just now."""
    now = datetime.fromtimestamp(at_s, UTC)
    return await topups.receive(body, sign(body, [SECRET], at_s), now)


async def test_what_was_paid_for_arrives(topups: TopUps, books: Books) -> None:
    """For any server, without an expiry."""
    got = await receive(topups, BODY)

    assert (got.topup.user, got.is_new) == ("ada", True)
    assert await books.of("ada") == await books.issued() == 5_000_000


async def test_a_message_that_comes_again_gives_nothing_more(
    topups: TopUps, books: Books
) -> None:
    """Replayed as it was, signed anew, written differently, or days later."""
    first = await receive(topups, BODY)
    again = [
        await receive(topups, BODY),
        await receive(topups, BODY, T + 86_400),
        await receive(topups, told(note="Second try")),
        await TopUps(books.db, SECRET).receive(BODY, sign(BODY, [SECRET], T), AT),
    ]

    assert {each.transaction_id for each in again} == {first.transaction_id}
    assert not any(each.is_new for each in again)
    assert await books.issued() == 5_000_000


async def test_the_same_message_many_times_at_once_is_one(
    topups: TopUps, books: Books
) -> None:
    """Payment systems send again when an answer takes long."""
    got = await asyncio.gather(*(receive(topups, BODY) for _ in range(20)))

    assert sum(each.is_new for each in got) == 1
    assert len({each.transaction_id for each in got}) == 1
    assert await books.of("ada") == 5_000_000


async def test_an_id_is_for_one_user_and_amount(topups: TopUps, books: Books) -> None:
    """Another one under it is a mistake that somebody must look at."""
    await receive(topups, BODY)
    for other in (told(microtokens=1), told(user="bob")):
        with pytest.raises(KeyReused):
            await receive(topups, other)
    await receive(topups, told(id="pay-2"))
    assert await books.issued() == 10_000_000


async def test_ids_and_names_may_be_unusual(topups: TopUps, books: Books) -> None:
    """Long ids, colons, unicode: each is its own top-up."""
    ids = ["a:b", "x" * 200, "x" * 199 + "y", "#", "%3A", "名前", " "]
    for number in ids:
        assert (await receive(topups, told(id=number, user="Zoë"))).is_new
    assert await books.of("Zoë") == len(ids) * 5_000_000


async def test_what_is_not_signed_by_who_knows_the_secret_moves_nothing(
    topups: TopUps, books: Books
) -> None:
    """Forged, changed, too old, from the future, without a signature."""
    good = sign(BODY, [SECRET], T)
    for body, header, now_s in [
        (BODY, sign(BODY, [OTHER], T), T),
        (told(microtokens=6_000_000), good, T),
        (BODY, good, T + TOLERANCE_S + 1),
        (BODY, good, T - TOLERANCE_S - 1),
        (BODY, "", T),
        (BODY, good.replace("v1=", "v0="), T),
    ]:
        with pytest.raises(BadSignature):
            await topups.receive(body, header, datetime.fromtimestamp(now_s, UTC))
    assert await books.codes() == []


async def test_a_message_that_is_too_long_is_not_even_checked(
    topups: TopUps, books: Books
) -> None:
    """16 KiB are enough for every message."""
    body = told(note="") + b" " * (BODY_MAX + 1)
    with pytest.raises(BadInput, match="longer than"):
        await topups.receive(body, "", AT)
    padded = told().ljust(BODY_MAX)
    assert (await receive(topups, padded)).is_new


async def test_without_a_secret_no_message_is_taken(db: Database, books: Books) -> None:
    """Not even one that is signed with the empty secret."""
    with pytest.raises(NotFound, match="no secret"):
        await TopUps(db, "").receive(BODY, sign(BODY, [""], T), AT)
    assert await books.codes() == []


async def test_a_secret_that_can_be_guessed_is_not_taken(db: Database) -> None:
    """The sentence says how to make a better one, and does not quote it."""
    with pytest.raises(BadInput, match="at least 32") as refused:
        TopUps(db, "hunter2")
    assert "hunter2" not in str(refused.value)
