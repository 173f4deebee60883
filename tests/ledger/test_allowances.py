"""Every student gets what the course allows, once a period, whatever they try."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.books import COURSE, DAY, HOUR, NOW, TOKEN, Books
from torchroom.ledger.allowances import Allowances
from torchroom.ledger.courses import Courses
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, LedgerError, NotFound
from torchroom.ledger.expiry import Expiry
from torchroom.ledger.model import AMOUNT_MAX, Account, Course, Kind
from torchroom.ledger.periods import Every
from torchroom.ledger.portions import (
    Allowance,
    Applied,
    Mode,
    Standing,
    in_fair_order,
    plan,
)

WEEK = timedelta(days=7)
CLASS = ["ada", "bob", "eve"]


@pytest.fixture
def allowances(db: Database) -> Allowances:
    return Allowances(db)


async def defined(
    allowances: Allowances,
    amount: int,
    mode: Mode = Mode.ADD,
    every: Every = Every.WEEKLY,
    time_zone: str = "Europe/Berlin",
) -> Allowance:
    """Define an allowance of the course."""
    return await allowances.define(
        COURSE,
        every=every,
        mode=mode,
        amount=amount,
        time_zone=time_zone,
        actor="admin",
        at=NOW,
    )


async def of(books: Books, users: Sequence[str] = CLASS) -> list[int]:
    """Return what these have for the course's servers."""
    return [await books.of(user, COURSE) for user in users]


# -------------------------------------------------------------------------- each period


async def test_everybody_gets_the_allowance_once_a_period(
    allowances: Allowances, books: Books
) -> None:
    """At once when it is defined, then when the week of the course begins."""
    await books.course(100)
    await defined(allowances, 5)
    monday = datetime(2026, 11, 29, 23, tzinfo=UTC)  # 00:00 in Berlin

    for at, has in [
        (NOW, 5),
        (NOW + HOUR, 5),
        (monday - timedelta(microseconds=1), 5),
        (monday, 10),
        (monday + DAY, 10),
        (monday + WEEK, 15),
    ]:
        await allowances.apply({COURSE: CLASS}, at)
        assert await of(books) == [has] * 3
    assert await books.wallet() == 100 - 45
    assert await books.drawn("ada") == 15


async def test_who_joins_during_a_period_gets_its_portion(
    allowances: Allowances, books: Books
) -> None:
    """And who left gets no more, but keeps what there is."""
    await books.course(100)
    await defined(allowances, 5)
    assert await allowances.apply({COURSE: ["ada"]}, NOW) == Applied(1, 5, 0)
    assert await allowances.apply({COURSE: ["ada", "bob"]}, NOW) == Applied(1, 5, 0)
    assert await allowances.apply({COURSE: ["bob"]}, NOW + WEEK) == Applied(1, 5, 0)
    assert await of(books) == [5, 10, 0]


async def test_periods_in_which_nothing_ran_are_not_made_up_for(
    allowances: Allowances, books: Books
) -> None:
    """A month later there is one portion, not five."""
    await books.course(100)
    await defined(allowances, 5)
    await allowances.apply({COURSE: CLASS}, NOW + 5 * WEEK)
    assert await of(books) == [5] * 3


async def test_a_course_whose_members_are_not_known_gets_nothing(
    allowances: Allowances, books: Books
) -> None:
    """Nor do groups that are no course, or names that the ledger does not take."""
    await books.course(100)
    await defined(allowances, 5)
    assert await allowances.apply({}, NOW) == Applied()
    assert await allowances.apply({"other": CLASS, COURSE: []}, NOW) == Applied()
    odd = ["", "a/b", "\ud800", "x" * 256]
    assert await allowances.apply({COURSE: [*odd, "ada"]}, NOW) == Applied(1, 5, 0)


async def test_a_monthly_and_a_weekly_allowance_are_both_given(
    allowances: Allowances, books: Books
) -> None:
    """Each in its own periods."""
    await books.course(100)
    await defined(allowances, 5)
    await defined(allowances, 7, every=Every.MONTHLY)
    for weeks in range(3):  # 25 November, 2 and 9 December
        await allowances.apply({COURSE: ["ada"]}, NOW + weeks * WEEK)
    assert await books.of("ada", COURSE) == 3 * 5 + 2 * 7


async def test_several_at_once_give_each_portion_once(
    allowances: Allowances, books: Books
) -> None:
    """Five of them, thirty students, in several writes each."""
    await books.course(1000)
    await defined(allowances, 5)
    users = [f"user{n}" for n in range(30)]
    others = [Allowances(books.db) for _ in range(4)]
    done = await asyncio.gather(
        *(each.apply({COURSE: users}, NOW) for each in [allowances, *others])
    )

    assert sum(each.n_given for each in done) == 30
    assert await of(books, users) == [5] * 30
    assert await books.wallet() == 1000 - 150


async def test_a_class_of_more_than_one_write_is_served(
    allowances: Allowances, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write by write."""
    monkeypatch.setattr("torchroom.ledger.allowances.USERS_AT_ONCE", 7)
    await books.course(1000)
    await defined(allowances, 5)
    users = [f"user{n}" for n in range(30)]
    assert await allowances.apply({COURSE: users}, NOW) == Applied(30, 150, 0)


# ------------------------------------------------------------------------------- refill


async def test_a_refill_gives_what_is_missing(
    allowances: Allowances, books: Books
) -> None:
    """Not more, and nothing to who has more already; other tokens do not count."""
    await books.course(100)
    courses = Courses(books.db)
    await courses.hand_out(COURSE, "ada", 4, key="a", actor="t", at=NOW)
    await courses.hand_out(COURSE, "bob", 20, key="b", actor="t", at=NOW)
    await books.give("eve", 50)
    await books.give("eve", 50, course=COURSE, expires_at=NOW + HOUR)
    await defined(allowances, 10, Mode.REFILL)

    assert (await allowances.apply({COURSE: CLASS}, NOW + HOUR)).n_given == 2
    assert await of(books) == [10, 20, 60]


async def test_who_is_full_gains_nothing_by_spending_first_and_waiting(
    allowances: Allowances, books: Books
) -> None:
    """The portion of the period was decided: it was nothing."""
    await books.course(100)
    courses = Courses(books.db)
    await courses.hand_out(COURSE, "ada", 10, key="a", actor="t", at=NOW)
    await defined(allowances, 10, Mode.REFILL)
    await allowances.apply({COURSE: ["ada"]}, NOW)
    await courses.give_back(COURSE, "ada", 10, key="spent", actor="t", at=NOW)

    assert await allowances.apply({COURSE: ["ada"]}, NOW + HOUR) == Applied()
    assert await books.of("ada", COURSE) == 0
    await allowances.apply({COURSE: ["ada"]}, NOW + WEEK)
    assert await books.of("ada", COURSE) == 10


async def test_who_was_refilled_gains_nothing_by_spending_it(
    allowances: Allowances, books: Books
) -> None:
    """One refill a period."""
    await books.course(100)
    await defined(allowances, 10, Mode.REFILL)
    await allowances.apply({COURSE: ["ada"]}, NOW)
    await Courses(books.db).give_back(COURSE, "ada", 9, key="k", actor="t", at=NOW)
    await allowances.apply({COURSE: ["ada"]}, NOW + HOUR)
    assert await books.of("ada", COURSE) == 1


async def test_starting_servers_just_before_a_refill_gains_nothing(
    allowances: Allowances, books: Books
) -> None:
    """What is held for them is the student's still: it comes back."""
    await books.course(100)
    await defined(allowances, 10, Mode.REFILL)
    await allowances.apply({COURSE: ["ada"]}, NOW)
    await books.hold("lease", "ada", {Account(Kind.USER, "ada", COURSE): 6})
    await allowances.apply({COURSE: ["ada"]}, NOW + WEEK)
    await Expiry(books.db).expire_holds(NOW + WEEK)

    assert await books.of("ada", COURSE) == 10


async def test_a_refill_that_had_to_wait_is_what_is_missing_by_then(
    allowances: Allowances, books: Books
) -> None:
    """It is what is missing when it is given."""
    await books.course(0)
    await defined(allowances, 10, Mode.REFILL)
    assert (await allowances.apply({COURSE: ["ada"]}, NOW)).n_short == 1
    await books.give("ada", 4, course=COURSE)
    await books.course(100)
    assert await allowances.apply({COURSE: ["ada"]}, NOW) == Applied(1, 6, 0)


# -------------------------------------------------------------- too small budget or cap


async def test_a_portion_is_whole_or_not_given_yet(
    allowances: Allowances, books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    """With more budget the others get theirs in the same period. It is logged once."""
    await books.course(13)
    await defined(allowances, 5)
    with caplog.at_level(logging.WARNING):
        assert await allowances.apply({COURSE: CLASS}, NOW) == Applied(2, 10, 1)
        assert await allowances.apply({COURSE: CLASS}, NOW) == Applied(0, 0, 1)
    assert sorted(await of(books)) == [0, 5, 5]
    assert len(caplog.records) == 1

    await books.course(2)
    assert await allowances.apply({COURSE: CLASS}, NOW + DAY) == Applied(1, 5, 0)
    assert (await of(books), await books.wallet()) == ([5] * 3, 0)


async def test_an_allowance_does_not_go_beyond_the_cap_per_student(
    allowances: Allowances, books: Books
) -> None:
    """Until the cap is raised."""
    await books.course(100, cap=12)
    await defined(allowances, 5)
    for weeks in range(3):
        await allowances.apply({COURSE: ["ada"]}, NOW + weeks * WEEK)
    assert await books.drawn("ada") == 10

    await Courses(books.db).put(Course(COURSE, "Title", 15), at=NOW)
    await allowances.apply({COURSE: ["ada"]}, NOW + 2 * WEEK)
    assert await books.drawn("ada") == 15


async def test_allowances_and_hand_outs_at_once_stay_within_the_budget(
    allowances: Allowances, books: Books
) -> None:
    """All tokens are in the wallet or with the students afterwards."""
    await books.course(60)
    await defined(allowances, 5)
    users = [f"user{n}" for n in range(10)]
    courses = Courses(books.db)
    await asyncio.gather(
        *(
            courses.hand_out(COURSE, user, 3, key=user, actor="t", at=NOW)
            for user in users
        ),
        *(allowances.apply({COURSE: users}, NOW) for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(await of(books, users)) + await books.wallet() == 60


async def test_one_course_that_fails_does_not_keep_others_from_theirs(
    allowances: Allowances, books: Books
) -> None:
    """The failure is raised in the end, for the log and the metric."""
    await books.course(100)
    await books.course(AMOUNT_MAX, name="full")
    of_full = {"every": Every.WEEKLY, "mode": Mode.ADD, "time_zone": "UTC"}
    await allowances.define("full", **of_full, amount=1, actor="a", at=NOW)  # type: ignore[arg-type]
    await defined(allowances, 5)
    async with books.db.write() as conn:
        await conn.exec_driver_sql("UPDATE allowances SET time_zone = 'X' WHERE id = 1")

    with pytest.raises(LedgerError, match="no time zone"):
        await allowances.apply({"full": CLASS, COURSE: CLASS}, NOW)
    assert await of(books) == [5] * 3


# ------------------------------------------------------------------ defining and ending


async def test_an_allowance_is_what_was_defined(
    allowances: Allowances, books: Books
) -> None:
    """Defining the same again changes nothing, as a request may be sent twice."""
    await books.course(0)
    done = await asyncio.gather(
        *(defined(allowances, 5, Mode.REFILL, Every.MONTHLY) for _ in range(5))
    )
    wanted = Allowance(
        id=done[0].id,
        course=COURSE,
        every=Every.MONTHLY,
        mode=Mode.REFILL,
        amount=5,
        time_zone="Europe/Berlin",
        valid_from=NOW,
        ended_at=None,
        actor="admin",
    )
    assert done == [wanted] * 5
    assert await allowances.list(COURSE) == [wanted]


async def test_an_ended_allowance_gives_no_more(
    allowances: Allowances, books: Books
) -> None:
    """Ending it twice is ending it once; another can be defined."""
    await books.course(100)
    first = await defined(allowances, 5)
    await allowances.apply({COURSE: CLASS}, NOW)
    await allowances.end(first.id, course=COURSE, at=NOW + DAY)
    await allowances.end(first.id, course=COURSE, at=NOW + 2 * DAY)
    await allowances.apply({COURSE: CLASS}, NOW + WEEK)

    assert await of(books) == [5] * 3
    assert [each.ended_at for each in await allowances.list(COURSE)] == [NOW + DAY]
    second = await defined(allowances, 5)
    assert second.id != first.id


async def test_an_allowance_of_another_course_cannot_be_ended(
    allowances: Allowances, books: Books
) -> None:
    """Nor one that is not there."""
    await books.course(100)
    await books.course(100, name="other")
    first = await defined(allowances, 5)
    for number, course in ((first.id, "other"), (first.id + 1, COURSE), (0, COURSE)):
        with pytest.raises(NotFound):
            await allowances.end(number, course=course, at=NOW)
    assert (await allowances.list(COURSE))[0].ended_at is None
    with pytest.raises(NotFound):
        await allowances.list("third")


async def test_what_cannot_be_an_allowance_is_refused(
    allowances: Allowances, books: Books
) -> None:
    """Amounts, time zones, courses."""
    with pytest.raises(NotFound):
        await defined(allowances, 5)
    await books.course(100)
    for amount in (0, -5, AMOUNT_MAX + 1, 1.5, True):
        with pytest.raises(BadInput, match="amount"):
            await defined(allowances, amount)  # type: ignore[arg-type]
    bad = ["", "Berlin", "America", "../etc/passwd", "/etc/passwd", "x" * 999, "\x00"]
    for zone in bad:
        with pytest.raises(BadInput, match="time zone"):
            await defined(allowances, 5, time_zone=zone)
    assert await allowances.list(COURSE) == []


# ------------------------------------------------------------------------- what is next


async def test_a_refusal_can_say_when_tokens_come_next(
    allowances: Allowances, books: Books
) -> None:
    """The soonest of all allowances of the user's courses."""
    await books.course(100)
    assert await allowances.next_for([COURSE], NOW) is None
    monthly = await defined(allowances, 5, every=Every.MONTHLY, time_zone="UTC")
    weekly = await defined(allowances, 5, time_zone="UTC")

    monday, first = (datetime(2026, *day, tzinfo=UTC) for day in ((11, 30), (12, 1)))
    assert await allowances.next_for([COURSE], NOW) == (monday, weekly)
    assert await allowances.next_for([COURSE], monday) == (first, monthly)
    assert await allowances.next_for(["other"], NOW) is None
    await allowances.end(weekly.id, course=COURSE, at=NOW)
    assert await allowances.next_for([COURSE], NOW) == (first, monthly)


# ------------------------------------------------------------------------- the decision

amounts = st.integers(0, 30)
standings = st.lists(
    st.builds(
        Standing,
        user=st.sampled_from([f"user{n}" for n in range(8)]),
        has=amounts,
        room=st.none() | amounts,
    ),
    unique_by=lambda standing: standing.user,
)


def allowance(mode: Mode, amount: int) -> Allowance:
    return Allowance(1, COURSE, Every.WEEKLY, mode, amount, "UTC", NOW, None, "admin")


@given(
    mode=st.sampled_from(Mode),
    amount=st.integers(1, 20),
    who=standings,
    budget=st.integers(0, 100),
)
def test_no_plan_is_beyond_budget_cap_or_allowance(
    mode: Mode, amount: int, who: list[Standing], budget: int
) -> None:
    """Portions are whole, and nobody who could have one goes without."""
    given_ = plan(allowance(mode, amount), who, budget)
    left = budget - sum(given_.values())

    assert left >= 0
    for each in who:
        whole = amount if mode is Mode.ADD else max(0, amount - each.has)
        if each.user in given_:
            assert given_[each.user] == whole
            assert each.room is None or whole <= each.room
        else:
            assert whole > left or (each.room is not None and whole > each.room)


def test_with_too_little_for_all_it_is_not_always_the_same_who_go_without() -> None:
    """The order is another one each period, and the same for every process."""
    users = [f"user{n}" for n in range(20)]
    first = [in_fair_order(set(users), f"1:2026-W{week}")[0] for week in range(30, 50)]

    assert len(set(first)) > 5
    assert in_fair_order(users, "p") == in_fair_order(users[::-1], "p")
    assert sorted(in_fair_order(users, "p")) == sorted(users)


def test_the_budget_of_a_plan_is_used_in_order() -> None:
    """Who comes first is served first; a smaller portion later may still fit."""
    who = [Standing("a", 0, None), Standing("b", 0, None), Standing("c", 7, None)]
    assert plan(allowance(Mode.REFILL, 10), who, 14) == {"a": 10, "c": 3}
    assert plan(allowance(Mode.ADD, TOKEN), who, 0) == {}


async def test_an_allowance_that_is_defined_anew_is_not_given_twice_a_period(
    allowances: Allowances, books: Books
) -> None:
    """Who has had the old one gets the new amount from the next period on."""
    await books.course(100)
    first = await defined(allowances, 5)
    await allowances.apply({COURSE: CLASS[:2]}, NOW)
    await allowances.end(first.id, course=COURSE, at=NOW)
    await defined(allowances, 6)
    await allowances.apply({COURSE: CLASS}, NOW)
    assert await of(books) == [5, 5, 6]
    await allowances.apply({COURSE: CLASS}, NOW + WEEK)
    assert sum(await of(books)) > 5 + 5 + 6
