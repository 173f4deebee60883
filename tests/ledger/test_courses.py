"""A course's tokens: never more than its budget, never beyond the cap, never lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger.books import COURSE, DAY, HOUR, NOW, TOKEN, Books
from torchroom.ledger.courses import Courses, Funds, Student
from torchroom.ledger.database import Database
from torchroom.ledger.errors import (
    BadInput,
    KeyReused,
    NotEnough,
    NotFound,
    OverBudget,
)
from torchroom.ledger.grants import Grants
from torchroom.ledger.journal import Recorded
from torchroom.ledger.model import AMOUNT_MAX, Account, Course, Kind

BAD_AMOUNTS: list[Any] = [0, -1, AMOUNT_MAX + 1, 1.5, True, "5"]
Move = Callable[..., Awaitable[Recorded]]


@pytest.fixture
def courses(db: Database) -> Courses:
    return Courses(db)


async def outcomes(*asked: Awaitable[object]) -> list[object]:
    """Do all at once; what was refused is in the answer as its error."""
    return list(await asyncio.gather(*asked, return_exceptions=True))


# -------------------------------------------------------------------------- the course


async def test_a_course_has_a_title_a_cap_and_a_wallet(
    courses: Courses, books: Books
) -> None:
    """It begins with nothing in it."""
    course = Course(COURSE, "Deep learning / CS-3", 5 * TOKEN)
    await courses.put(course, at=NOW)

    assert await courses.get(COURSE) == Funds(course, 0)
    await courses.budget(COURSE, TOKEN, key="k", actor="admin", at=NOW)
    assert await courses.list() == [Funds(course, TOKEN)]


async def test_putting_a_course_again_leaves_its_tokens_alone(
    courses: Courses, books: Books
) -> None:
    """Weakness 6: there, what was configured was written over balances."""
    await books.course(TOKEN, cap=5)
    await courses.put(Course(COURSE, "Other", None), at=NOW + DAY)

    assert await courses.get(COURSE) == Funds(Course(COURSE, "Other", None), TOKEN)


async def test_a_course_cannot_be_put_with_what_cannot_be_used(
    courses: Courses,
) -> None:
    """Names, titles and caps are checked."""
    for name in ("", "a/b", " a", "x" * 256, "a\n"):
        with pytest.raises(BadInput):
            await courses.put(Course(name, "Title"), at=NOW)
    for title in ("", "x" * 256, "a\nb", " a", "\ud800"):
        with pytest.raises(BadInput):
            await courses.put(Course(COURSE, title), at=NOW)
    for cap in (-1, AMOUNT_MAX + 1, 1.5, True, "5"):
        with pytest.raises(BadInput):
            await courses.put(Course(COURSE, "Title", cap), at=NOW)  # type: ignore[arg-type]
    assert await courses.list() == []


async def test_nothing_moves_for_a_course_that_is_not_there(
    courses: Courses, books: Books
) -> None:
    """Weakness 9: there, a request without a project deleted the one of all."""
    moves: list[Move] = [courses.budget, courses.withdraw]
    handing: list[Move] = [courses.hand_out, courses.give_back]
    await books.course(TOKEN)
    for move in moves:
        with pytest.raises(NotFound, match="no course"):
            await move("other", 5, key="k", actor="a", at=NOW)
        with pytest.raises(BadInput):
            await move("", 5, key="k", actor="a", at=NOW)
    for move in handing:
        with pytest.raises(NotFound, match="no course"):
            await move("other", "ada", 5, key="k", actor="a", at=NOW)
        with pytest.raises(BadInput):
            await move("", "ada", 5, key="k", actor="a", at=NOW)
    with pytest.raises(NotFound):
        await courses.get("other")
    with pytest.raises(NotFound):
        await courses.students("other", at=NOW)
    assert await books.wallet() == TOKEN


# -------------------------------------------------------------------------- its budget


async def test_a_budget_is_given_once_per_request(
    courses: Courses, books: Books
) -> None:
    """Many at once, too; the key is for that amount of that course only."""
    await books.course(0)
    await books.course(0, name="other")
    done = await asyncio.gather(
        *(courses.budget(COURSE, TOKEN, key="k", actor="a", at=NOW) for _ in range(9))
    )

    assert len({each.id for each in done}) == 1
    for name, amount in ((COURSE, 5), ("other", TOKEN)):
        with pytest.raises(KeyReused):
            await courses.budget(name, amount, key="k", actor="a", at=NOW)
    with pytest.raises(KeyReused):
        await courses.withdraw(COURSE, TOKEN, key="k", actor="a", at=NOW)
    assert await books.wallet() == TOKEN


async def test_at_most_what_is_left_can_be_withdrawn(
    courses: Courses, books: Books
) -> None:
    """What students hold is theirs until it comes back. A repeat takes nothing more."""
    await books.course(10)
    await courses.hand_out(COURSE, "ada", 4, key="h", actor="a", at=NOW)

    with pytest.raises(NotEnough, match=r"0\.000006 tokens available"):
        await courses.withdraw(COURSE, 7, key="w", actor="a", at=NOW)
    first = await courses.withdraw(COURSE, 6, key="w", actor="a", at=NOW)
    again = await courses.withdraw(COURSE, 6, key="w", actor="a", at=NOW)

    assert (again.id, again.is_new) == (first.id, False)
    assert await books.wallet() == 0
    assert await books.of("ada", COURSE) == 4


async def test_amounts_of_courses_are_whole_and_above_zero(
    courses: Courses, books: Books
) -> None:
    """Weakness 4: there, a negative number minted credits."""
    await books.course(TOKEN)
    await courses.hand_out(COURSE, "ada", 5, key="h", actor="a", at=NOW)
    for amount in BAD_AMOUNTS:
        for move in (courses.budget, courses.withdraw):
            with pytest.raises(BadInput, match="amount"):
                await move(COURSE, amount, key="k", actor="a", at=NOW)
        for handing in (courses.hand_out, courses.give_back):
            with pytest.raises(BadInput, match="amount"):
                await handing(COURSE, "ada", amount, key="k", actor="a", at=NOW)
    assert await books.issued() == TOKEN


# ------------------------------------------------------------------------- handing out


async def test_what_is_handed_out_is_for_servers_of_the_course(
    courses: Courses, books: Books
) -> None:
    """It leaves the wallet and is drawn by the student."""
    await books.course(10)
    await courses.hand_out(COURSE, "ada", 4, key="k", actor="teacher", at=NOW)

    assert (await books.wallet(), await books.of("ada", COURSE)) == (6, 4)
    assert await books.of("ada") == 0
    assert await books.drawn("ada") == 4
    assert await courses.students(COURSE, at=NOW) == [Student("ada", 4, 4)]


async def test_an_instructor_cannot_hand_out_more_than_the_budget(
    courses: Courses, books: Books
) -> None:
    """The sentence says what is left."""
    await books.course(10)
    with pytest.raises(OverBudget, match=r"0\.00001 tokens left"):
        await courses.hand_out(COURSE, "ada", 11, key="k", actor="teacher", at=NOW)
    assert (await books.wallet(), await books.drawn("ada")) == (10, 0)


async def test_no_student_gets_more_than_the_cap_in_all(
    courses: Courses, books: Books
) -> None:
    """What was used counts, what came back does not; others have their own cap."""
    await books.course(100, cap=10)
    await courses.hand_out(COURSE, "ada", 7, key="1", actor="t", at=NOW)
    with pytest.raises(OverBudget, match=r"leaves 0\.000003 tokens for ada"):
        await courses.hand_out(COURSE, "ada", 4, key="2", actor="t", at=NOW)
    await courses.give_back(COURSE, "ada", 2, key="3", actor="t", at=NOW)
    await courses.hand_out(COURSE, "ada", 5, key="4", actor="t", at=NOW)
    await courses.hand_out(COURSE, "bob", 10, key="5", actor="t", at=NOW)

    assert (await books.drawn("ada"), await books.wallet()) == (10, 80)


async def test_servers_and_hand_outs_draw_on_the_same_cap(
    courses: Courses, books: Books
) -> None:
    """A hold on the course's wallet leaves less to hand out."""
    await books.course(100, cap=10)
    await books.hold("lease", "ada", {Account(Kind.COURSE, COURSE): 6})
    with pytest.raises(OverBudget, match="cap per student"):
        await courses.hand_out(COURSE, "ada", 5, key="k", actor="t", at=NOW)
    await courses.hand_out(COURSE, "ada", 4, key="k", actor="t", at=NOW)


async def test_a_cap_below_what_was_drawn_takes_nothing_away(
    courses: Courses, books: Books
) -> None:
    """No more can be drawn, and a cap of 0 closes the wallet."""
    await books.course(100, cap=10)
    await courses.hand_out(COURSE, "ada", 7, key="1", actor="t", at=NOW)
    for cap in (5, 0):
        await courses.put(Course(COURSE, "Title", cap), at=NOW)
        with pytest.raises(OverBudget, match="leaves 0 tokens"):
            await courses.hand_out(COURSE, "ada", 1, key="2", actor="t", at=NOW)
    assert await books.of("ada", COURSE) == 7


async def test_a_repeated_hand_out_gives_nothing_more(
    courses: Courses, books: Books
) -> None:
    """Even when wallet and cap would refuse it now."""
    await books.course(10, cap=10)
    first = await courses.hand_out(COURSE, "ada", 10, key="k", actor="t", at=NOW)
    again = await courses.hand_out(COURSE, "ada", 10, key="k", actor="t", at=NOW)

    assert (again.id, again.is_new) == (first.id, False)
    for user, amount in (("ada", 9), ("bob", 10)):
        with pytest.raises(KeyReused):
            await courses.hand_out(COURSE, user, amount, key="k", actor="t", at=NOW)
    assert (await books.wallet(), await books.drawn("ada")) == (0, 10)


async def test_a_request_sent_many_times_at_once_is_one(
    courses: Courses, books: Books
) -> None:
    """None is refused for the tokens that the first of them took."""
    await books.course(3 * TOKEN, cap=2 * TOKEN)
    moves: list[Callable[[], Awaitable[Recorded]]] = [
        lambda: courses.hand_out(
            COURSE, "ada", 2 * TOKEN, key="out", actor="ivy", at=NOW
        ),
        lambda: courses.give_back(
            COURSE, "ada", 2 * TOKEN, key="back", actor="ivy", at=NOW
        ),
        lambda: courses.withdraw(COURSE, 3 * TOKEN, key="less", actor="root", at=NOW),
    ]
    for move in moves:
        done = await asyncio.gather(*(move() for _ in range(8)))
        assert sum(each.is_new for each in done) == 1
    assert await books.wallet() == 0
    assert await books.of("ada", COURSE) == 0
    assert await books.drawn("ada") == 0


async def test_many_hand_outs_at_once_stay_within_the_budget(
    courses: Courses, books: Books
) -> None:
    """Twenty students, tokens for thirteen: exactly thirteen get theirs."""
    await books.course(13 * TOKEN)
    done = await outcomes(
        *(
            courses.hand_out(COURSE, f"user{n}", TOKEN, key=f"{n}", actor="t", at=NOW)
            for n in range(20)
        )
    )

    assert sum(isinstance(each, OverBudget) for each in done) == 7
    assert sum(isinstance(each, Recorded) for each in done) == 13
    assert await books.wallet() == 0


async def test_many_hand_outs_to_one_student_at_once_stay_within_the_cap(
    courses: Courses, books: Books
) -> None:
    """And the same one sent twenty times is one."""
    await books.course(100, cap=10)
    done = await outcomes(
        *(
            courses.hand_out(COURSE, "ada", 3, key=f"{n}", actor="t", at=NOW)
            for n in range(10)
        ),
        *(
            courses.hand_out(COURSE, "bob", 9, key="bob", actor="t", at=NOW)
            for n in range(10)
        ),
    )

    assert sum(isinstance(each, OverBudget) for each in done[:10]) == 7
    assert len({each.id for each in done[10:] if isinstance(each, Recorded)}) == 1
    assert (await books.drawn("ada"), await books.drawn("bob")) == (9, 9)


# ----------------------------------------------------------------- giving tokens back


async def test_what_a_student_has_of_a_course_can_be_returned_to_it(
    courses: Courses, books: Books
) -> None:
    """At most what is there; a repeat returns nothing more."""
    await books.course(10)
    await courses.hand_out(COURSE, "ada", 8, key="h", actor="t", at=NOW)
    await books.hold("lease", "ada", {Account(Kind.USER, "ada", COURSE): 3})

    with pytest.raises(NotEnough, match=r"0\.000005 tokens can be taken"):
        await courses.give_back(COURSE, "ada", 6, key="r", actor="t", at=NOW)
    first = await courses.give_back(COURSE, "ada", 5, key="r", actor="t", at=NOW)
    again = await courses.give_back(COURSE, "ada", 5, key="r", actor="t", at=NOW)

    assert (again.id, again.is_new) == (first.id, False)
    assert (await books.wallet(), await books.drawn("ada")) == (7, 3)


async def test_an_instructor_cannot_return_what_an_admin_gave_the_student(
    courses: Courses, books: Books
) -> None:
    """Neither what is earmarked for the course, nor tokens for anything."""
    await books.course(10)
    await books.give("ada", 50)
    await books.give("ada", 60, course=COURSE)
    await courses.hand_out(COURSE, "ada", 4, key="h", actor="t", at=NOW)

    with pytest.raises(NotEnough, match=r"0\.000004 tokens from this course"):
        await courses.give_back(COURSE, "ada", 5, key="r", actor="t", at=NOW)
    await courses.give_back(COURSE, "ada", 4, key="r", actor="t", at=NOW)
    assert (await books.of("ada"), await books.of("ada", COURSE)) == (50, 60)


async def test_what_an_admin_takes_from_a_student_stays_drawn(
    courses: Courses, books: Books
) -> None:
    """It did not come back to the course, so the cap is not freed either."""
    await books.course(10, cap=5)
    await courses.hand_out(COURSE, "ada", 5, key="h", actor="t", at=NOW)
    await Grants(books.db).take_back(
        "ada", 5, key="k", actor="admin", at=NOW, course=COURSE
    )

    assert await books.drawn("ada") == 5
    assert (await books.wallet(), await books.issued()) == (5, 5)


async def test_handing_out_and_returning_at_once_loses_nothing(
    courses: Courses, books: Books
) -> None:
    """All tokens are in the wallet or with the students afterwards."""
    await books.course(50)
    users = [f"user{n}" for n in range(5)]
    for user in users:
        await courses.hand_out(COURSE, user, 5, key=user, actor="t", at=NOW)
    await outcomes(
        *(
            move(COURSE, user, n, key=f"{move.__name__}{user}{n}", actor="t", at=NOW)
            for user in users
            for n in (1, 2, 3)
            for move in (courses.give_back, courses.hand_out)
        )
    )

    students = await courses.students(COURSE, at=NOW)
    assert sum(each.balance for each in students) + await books.wallet() == 50
    assert all(each.balance == each.drawn for each in students)


async def test_students_are_all_who_have_or_had_something(
    courses: Courses, books: Books
) -> None:
    """What is expired is not there any more, as everywhere."""
    await books.course(100)
    await books.give("zoe", 5, course=COURSE, expires_at=NOW + HOUR)
    await books.give("bob", 5)
    await courses.hand_out(COURSE, "ada", 4, key="h", actor="t", at=NOW)
    await courses.hand_out(COURSE, "eve", 4, key="i", actor="t", at=NOW)
    await courses.give_back(COURSE, "eve", 4, key="r", actor="t", at=NOW)
    await books.hold("lease", "kim", {Account(Kind.COURSE, COURSE): 3})

    ada, kim = Student("ada", 4, 4), Student("kim", 3, 0)
    assert await courses.students(COURSE, at=NOW) == [ada, kim, Student("zoe", 0, 5)]
    assert await courses.students(COURSE, at=NOW + HOUR) == [ada, kim]


async def test_what_a_server_holds_is_not_the_instructors_to_return(
    courses: Courses, books: Books
) -> None:
    """Else what the server gives back later would have no draw to come off."""
    await books.course(10, cap=5)
    await books.give("ada", 60, course=COURSE)
    await books.hold("lease", "ada", {Account(Kind.COURSE, COURSE): 3})
    with pytest.raises(NotEnough, match="was given 0 tokens from this course"):
        await courses.give_back(COURSE, "ada", 1, key="r", actor="t", at=NOW)
    assert await books.drawn("ada") == 3
