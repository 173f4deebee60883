"""A request sent twice is done once; a key is its sender's and one request's only."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from testbed.bare_hub import COURSE, BareHub
from testbed.console import ConsoleProcess


@pytest.fixture(autouse=True)
def course(console: ConsoleProcess, hub: BareHub) -> None:
    body = {"title": "Machine learning", "student_cap": None}
    console.ask("PUT", f"/courses/{COURSE}", hub.token("ada"), json=body)
    console.post(f"/courses/{COURSE}/budget", hub.token("ada"), {"microtokens": 1000})


def available(console: ConsoleProcess, hub: BareHub, user: str) -> int:
    return int(console.get("/me", hub.token(user))["available"])


def sums(console: ConsoleProcess, hub: BareHub) -> dict[str, Any]:
    """Where all tokens are; a new console audits them when it comes to it."""
    told = dict(console.get("/ledger", hub.token("ada")))
    del told["last_audit"]
    return told


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/users/{user}/grants", {}),
        ("/users/{user}/take-backs", {}),
        (f"/courses/{COURSE}/budget", {}),
        (f"/courses/{COURSE}/withdrawals", {}),
        (f"/courses/{COURSE}/hand-outs", {"user": ...}),
        (f"/courses/{COURSE}/returns", {"user": ...}),
    ],
)
def test_the_same_request_again_gets_the_same_answer_and_moves_nothing(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    path: str,
    more: dict[str, Any],
) -> None:
    """201 the first time, 200 from then on; another request under the key 409."""
    ada, user, key = hub.token("ada"), student(COURSE), uuid4().hex
    console.post(f"/users/{user}/grants", ada, {"microtokens": 50})
    console.post(f"/courses/{COURSE}/hand-outs", ada, {"user": user, "microtokens": 50})
    path = path.format(user=user)
    body = {"microtokens": 7} | dict.fromkeys(more, user)

    first = console.ask("POST", path, ada, key=key, json=body)
    after = sums(console, hub), available(console, hub, user)
    again = console.ask("POST", path, ada, key=key, json=body)
    other = console.ask("POST", path, ada, key=key, json=body | {"microtokens": 8})

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert other.json()["code"] == "key_reused"
    assert (sums(console, hub), available(console, hub, user)) == after


def test_ten_at_once_move_tokens_once(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """However they race."""
    ada, user, key = hub.token("ada"), student(), uuid4().hex
    with ThreadPoolExecutor(10) as pool:
        answers = [
            pool.submit(
                console.ask,
                "POST",
                f"/users/{user}/grants",
                ada,
                key=key,
                json={"microtokens": 3},
            )
            for _ in range(10)
        ]
    codes = sorted(answer.result().status_code for answer in answers)
    assert codes == [200] * 9 + [201]
    assert available(console, hub, user) == 3


def test_nobody_meets_somebody_elses_key(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """The same key of two senders is two keys; so is one of the ledger's own."""
    user = student()
    for key in (uuid4().hex, f"welcome:{user}", "hold:1:0"):
        for token in (hub.token("ada"), hub.keys["bank"]):
            answer = console.ask(
                "POST",
                f"/users/{user}/grants",
                token,
                key=key,
                json={"microtokens": 1},
            )
            assert answer.status_code == 201
    assert available(console, hub, user) == 6


def test_who_moved_tokens_is_written_down(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """A user by name, a service as a service."""
    user = student()
    for token in (hub.token("ada"), hub.keys["bank"]):
        console.post(f"/users/{user}/grants", token, {"microtokens": 1})
    items = console.get("/me/history", hub.token(user))["items"]
    assert [item["actor"] for item in items] == ["service bank", "ada"]
