"""A voucher is worth its tokens once: to who types it, to nobody who guesses."""

import asyncio
import hashlib
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.books import COURSE, DAY, HOUR, NOW, TOKEN, Books
from sqlalchemy import func, select
from torchroom.ledger.codes import ALPHABET, RANDOM_BYTES, code_of, digest_of
from torchroom.ledger.database import Database
from torchroom.ledger.errors import (
    BadInput,
    KeyReused,
    NotFound,
    TooManyTries,
    VoucherRefused,
)
from torchroom.ledger.grants import Grants
from torchroom.ledger.model import AMOUNT_MAX
from torchroom.ledger.tables import tries, vouchers
from torchroom.ledger.vouchers import N_MAX, Redemption, Voucher, Vouchers

ZEROS, ONES = bytes(RANDOM_BYTES), b"\xff" * RANDOM_BYTES
randoms = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
GUESS = "TR-0000-0000-0000-0000"


@pytest.fixture
def desk(db: Database) -> Vouchers:
    return Vouchers(db)


async def made(desk: Vouchers, n: int = 1, **wanted: Any) -> list[str]:
    """Make vouchers of one token each; return their codes."""
    told: dict[str, Any] = {"actor": "admin", "at": NOW} | wanted
    return [each.code for each in await desk.create(n, TOKEN, **told)]


async def fail(desk: Vouchers, user: str, n: int) -> None:
    """Type so many wrong codes, a second apart until NOW."""
    for ago in range(n, 0, -1):
        with pytest.raises(VoucherRefused):
            await desk.redeem(user, GUESS, key="k", at=NOW - ago * SECOND)


# -------------------------------------------------------------------------- the code


def test_a_code_is_four_groups_without_letters_that_look_like_digits() -> None:
    """Crockford's base32, all 80 bits of it."""
    assert code_of(ZEROS) == "TR-0000-0000-0000-0000"
    assert code_of(ONES) == "TR-ZZZZ-ZZZZ-ZZZZ-ZZZZ"
    assert code_of(bytes(9) + b"\x1f") == "TR-0000-0000-0000-000Z"
    assert len(ALPHABET) == len(set(ALPHABET) - set("ILOU")) == 32


@given(randoms)
def test_every_random_bit_is_in_the_code(random: bytes) -> None:
    """Read back as a number in base 32, it is the random bytes."""
    code = code_of(random)
    number = 0
    for character in code.removeprefix("TR").replace("-", ""):
        number = number * 32 + ALPHABET.index(character)

    assert re.fullmatch(r"TR(-[0-9A-HJKMNP-TV-Z]{4}){4}", code)
    assert number == int.from_bytes(random)


@pytest.mark.parametrize("n", [0, 9, 11, 32])
def test_a_code_of_too_few_random_bytes_is_never_made(n: int) -> None:
    """Not of more either: they would be lost."""
    with pytest.raises(ValueError, match="10 random bytes"):
        code_of(bytes(n))


@pytest.mark.parametrize(
    "typed",
    [
        "TR-01AB-CD01-1EFG-HJ10",
        "tr-01ab-cd01-1efg-hj10",
        "01AB CD01 1EFG HJ10",
        "  tr 01abcd011efghj10\n",
        "TR-OLAB-CDOI-IEFG-HJLO",
        "tr-olab-cdoi-lefg-hjio",
        "TR\u201301AB\u201301CD".replace("01CD", "CD01") + "\u20141EFG\u2011HJ10",
        "\uff34\uff32-01AB-CD01-1EFG-HJ\uff11\uff10",
    ],
)
def test_a_code_may_be_typed_the_way_people_type(typed: str) -> None:
    """Small letters, spaces, other dashes, wide letters; O for 0, I and L for 1."""
    assert digest_of(typed) == hashlib.sha256(b"01ABCD011EFGHJ10").hexdigest()


@given(randoms)
def test_a_code_that_begins_with_the_prefix_letters_is_read_whole(
    random: bytes,
) -> None:
    """T and R are code letters, too: with and without the prefix it is the same."""
    code = code_of(random)
    assert digest_of(code) == digest_of(code.removeprefix("TR-")) is not None
    begins = "TR" + code.replace("-", "")[4:]
    assert digest_of(begins) == hashlib.sha256(begins.encode()).hexdigest()


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "TR",
        "TR-0000-0000-0000-000",
        "TR-0000-0000-0000-00000",
        "TR-TR-0000-0000-0000-0000",
        "TR-UUUU-0000-0000-0000",
        "XX-0000-0000-0000-0000",
        "0" * 10_000,
        "-" * 65,
        "TR-0000-0000-0000-000\u0660",
        "TR-0000-0000-0000-000\x00",
        "TR-0000-0000-0000-000\ud800",
    ],
)
def test_what_cannot_be_a_code_is_none(typed: str) -> None:
    """Too short, too long, another alphabet, another prefix."""
    assert digest_of(typed) is None


@given(st.text())
def test_no_text_breaks_the_reading_of_codes(typed: str) -> None:
    """It is 64 hex digits or None."""
    digest = digest_of(typed)
    assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)


# ---------------------------------------------------------------------------- redeeming


async def test_a_voucher_is_worth_its_tokens(desk: Vouchers, books: Books) -> None:
    """To who redeems it, at once; until then nothing is issued."""
    code = (await made(desk))[0]
    assert await books.issued() == 0

    got = await desk.redeem("ada", code.lower(), key="k", at=NOW)
    assert (got.amount, got.is_new) == (TOKEN, True)
    assert await books.of("ada") == await books.issued() == TOKEN


async def test_a_voucher_can_be_for_a_course_and_its_tokens_can_expire(
    desk: Vouchers, books: Books
) -> None:
    """As who made it decided."""
    await books.course(0)
    code = (await made(desk, course=COURSE, tokens_expire_at=NOW + DAY))[0]
    got = await desk.redeem("ada", code, key="k", at=NOW)

    assert (got.course, got.expires_at) == (COURSE, NOW + DAY)
    assert await books.of("ada", COURSE) == TOKEN
    assert await Grants(books.db).lapse(NOW + DAY) == 1


async def test_a_used_voucher_is_worth_nothing(desk: Vouchers, books: Books) -> None:
    """Not to others, and not again to who used it."""
    code = (await made(desk))[0]
    await desk.redeem("ada", code, key="k", at=NOW)
    for user in ("bob", "ada"):
        with pytest.raises(VoucherRefused):
            await desk.redeem(user, code, key="l", at=NOW)
    assert await books.issued() == TOKEN


async def test_the_same_request_again_gets_the_same_answer(
    desk: Vouchers, books: Books
) -> None:
    """Who lost the first answer is not told that the voucher is used."""
    one, other = await made(desk, 2)
    first = await desk.redeem("ada", one, key="k", at=NOW)
    again = await desk.redeem("ada", one.lower(), key="k", at=NOW + DAY)

    assert (again.transaction_id, again.is_new) == (first.transaction_id, False)
    with pytest.raises(KeyReused):
        await desk.redeem("ada", other, key="k", at=NOW)
    await desk.redeem("bob", other, key="k", at=NOW)
    assert await books.issued() == 2 * TOKEN


async def test_many_who_redeem_at_once_get_it_once(
    desk: Vouchers, books: Books
) -> None:
    """Twenty users and three vouchers: three are lucky."""
    codes = await made(desk, 3)
    done = await asyncio.gather(
        *(
            desk.redeem(f"user{n}", code, key=code, at=NOW)
            for n in range(20)
            for code in codes
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(each, Redemption) for each in done) == 3
    assert sum(isinstance(each, VoucherRefused) for each in done) == 57
    assert await books.issued() == 3 * TOKEN


async def test_one_user_who_sends_it_many_times_at_once_gets_it_once(
    desk: Vouchers, books: Books
) -> None:
    """All with one key get the same answer, another key does not get it again."""
    code = (await made(desk))[0]
    done = await asyncio.gather(
        *(desk.redeem("ada", code, key="k", at=NOW) for _ in range(15)),
    )

    assert len({each.transaction_id for each in done}) == 1
    assert sum(each.is_new for each in done) == 1
    assert await books.issued() == TOKEN


async def test_vouchers_and_their_tokens_expire(desk: Vouchers, books: Books) -> None:
    """Whichever comes first, to the microsecond."""
    soon = NOW + HOUR
    for wanted in ({"expires_at": soon}, {"tokens_expire_at": soon}):
        one, other = await made(desk, 2, **wanted)
        with pytest.raises(VoucherRefused):
            await desk.redeem("ada", one, key="k", at=soon)
        late = soon - timedelta(microseconds=1)
        await desk.redeem("bob", other, key=other, at=late)
    assert await books.issued() == 2 * TOKEN


async def test_no_refusal_says_whether_there_is_such_a_code(
    desk: Vouchers, books: Books
) -> None:
    """Forged, used, expired and revoked ones are refused with the same words."""
    used, revoked, expired = await made(desk, 3, expires_at=NOW + HOUR)
    await desk.redeem("bob", used, key="k", at=NOW)
    listed = (await desk.list()).items
    redeemed = {each.id for each in listed if each.redeemed_by}
    async with books.db.read() as conn:
        query = select(vouchers.c.id).where(vouchers.c.digest == digest_of(revoked))
        await desk.revoke(await conn.scalar(query) or "", at=NOW)

    told = set()
    for code, at in ((GUESS, NOW), (used, NOW), (revoked, NOW), (expired, NOW + HOUR)):
        with pytest.raises(VoucherRefused) as refused:
            await desk.redeem("ada", code, key="k", at=at)
        told.add(str(refused.value))
    assert len(told) == len(redeemed) == 1


async def test_what_is_no_code_is_told_so_and_is_no_guess(
    desk: Vouchers, books: Books
) -> None:
    """It cannot be one, so saying so gives nothing away."""
    for typed in ("", "hello", "x" * 10_000, "TR-0000-0000-0000-000\ud800"):
        for _ in range(6):
            with pytest.raises(VoucherRefused, match="not a code"):
                await desk.redeem("ada", typed, key="k", at=NOW)
    for name in ("", "a/b", "\x00", "\ud800"):
        with pytest.raises(BadInput):
            await desk.redeem(name, GUESS, key="k", at=NOW)


# ----------------------------------------------------------------------------- guessing


async def test_after_five_failures_a_user_must_wait(
    desk: Vouchers, books: Books
) -> None:
    """Even with a code that is good; the answer says how long. Then it is redeemed."""
    code = (await made(desk))[0]
    await fail(desk, "ada", 5)

    with pytest.raises(TooManyTries, match="10 min") as refused:
        await desk.redeem("ada", code, key="k", at=NOW)
    assert refused.value.retry_after_s == 10 * 60 - 5
    with pytest.raises(TooManyTries):
        await desk.redeem("ada", code, key="k", at=NOW + timedelta(seconds=594.9))
    await desk.redeem("ada", code, key="k", at=NOW + timedelta(seconds=595))
    assert await books.of("ada") == TOKEN


async def test_other_users_need_not_wait(desk: Vouchers, books: Books) -> None:
    """And other processes count the same failures."""
    code = (await made(desk))[0]
    await fail(desk, "ada", 5)
    with pytest.raises(TooManyTries):
        await Vouchers(books.db).redeem("ada", code, key="k", at=NOW)
    await desk.redeem("bob", code, key="k", at=NOW)


async def test_a_success_is_no_failure(desk: Vouchers, books: Books) -> None:
    """Many good codes in a row are fine, and so is the same request again."""
    await fail(desk, "ada", 4)
    for code in await made(desk, 6):
        await desk.redeem("ada", code, key=code, at=NOW)
    await fail(desk, "ada", 1)
    again = await desk.redeem("ada", code, key=code, at=NOW)
    assert not again.is_new


async def test_guesses_sent_all_at_once_are_counted_too(
    desk: Vouchers, books: Books
) -> None:
    """Not one more than five is looked up."""
    done = await asyncio.gather(
        *(desk.redeem("ada", GUESS, key=f"{n}", at=NOW) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, VoucherRefused) for each in done) == 5
    assert sum(isinstance(each, TooManyTries) for each in done) == 15


async def test_old_failures_are_forgotten(desk: Vouchers, books: Books) -> None:
    """Who mistypes a code a day fills no table."""
    for day in range(9):
        with pytest.raises(VoucherRefused):
            await desk.redeem("ada", GUESS, key="k", at=NOW + day * DAY)
    async with books.db.read() as conn:
        assert await conn.scalar(select(func.count()).select_from(tries)) == 1


# -------------------------------------------------------------- making, listing, ending


async def test_codes_are_in_the_answer_and_nowhere_else(
    desk: Vouchers, books: Books
) -> None:
    """The database has their SHA-256 only."""
    new = await desk.create(3, TOKEN, actor="admin", at=NOW, note="Prize")
    async with books.db.read() as conn:
        rows = (await conn.execute(select(vouchers))).all()

    assert len({each.code for each in new}) == len({each.id for each in new}) == 3
    stored = repr(rows)
    for each in new:
        for secret in (each.code, each.code.replace("-", "")[2:]):
            assert secret not in stored
        assert each.id in stored


async def test_what_cannot_be_a_voucher_is_not_made(
    desk: Vouchers, books: Books
) -> None:
    """Negative, zero, fractional, huge amounts and numbers; times that are past."""
    for amount in (0, -1, AMOUNT_MAX + 1, 1.5, True, "5"):
        with pytest.raises(BadInput, match="amount"):
            await desk.create(1, amount, actor="admin", at=NOW)  # type: ignore[arg-type]
    for n in (0, -1, N_MAX + 1):
        with pytest.raises(BadInput, match="vouchers at a time"):
            await made(desk, n)
    for wanted in ({"expires_at": NOW}, {"tokens_expire_at": NOW - DAY}):
        with pytest.raises(BadInput, match="in the future"):
            await made(desk, 1, **wanted)
    with pytest.raises(BadInput):
        await made(desk, 1, note="x" * 501)
    with pytest.raises(BadInput):
        await made(desk, 1, course="a/b")
    with pytest.raises(NotFound):
        await made(desk, 1, course="other")
    assert (await desk.list()).items == ()


async def test_the_list_shows_what_became_of_each_page_by_page(
    desk: Vouchers, books: Books
) -> None:
    """Newest first, each once, and never a code."""
    codes = [(await made(desk, 1, at=NOW + n * MINUTE))[0] for n in range(3)]
    codes += await made(desk, 4, at=NOW - MINUTE)
    await desk.redeem("ada", codes[0], key="k", at=NOW + HOUR)

    found: list[Voucher] = []
    cursor = None
    while True:
        page = await desk.list(limit=2, cursor=cursor)
        found += page.items
        cursor = page.next
        if cursor is None:
            break
    assert len({each.id for each in found}) == len(found) == 7
    assert [each.created_at for each in found[:3]] == [
        NOW + n * MINUTE for n in (2, 1, 0)
    ]
    assert (found[2].redeemed_by, found[2].redeemed_at) == ("ada", NOW + HOUR)
    assert all(each.redeemed_by == "" for each in found if each is not found[2])
    assert not any(code in repr(found) for code in codes)


async def test_a_list_refuses_what_is_no_page_of_it(desk: Vouchers) -> None:
    """Limits and cursors come from outside."""
    for limit in (0, -1, 201):
        with pytest.raises(BadInput, match="rows"):
            await desk.list(limit=limit)
    for cursor in ("", "x", "1.", "9" * 30 + ".vc_1", "1.vc_'--", "1.\ud800"):
        with pytest.raises(BadInput, match="cursor"):
            await desk.list(cursor=cursor)


async def test_a_voucher_that_nobody_used_can_be_revoked(
    desk: Vouchers, books: Books
) -> None:
    """Twice is once."""
    new = (await desk.create(1, TOKEN, actor="admin", at=NOW))[0]
    await desk.revoke(new.id, at=NOW)
    await desk.revoke(new.id, at=NOW + DAY)

    with pytest.raises(VoucherRefused):
        await desk.redeem("ada", new.code, key="k", at=NOW)
    assert (await desk.list()).items[0].revoked_at == NOW


async def test_a_used_voucher_cannot_be_revoked(desk: Vouchers, books: Books) -> None:
    """The admin learns who has the tokens; nor can one that is not there."""
    new = (await desk.create(1, TOKEN, actor="admin", at=NOW))[0]
    await desk.redeem("ada", new.code, key="k", at=NOW)

    with pytest.raises(VoucherRefused, match="ada redeemed this voucher"):
        await desk.revoke(new.id, at=NOW)
    for number in ("", "vc_0", "vc_" + "0" * 16, "\x00", "\ud800", "x" * 300):
        with pytest.raises(NotFound):
            await desk.revoke(number, at=NOW)
    assert (await desk.list()).items[0].revoked_at is None


async def test_a_voucher_is_revoked_or_redeemed_never_both(
    desk: Vouchers, books: Books
) -> None:
    """At the same moment, one of them comes first."""
    news = await desk.create(8, TOKEN, actor="admin", at=NOW)
    await asyncio.gather(
        *(desk.redeem("ada", new.code, key=new.id, at=NOW) for new in news[:4]),
        *(desk.revoke(new.id, at=NOW) for new in news),
        return_exceptions=True,
    )
    for each in (await desk.list()).items:
        assert bool(each.redeemed_by) != bool(each.revoked_at)
