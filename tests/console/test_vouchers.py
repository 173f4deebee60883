"""A voucher gives its tokens once, to who types it; guessing is stopped."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import requests
from testbed.bare_hub import BareHub
from testbed.console import ConsoleProcess

WRONG = "TR-0000-0000-0000-0000"


@pytest.fixture
def make(console: ConsoleProcess, hub: BareHub) -> Callable[..., dict[str, str]]:
    """Makes a voucher of 7 microtokens."""

    def made(**more: Any) -> dict[str, str]:
        body = {"microtokens": 7, "expires_at": "2099-01-01T00:00:00Z"} | more
        (voucher,) = console.post("/vouchers", hub.token("ada"), body)["items"]
        return dict(voucher)

    return made


@pytest.fixture
def redeem(console: ConsoleProcess, hub: BareHub) -> Callable[..., requests.Response]:
    """Redeems a code for a user."""
    return lambda user, code, **more: console.ask(
        "POST", "/me/vouchers", hub.token(user), json={"code": code}, **more
    )


def test_a_voucher_gives_its_tokens_once(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    make: Callable[..., dict[str, str]],
    redeem: Callable[..., requests.Response],
) -> None:
    """A retry gets the same answer; somebody else, and another try, get a refusal."""
    first, second, key = student(), student(), uuid4().hex
    code = make(note="Welcome")["code"]

    answers = [redeem(first, code.lower(), key=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["microtokens"] == 7
    for user in (first, second):
        assert redeem(user, code).json()["code"] == "voucher_refused"
    assert console.get("/me", hub.token(first))["available"] == 7
    assert console.get("/me", hub.token(second))["available"] == 0


def test_ten_students_with_one_code_get_one_voucher(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    make: Callable[..., dict[str, str]],
    redeem: Callable[..., requests.Response],
) -> None:
    """All at once."""
    users, code = [student() for _ in range(10)], make()["code"]
    for user in users:
        hub.token(user)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda user: redeem(user, code), users))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9


def test_a_revoked_a_forged_and_a_mistyped_code_are_refused(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    make: Callable[..., dict[str, str]],
    redeem: Callable[..., requests.Response],
) -> None:
    """The first two look the same, so nobody learns which codes there are."""
    user, voucher, ada = student(), make(), hub.token("ada")
    path = f"/vouchers/{voucher['id']}"
    assert [console.ask("DELETE", path, ada).status_code for _ in range(2)] == [204] * 2

    revoked, forged = redeem(user, voucher["code"]), redeem(user, WRONG)
    assert revoked.status_code == forged.status_code == 409
    assert revoked.json() == forged.json()
    for typed in ("x", "TR-", "0" * 64, "TR-ÄÖÜß-0000-0000-0000", "'; --"):
        assert redeem(user, typed).json()["code"] == "voucher_refused"
    for wrong in ("", "0" * 10_000, 7, None, [WRONG]):
        assert redeem(user, wrong).status_code == 422
    assert console.get("/me", hub.token(user))["available"] == 0


def test_after_five_failures_one_waits(
    student: Callable[..., str],
    make: Callable[..., dict[str, str]],
    redeem: Callable[..., requests.Response],
) -> None:
    """Even with a good code then; others are not kept waiting."""
    guesser, other, code = student(), student(), make()["code"]
    answers = [redeem(guesser, WRONG) for _ in range(5)] + [redeem(guesser, code)]
    assert [answer.status_code for answer in answers] == [409] * 5 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 600
    assert redeem(other, code).status_code == 201


def test_an_admin_sees_what_became_of_a_voucher_but_no_code(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    make: Callable[..., dict[str, str]],
    redeem: Callable[..., requests.Response],
) -> None:
    """Newest first, page by page."""
    user, ada = student(), hub.token("ada")
    used, unused = make(note="for the lab"), make()
    redeem(user, used["code"])
    answer = console.ask("GET", "/vouchers", ada)
    items = answer.json()["items"]
    known = {item["id"]: item for item in items}
    assert known[used["id"]]["redeemed_by"] == user
    assert known[unused["id"]]["redeemed_by"] == ""
    assert used["code"] not in answer.text
    first = console.get("/vouchers", ada, limit=1)
    rest = console.get("/vouchers", ada, cursor=first["next"])
    assert first["items"] + rest["items"] == items[: 1 + len(rest["items"])]


@pytest.mark.parametrize(
    "more",
    [
        {"n": 0},
        {"n": 501},
        {"n": True},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"tokens_expire_at": "2001-01-01T00:00:00Z"},
        {"course": "x/y"},
        {"code": WRONG},
    ],
)
def test_vouchers_that_make_no_sense_are_not_made(
    console: ConsoleProcess, hub: BareHub, more: dict[str, object]
) -> None:
    """Nor can anybody choose a code."""
    body = {"microtokens": 1, "expires_at": "2099-01-01T00:00:00Z"} | more
    answer = console.ask("POST", "/vouchers", hub.token("ada"), json=body)
    assert answer.status_code == 422


@pytest.mark.parametrize("wrong", ["nobody", "%00", "a%2Fb", "x" * 100, "'"])
def test_a_voucher_that_is_not_there_cannot_be_revoked(
    console: ConsoleProcess, hub: BareHub, wrong: str
) -> None:
    """Whatever its id is."""
    answer = console.ask("DELETE", f"/vouchers/{wrong}", hub.token("ada"))
    assert answer.status_code in {404, 422}
