"""Whatever is sent that is not right changes nothing and gets a sentence back."""

import json
from typing import Any
from urllib.parse import quote

import pytest
import requests
from testbed.bare_hub import COURSE, BareHub
from testbed.console import ConsoleProcess

AMOUNTS = [-1, 0, 1.5, 1.0, "1", True, None, 10**15 + 1, -(10**30), [], {}, [1], 1e3]
HUGE = "1" + "0" * 5000
LONG = "n" * 10_000


@pytest.fixture
def ada(hub: BareHub) -> str:
    return hub.token("ada")


@pytest.fixture(scope="module", autouse=True)
def course(console: ConsoleProcess, hub: BareHub) -> None:
    body = {"title": "Machine learning", "student_cap": None}
    console.ask("PUT", f"/courses/{COURSE}", hub.token("ada"), json=body)


def issued(console: ConsoleProcess, hub: BareHub) -> Any:
    return console.get("/ledger", hub.token("ada"))["issued"]


def refused(answer: requests.Response, status: int = 422) -> str:
    """The sentence of a refusal in the right shape."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"code", "message"}
    message = str(told["message"])
    assert message.endswith(".")
    assert len(message) < 600
    return message


@pytest.mark.parametrize("amount", AMOUNTS, ids=repr)
@pytest.mark.parametrize(
    "path",
    [
        "/users/bob/grants",
        "/users/bob/take-backs",
        f"/courses/{COURSE}/budget",
        f"/courses/{COURSE}/withdrawals",
    ],
)
def test_only_whole_positive_amounts_move(
    console: ConsoleProcess, hub: BareHub, ada: str, path: str, amount: object
) -> None:
    """No negative, zero, fractional or huge amount, and nothing that is no number."""
    before = issued(console, hub)
    refused(console.ask("POST", path, ada, json={"microtokens": amount}))
    assert issued(console, hub) == before


@pytest.mark.parametrize("amount", AMOUNTS, ids=repr)
def test_an_instructor_cannot_hand_out_such_amounts_either(
    console: ConsoleProcess, hub: BareHub, amount: object
) -> None:
    """A negative one would take a student's tokens."""
    for path in ("hand-outs", "returns"):
        body = {"user": "alice", "microtokens": amount}
        refused(
            console.ask(
                "POST", f"/courses/{COURSE}/{path}", hub.token("ivy"), json=body
            )
        )


@pytest.mark.parametrize("price", [-1, 1.5, "1", True, 10**15 + 1, [1]], ids=repr)
def test_a_price_below_zero_mints_nothing(
    console: ConsoleProcess, ada: str, price: object
) -> None:
    """There is none: a price is a whole number from zero on, or none at all."""
    body = {"key": "gpu", "microtokens_per_hour": price}
    refused(console.ask("POST", "/prices", ada, json=body))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "1",
        '"text"',
        "{",
        "{'microtokens': 1}",
        '{"microtokens": NaN}',
        '{"microtokens": Infinity}',
        f'{{"microtokens": {HUGE}}}',
        '{"microtokens": 1, "note": "\\ud800"}',
        '{"microtokens": 1, "\\ud800": 1}',
        '{"microtokens": 1, "note": "a\\u0000b"}',
        '{"microtokens": 1, "note": "two\\nlines"}',
        '{"microtokens": 1, "admin": true}',
        '{"microtokens": 1, "actor": "root"}',
        '{"microtokens": 1, "expires_at": 1900000000}',
        '{"microtokens": 1, "expires_at": "1900000000"}',
        '{"microtokens": 1, "expires_at": "2099-01-01"}',
        '{"microtokens": 1, "expires_at": "2099-01-01T00:00:00"}',
        '{"microtokens": 1, "expires_at": "0001-01-01T00:00:00+23:00"}',
        '{"microtokens": 1, "expires_at": "2001-01-01T00:00:00Z"}',
        '{"microtokens": 1, "course": ""}',
        '{"microtokens": 1, "course": "a/b"}',
        f'{{"microtokens": 1, "course": "{LONG}"}}',
        f'{{"microtokens": 1, "note": "{LONG}"}}',
        "[" * 20_000,
    ],
)
def test_a_body_that_is_not_as_described_is_refused(
    console: ConsoleProcess, hub: BareHub, ada: str, body: str
) -> None:
    """Unknown fields too: who writes them means something that would not happen."""
    before = issued(console, hub)
    answer = console.ask(
        "POST",
        "/users/bob/grants",
        ada,
        data=body.encode(),
        headers={"Content-Type": "application/json"},
    )
    refused(answer, answer.status_code if answer.status_code == 400 else 422)
    assert issued(console, hub) == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_of_another_site_moves_nothing(
    console: ConsoleProcess, ada: str, kind: str
) -> None:
    """Only JSON that says so is read."""
    refused(
        console.ask(
            "POST",
            "/users/bob/grants",
            ada,
            data=json.dumps({"microtokens": 1}),
            headers={"Content-Type": kind},
        )
    )


@pytest.mark.parametrize("name", [" bob", "bob ", "b\0b", "b\nb", "\x7f", LONG, "\x85"])
def test_a_name_that_nobody_has_is_refused(
    console: ConsoleProcess, ada: str, name: str
) -> None:
    """In the address, where it is written with percent signs."""
    path = f"/users/{quote(name, safe='')}"
    refused(console.ask("GET", f"{path}/history", ada))
    refused(console.ask("POST", f"{path}/grants", ada, json={"microtokens": 1}))


@pytest.mark.parametrize("name", ["a/b", "..", "../bob", "."])
def test_a_slash_in_a_name_leads_nowhere(
    console: ConsoleProcess, ada: str, name: str
) -> None:
    """Not to another user, and not to another operation."""
    path = f"/users/{quote(name, safe='')}/grants"
    answer = console.ask("POST", path, ada, json={"microtokens": 1})
    assert answer.status_code in {404, 405}, answer.text


@pytest.mark.parametrize(
    "name", ["Zoë", "学生", "o'brien; drop table accounts", "😀", "%"]
)
def test_names_of_people_all_over_the_world_work(
    console: ConsoleProcess, ada: str, name: str
) -> None:
    """Whatever is in them, it is them."""
    path = f"/users/{quote(name, safe='')}"
    before = console.get(path, ada)["available"]
    console.post(f"{path}/grants", ada, {"microtokens": 5})
    assert console.get(path, ada) | {"at": ""} == console.get(path, ada) | {"at": ""}
    assert console.get(path, ada)["user"] == name
    assert console.get(path, ada)["available"] == before + 5


@pytest.mark.parametrize("key", [None, "", "x" * 101, "with space", "a\tb", "ü"])
def test_tokens_move_only_under_a_key(
    console: ConsoleProcess, ada: str, key: str | None
) -> None:
    """Without one a retry would move them twice."""
    headers = {} if key is None else {"Idempotency-Key": key.encode("latin-1")}
    answer = console.ask(
        "POST",
        "/users/bob/grants",
        ada,
        key=False,
        json={"microtokens": 1},
        headers=headers,
    )
    assert "Idempotency-Key" in refused(answer)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "cursor=x",
        "cursor=-1",
        "cursor=%00",
        f"cursor={LONG}",
        "cursor=" + "9" * 150,
        "format=xml",
        "cursor=' OR 1=1",
    ],
)
def test_a_page_that_is_not_there_is_refused(
    console: ConsoleProcess, hub: BareHub, query: str
) -> None:
    """With a sentence, whatever the cursor is."""
    refused(console.ask("GET", f"/me/history?{query}", hub.token("alice")))


@pytest.mark.parametrize(
    "query",
    [
        "by=user",
        "by=",
        "start=yesterday",
        "start=2026-01-01",
        "end=99999-01-01T00:00:00Z",
        "start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z",
    ],
)
def test_a_span_of_time_that_is_none_is_refused(
    console: ConsoleProcess, hub: BareHub, query: str
) -> None:
    """`by=user` is for those who may see other users."""
    refused(console.ask("GET", f"/me/usage?{query}", hub.token("alice")))


def test_a_long_body_is_refused(console: ConsoleProcess, ada: str) -> None:
    """Nothing that the API takes is longer than 64 KiB."""
    body = {"microtokens": 1, "note": "x" * 70_000}
    refused(console.ask("POST", "/users/bob/grants", ada, json=body), 413)


def test_unknown_addresses_and_methods_look_like_every_refusal(
    console: ConsoleProcess, ada: str
) -> None:
    """Programs read one shape."""
    refused(console.ask("GET", "/nothing/here", ada), 404)
    answer = console.ask("PATCH", "/me", ada)
    refused(answer, 405)
    assert answer.headers["Allow"] == "GET"
    answer = console.ask("DELETE", f"/courses/{COURSE}", ada)
    assert answer.headers["Allow"] == "GET, PUT"


def test_a_null_project_deletes_nothing(console: ConsoleProcess, ada: str) -> None:
    """Elsewhere this request deleted a shared wallet for everybody."""
    before = console.get(f"/courses/{COURSE}", ada)
    for body in ({"project": None}, {"title": None, "student_cap": None}, {}):
        refused(console.ask("PUT", f"/courses/{COURSE}", ada, json=body))
    refused(console.ask("DELETE", f"/courses/{COURSE}", ada), 405)
    assert console.get(f"/courses/{COURSE}", ada) == before


def test_a_token_in_the_address_is_not_taken(
    console: ConsoleProcess, hub: BareHub
) -> None:
    """Addresses end up in logs."""
    refused(console.ask("GET", f"/me?token={hub.token('alice')}"), 401)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWxpY2U6eA==",
        "token",
        f"Bearer {LONG}",
        "Bearer é",
    ],
)
def test_a_header_without_a_token_is_nobody(
    console: ConsoleProcess, header: str
) -> None:
    """401, and how to do better."""
    answer = console.ask(
        "GET", "/me", headers={"Authorization": header.encode("latin-1")}
    )
    refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
