"""Courses: what they are, their budgets, and what instructors hand out of them."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from torchroom.console import access, statements
from torchroom.console.guards import (
    PAGE_DEFAULT,
    Admin,
    Console,
    ConsoleOf,
    CourseName,
    Cursor,
    IdempotencyKey,
    Instructor,
    Limit,
    Who,
)
from torchroom.console.moved import MOVES, MovedOut, moved
from torchroom.console.schemas import BudgetIn, CourseIn, HandOutIn
from torchroom.console.shown import HistoryOut, Micro, UsageOut
from torchroom.console.statements import AS_CSV, End, Format, Start
from torchroom.ledger.courses import Funds, Student
from torchroom.ledger.errors import NotFound
from torchroom.ledger.model import Course, Kind
from torchroom.ledger.usage import By

router = APIRouter(prefix="/courses", tags=["courses"])


class CourseOut(BaseModel):
    """A course and its tokens."""

    name: str
    title: str
    student_cap: Micro | None = Field(description="null: no cap.")
    microtokens: Micro = Field(description="What is left of its budget.")

    @classmethod
    def of(cls, funds: Funds) -> Self:
        """Return it as it is shown."""
        return cls(
            name=funds.course.name,
            title=funds.course.title,
            student_cap=funds.course.student_cap,
            microtokens=funds.balance,
        )


class CoursesOut(BaseModel):
    """All courses that one may read."""

    items: list[CourseOut]


class StudentOut(BaseModel):
    """Somebody with tokens of a course."""

    user: str
    drawn: Micro = Field(description="Of the course's tokens, in all.")
    microtokens: Micro = Field(description="Of their own, for this course's servers.")

    @classmethod
    def of(cls, student: Student) -> Self:
        """Return it as it is shown."""
        return cls(user=student.user, drawn=student.drawn, microtokens=student.balance)


class StudentsOut(BaseModel):
    """Everybody with tokens of a course."""

    items: list[StudentOut]


@router.get("")
async def all_courses(console: ConsoleOf, who: Who) -> CoursesOut:
    """The courses that your token may read; for admins all of them."""
    return CoursesOut(
        items=[
            CourseOut.of(funds)
            for funds in await console.ledger.courses.list()
            if access.may_run_course(who, funds.course.name)
        ]
    )


@router.get("/{course}")
async def one(console: ConsoleOf, _who: Instructor, course: CourseName) -> CourseOut:
    """A course and what is left of its budget."""
    return CourseOut.of(await console.ledger.courses.get(course))


@router.put("/{course}")
async def put(
    console: ConsoleOf, _who: Admin, course: CourseName, wanted: CourseIn
) -> CourseOut:
    """Set up a course, or change its title and cap. `course` is the hub's group."""
    await console.ledger.courses.put(
        Course(course, wanted.title, wanted.student_cap), at=console.now()
    )
    return CourseOut.of(await console.ledger.courses.get(course))


@router.post("/{course}/budget", responses=MOVES, response_model=MovedOut)
async def budget(
    console: ConsoleOf,
    who: Admin,
    course: CourseName,
    key: IdempotencyKey,
    wanted: BudgetIn,
) -> Response:
    """Give a course tokens."""
    recorded = await console.ledger.courses.budget(
        course,
        wanted.microtokens,
        key=key,
        actor=who.actor,
        at=console.now(),
        note=wanted.note,
    )
    return moved(recorded.id, is_new=recorded.is_new)


@router.post("/{course}/withdrawals", responses=MOVES, response_model=MovedOut)
async def withdraw(
    console: ConsoleOf,
    who: Admin,
    course: CourseName,
    key: IdempotencyKey,
    wanted: BudgetIn,
) -> Response:
    """Take tokens from a course; never more than are left."""
    recorded = await console.ledger.courses.withdraw(
        course,
        wanted.microtokens,
        key=key,
        actor=who.actor,
        at=console.now(),
        note=wanted.note,
    )
    return moved(recorded.id, is_new=recorded.is_new)


@router.post("/{course}/hand-outs", responses=MOVES, response_model=MovedOut)
async def hand_out(
    console: ConsoleOf,
    who: Instructor,
    course: CourseName,
    key: IdempotencyKey,
    wanted: HandOutIn,
) -> Response:
    """Give a student tokens of the course, for its servers only."""
    await _check_member(console, course, wanted.user)
    recorded = await console.ledger.courses.hand_out(
        course,
        wanted.user,
        wanted.microtokens,
        key=key,
        actor=who.actor,
        at=console.now(),
        note=wanted.note,
    )
    return moved(recorded.id, is_new=recorded.is_new)


@router.post("/{course}/returns", responses=MOVES, response_model=MovedOut)
async def give_back(
    console: ConsoleOf,
    who: Instructor,
    course: CourseName,
    key: IdempotencyKey,
    wanted: HandOutIn,
) -> Response:
    """Return what a student has of the course's tokens to the course."""
    recorded = await console.ledger.courses.give_back(
        course,
        wanted.user,
        wanted.microtokens,
        key=key,
        actor=who.actor,
        at=console.now(),
        note=wanted.note,
    )
    return moved(recorded.id, is_new=recorded.is_new)


@router.get("/{course}/students")
async def students(
    console: ConsoleOf, _who: Instructor, course: CourseName
) -> StudentsOut:
    """Everybody who has or had tokens of the course."""
    found = await console.ledger.courses.students(course, at=console.now())
    return StudentsOut(items=[StudentOut.of(student) for student in found])


@router.get("/{course}/history", response_model=HistoryOut, responses=AS_CSV)
async def history(
    console: ConsoleOf,
    _who: Instructor,
    course: CourseName,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = None,
    format: Format = "json",  # noqa: A002 - its name in the address
) -> Response | HistoryOut:
    """What happened to the course's tokens, newest first."""
    return await statements.history(
        console, Kind.COURSE, course, limit=limit, cursor=cursor, form=format
    )


@router.get("/{course}/usage", response_model=UsageOut, responses=AS_CSV)
async def usage(
    console: ConsoleOf,
    _who: Instructor,
    course: CourseName,
    by: Annotated[Literal["day", "type", "user"], Query()] = "day",
    *,
    start: Start = None,
    end: End = None,
    format: Format = "json",  # noqa: A002
) -> Response | UsageOut:
    """What the course's servers used."""
    return await statements.usage(
        console, By(by), start=start, end=end, form=format, course=course
    )


async def _check_member(console: Console, course: str, user: str) -> None:
    """Return only if the user is in the course's group.

    A name typed wrong would otherwise get tokens that nobody can use.

    Raises:
        NotFound: There is no such member, or no such group.
        HubSilent: The hub does not say.
    """
    members = await console.hub.members(course)
    if members is None or user not in members:
        raise NotFound(
            f"{user!a} is not in the hub's group {course!a}. Check the name, or add "
            "them to the course first."
        )
