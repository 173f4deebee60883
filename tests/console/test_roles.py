"""Each role can do exactly its rows of the table; all others are told why not."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from testbed.bare_hub import COURSE, OTHER_COURSE, BareHub
from testbed.console import ConsoleProcess
from torchroom.console import scopes

IN_A_YEAR = "2099-01-01T00:00:00Z"
ADMINS = {"ada", "bank"}
USERS = {"alice", "ivy", "otto", "ada"}
OF_COURSE = ADMINS | {"ivy", "ivy's narrow token"}
ANYBODY = USERS | ADMINS | {"alice's server", "ivy's narrow token", "stranger"}
EVERYBODY = ANYBODY | {"nobody", "forged"}


@dataclass(frozen=True)
class Row:
    """An operation, and who may do it."""

    method: str
    path: str
    who: set[str]
    body: dict[str, Any] | None = None
    values: dict[str, Any] = field(
        default_factory=lambda: {
            "course": COURSE,
            "user": "bob",
            "id": "1",
            "server": "-",
        }
    )


AMOUNT = {"microtokens": 1}
PRICE = {"key": "table", "microtokens_per_hour": 1}
EXTENSION = {"lease": "ls_1", "extension": 1}
HAND_OUT = {"user": "bob", "microtokens": 1}
VOUCHERS = {"microtokens": 1, "expires_at": IN_A_YEAR}
ALLOWANCE = {
    "period": "weekly",
    "mode": "add",
    "microtokens": 10**15,
    "time_zone": "UTC",
}
TABLE = [
    Row("GET", "/me", USERS | {"alice's server"}),
    Row("GET", "/me/history", USERS),
    Row("GET", "/me/usage", USERS),
    Row("POST", "/me/vouchers", USERS, {"code": "TR-0000-0000-0000-0000"}),
    Row("GET", "/me/servers/{server}/notice", USERS | {"alice's server"}),
    Row(
        "POST", "/me/servers/{server}/extension", USERS | {"alice's server"}, EXTENSION
    ),
    Row("GET", "/users/{user}", ADMINS),
    Row("GET", "/users/{user}/history", ADMINS),
    Row("GET", "/users/{user}/usage", ADMINS),
    Row("POST", "/users/{user}/grants", ADMINS, AMOUNT),
    Row("POST", "/users/{user}/take-backs", ADMINS, AMOUNT),
    Row("GET", "/courses", ANYBODY),
    Row("GET", "/courses/{course}", OF_COURSE),
    Row("PUT", "/courses/{course}", ADMINS, {"title": "ML", "student_cap": None}),
    Row("POST", "/courses/{course}/budget", ADMINS, AMOUNT),
    Row("POST", "/courses/{course}/withdrawals", ADMINS, AMOUNT),
    Row("POST", "/courses/{course}/hand-outs", OF_COURSE, HAND_OUT),
    Row("POST", "/courses/{course}/returns", OF_COURSE, HAND_OUT),
    Row("GET", "/courses/{course}/students", OF_COURSE),
    Row("GET", "/courses/{course}/history", OF_COURSE),
    Row("GET", "/courses/{course}/usage", OF_COURSE),
    Row("GET", "/courses/{course}/allowances", ADMINS),
    Row("POST", "/courses/{course}/allowances", ADMINS, ALLOWANCE),
    Row("DELETE", "/courses/{course}/allowances/{id}", ADMINS),
    Row("GET", "/vouchers", ADMINS),
    Row("POST", "/vouchers", ADMINS, VOUCHERS),
    Row("DELETE", "/vouchers/{id}", ADMINS),
    Row("GET", "/prices", ANYBODY),
    Row("POST", "/prices", ADMINS, PRICE),
    Row("GET", "/usage", ADMINS),
    Row("GET", "/ledger", ADMINS),
    Row("GET", "/steward/events", ADMINS),
    Row("GET", "/steward/verdicts", ADMINS),
    Row("GET", "/health", EVERYBODY),
]
BY_SIGNATURE = {("POST", "/webhooks/topup")}
"""Needs no token but a signature; see test_topups."""


@pytest.fixture(scope="session")
def tokens(hub: BareHub) -> dict[str, str | None]:
    """A token of each role."""
    return {
        "nobody": None,
        "forged": "0123456789abcdef0123456789abcdef",
        "alice": hub.token("alice"),
        "alice's server": hub.server_token("alice"),
        "ivy": hub.token("ivy"),
        "ivy's narrow token": hub.token("ivy", scopes.of_course(COURSE)),
        "otto": hub.token("otto"),
        "ada": hub.token("ada"),
        "bank": hub.keys["bank"],
        "stranger": hub.keys["stranger"],
    }


@pytest.fixture(scope="module", autouse=True)
def courses(console: ConsoleProcess, hub: BareHub) -> None:
    """Both courses are there, with budgets."""
    for course in (COURSE, OTHER_COURSE):
        body = {"title": course, "student_cap": None}
        console.ask("PUT", f"/courses/{course}", hub.token("ada"), json=body)
        console.post(f"/courses/{course}/budget", hub.token("ada"), {"microtokens": 99})


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.path}")
def test_each_role_can_do_exactly_its_rows(
    console: ConsoleProcess, tokens: dict[str, str | None], row: Row
) -> None:
    """Who may not gets 401 or 403 and a sentence; who may gets neither."""
    for role, token in tokens.items():
        answer = console.ask(
            row.method, row.path.format(**row.values), token, json=row.body
        )
        told = (role, answer.status_code, answer.text)
        if role in row.who:
            assert answer.status_code not in {401, 403}, told
            assert answer.status_code < 500, told
        else:
            expected = 401 if role in {"nobody", "forged"} else 403
            assert answer.status_code == expected, told
            assert answer.json()["message"].endswith("."), told


def test_the_table_is_complete(console: ConsoleProcess) -> None:
    """No operation of the OpenAPI document is missing."""
    document = console.ask("GET", "/openapi.json").json()
    known = {
        (method.upper(), path.partition("/api/v1")[2])
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert known - BY_SIGNATURE == {(row.method, row.path) for row in TABLE}


def test_a_refusal_names_the_scope_that_is_missing(
    console: ConsoleProcess, hub: BareHub
) -> None:
    """So that a person knows what to ask an admin for."""
    told = console.ask("GET", f"/courses/{COURSE}", hub.token("otto")).json()
    assert told == {
        "code": "not_allowed",
        "message": "Your token lacks the scope custom:tokens:course!group=ml101.",
    }


def test_a_list_of_courses_has_only_those_one_may_read(
    console: ConsoleProcess, hub: BareHub
) -> None:
    """Students none, instructors theirs, admins all."""

    def seen(user: str) -> set[str]:
        items = console.get("/courses", hub.token(user))["items"]
        return {course["name"] for course in items} & {COURSE, OTHER_COURSE}

    assert seen("alice") == set()
    assert seen("ivy") == {COURSE}
    assert seen("otto") == {OTHER_COURSE}
    assert seen("ada") == {COURSE, OTHER_COURSE}
