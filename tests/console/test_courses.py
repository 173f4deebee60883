"""Instructors hand out what their course has, to its students, and nothing else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from testbed.bare_hub import COURSE, OTHER_COURSE, BareHub
from testbed.console import ConsoleProcess

CAP = 40


@pytest.fixture(autouse=True)
def course(console: ConsoleProcess, hub: BareHub) -> int:
    """The course's cap, and how much it has."""
    ada = hub.token("ada")
    for name in (COURSE, OTHER_COURSE):
        body: dict[str, Any] = {"title": "A course", "student_cap": CAP}
        console.ask("PUT", f"/courses/{name}", ada, json=body)
        console.post(f"/courses/{name}/budget", ada, {"microtokens": 100})
    return left(console, hub)


def left(console: ConsoleProcess, hub: BareHub, name: str = COURSE) -> int:
    return int(console.get(f"/courses/{name}", hub.token("ada"))["microtokens"])


def hand_out(
    console: ConsoleProcess, hub: BareHub, user: str, amount: int, what: str
) -> tuple[int, str]:
    answer = console.ask(
        "POST",
        f"/courses/{COURSE}/{what}",
        hub.token("ivy"),
        json={"user": user, "microtokens": amount},
    )
    return answer.status_code, answer.json().get("code", "")


def test_an_instructor_gives_a_student_tokens_of_the_course(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], course: int
) -> None:
    """And back; both are in the student's and in the course's history."""
    user = student(COURSE)
    assert hand_out(console, hub, user, 30, "hand-outs") == (201, "")
    assert hand_out(console, hub, user, 10, "returns") == (201, "")

    purses = console.get("/me", hub.token(user))["purses"]
    assert purses == [{"course": COURSE, "expires_at": None, "microtokens": 20}]
    assert left(console, hub) == course - 20
    students = console.get(f"/courses/{COURSE}/students", hub.token("ivy"))["items"]
    assert {"user": user, "drawn": 20, "microtokens": 20} in students
    for path, token in [
        ("/me/history", hub.token(user)),
        (f"/courses/{COURSE}/history", hub.token("ivy")),
    ]:
        items = console.get(path, token, limit=2)["items"]
        assert [item["code"] for item in items] == ["return", "hand_out"]
        assert [item["actor"] for item in items] == ["ivy", "ivy"]


def test_not_more_than_the_cap_or_the_budget(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], course: int
) -> None:
    """Nothing is given then."""
    user = student(COURSE)
    assert hand_out(console, hub, user, CAP + 1, "hand-outs") == (409, "over_budget")
    body = {"title": "A course", "student_cap": None}
    console.ask("PUT", f"/courses/{COURSE}", hub.token("ada"), json=body)
    more = (409, "over_budget")
    assert hand_out(console, hub, user, course + 1, "hand-outs") == more
    assert hand_out(console, hub, user, 1, "returns") == (402, "not_enough")
    assert left(console, hub) == course


def test_a_crowd_of_requests_does_not_get_over_the_cap(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """Ten at once, of which four fit."""
    user = student(COURSE)
    hub.token("ivy")
    with ThreadPoolExecutor(10) as pool:
        told = pool.map(
            lambda _: hand_out(console, hub, user, 10, "hand-outs")[0], range(10)
        )
    assert sorted(told) == [201] * 4 + [409] * 6
    assert console.get("/me", hub.token(user))["available"] == CAP


def test_only_a_member_of_the_course_gets_its_tokens(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], course: int
) -> None:
    """A name typed wrong is refused before tokens are where nobody can use them."""
    for user in (student(), f"typo-{uuid4().hex}", "otto"):
        assert hand_out(console, hub, user, 1, "hand-outs") == (404, "not_found")
    assert left(console, hub) == course


def test_an_instructor_cannot_take_what_an_admin_gave(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """Neither a student's own tokens nor those granted for the course."""
    user = student(COURSE)
    for more in ({}, {"course": COURSE}):
        body = {"microtokens": 5, **more}
        console.post(f"/users/{user}/grants", hub.token("ada"), body)
    assert hand_out(console, hub, user, 1, "returns") == (402, "not_enough")
    assert console.get("/me", hub.token(user))["available"] == 10


def test_the_budget_and_the_cap_are_not_the_instructors(
    console: ConsoleProcess, hub: BareHub, course: int
) -> None:
    """Nor is another course, or any user."""
    ivy = hub.token("ivy")
    body = {"title": "Mine", "student_cap": None}
    assert console.ask("PUT", f"/courses/{COURSE}", ivy, json=body).status_code == 403
    for path in (
        f"/courses/{COURSE}/budget",
        f"/courses/{COURSE}/withdrawals",
        f"/courses/{OTHER_COURSE}/hand-outs",
        "/users/ivy/grants",
        "/users/alice/take-backs",
    ):
        answer = console.ask("POST", path, ivy, json={"user": "ivy", "microtokens": 1})
        assert answer.status_code == 403
    assert left(console, hub) == course


def test_a_course_that_is_not_set_up_is_not_there(
    console: ConsoleProcess, hub: BareHub
) -> None:
    """For an admin; for others it is not theirs."""
    for path in ("", "/students", "/allowances"):
        answer = console.ask("GET", f"/courses/nobodys{path}", hub.token("ada"))
        assert answer.status_code == 404
    body = {"microtokens": 1}
    answer = console.ask("POST", "/courses/nobodys/budget", hub.token("ada"), json=body)
    assert answer.status_code == 404


def test_nobody_reads_or_spends_for_another(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """Whatever is added to a request about oneself, it is about oneself."""
    mallory, victim = student(COURSE), student(COURSE)
    console.post(f"/users/{victim}/grants", hub.token("ada"), {"microtokens": 9})
    token = hub.token(mallory)
    for path in ("/me", "/me/history", "/me/usage"):
        told = console.ask("GET", f"{path}?user={victim}&name={victim}", token)
        assert victim not in told.text
    for path in (f"/users/{victim}", f"/users/{victim}/history"):
        assert console.ask("GET", path, token).status_code == 403
    body = {"code": "TR-0000-0000-0000-0000", "user": victim}
    assert console.ask("POST", "/me/vouchers", token, json=body).status_code == 422
    assert console.get("/me", hub.token(victim))["available"] == 9
