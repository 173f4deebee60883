"""Tokens paid elsewhere: taken from who knows the secret, once each."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import requests
from testbed.bare_hub import BareHub
from testbed.console import TOPUP_SECRET, ConsoleProcess
from torchroom.ledger.signatures import TOLERANCE_S, sign

Send = Callable[..., requests.Response]


@pytest.fixture
def send(console: ConsoleProcess) -> Send:
    """Sends a message, signed as its arguments say."""

    def sent(
        body: bytes,
        *,
        secret: str = TOPUP_SECRET,
        late_s: int = 0,
        signature: str | None = None,
    ) -> requests.Response:
        at = int(time.time()) - late_s
        made = sign(body, [secret], at) if signature is None else signature
        return console.ask(
            "POST",
            "/webhooks/topup",
            key=False,
            data=body,
            headers={"Torchroom-Signature": made, "Content-Type": "application/json"},
        )

    return sent


def message(user: str, **more: Any) -> bytes:
    told = {"id": uuid4().hex, "user": user, "microtokens": 5} | more
    return json.dumps(told).encode()


def test_a_signed_message_gives_its_tokens_once(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], send: Send
) -> None:
    """However often it comes, signed anew or replayed."""
    user = student()
    body = message(user, note="Invoice 7")
    answers = [send(body), send(body), send(body, late_s=60)]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    (entry,) = console.get("/me/history", hub.token(user))["items"]
    assert (entry["code"], entry["microtokens"], entry["note"]) == (
        "topup",
        5,
        "Invoice 7",
    )


def test_the_same_id_with_another_amount_is_refused(
    student: Callable[..., str], send: Send
) -> None:
    """So is one for another user."""
    user, key = student(), uuid4().hex
    assert send(message(user, id=key)).status_code == 201
    assert send(message(user, id=key, microtokens=6)).status_code == 409
    assert send(message(student(), id=key)).status_code == 409


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "x" * 64},
        {"late_s": TOLERANCE_S + 10},
        {"late_s": -TOLERANCE_S - 10},
        {"signature": ""},
        {"signature": "t=1,v1=" + "0" * 64},
        {"signature": "v1=" + "0" * 64},
        {"signature": "garbage"},
    ],
    ids=str,
)
def test_a_message_that_is_not_signed_well_is_refused(
    console: ConsoleProcess,
    hub: BareHub,
    student: Callable[..., str],
    send: Send,
    wrong: dict[str, Any],
) -> None:
    """401, and nothing moves."""
    user = student()
    answer = send(message(user), **wrong)
    assert answer.status_code == 401
    assert answer.json()["code"] == "bad_signature"
    assert console.get("/me", hub.token(user))["available"] == 0


def test_a_changed_message_is_refused(student: Callable[..., str], send: Send) -> None:
    """One more zero in the amount breaks the signature."""
    body = message(student())
    signature = sign(body, [TOPUP_SECRET], int(time.time()))
    forged = body.replace(b'"microtokens": 5', b'"microtokens": 50')
    assert send(forged, signature=signature).status_code == 401


@pytest.mark.parametrize("amount", [-5, 0, 1.5, "5", True, None, 10**15 + 1])
def test_a_signature_does_not_make_a_bad_amount_good(
    student: Callable[..., str], send: Send, amount: object
) -> None:
    """A refund is another thing, done by an admin."""
    assert send(message(student(), microtokens=amount)).status_code == 422


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"id": 1}', b"[" * 9999]
)
def test_a_signed_message_that_says_nothing_is_refused(send: Send, body: bytes) -> None:
    """With a sentence."""
    assert send(body).status_code == 422


def test_without_a_secret_no_top_ups_are_taken(
    own_console: ConsoleProcess, hub: BareHub
) -> None:
    """Nobody can sign with an empty one."""
    own_console.environment = {"TORCHROOM_TOPUP_SECRET_FILE": ""}
    own_console.begin()
    body = message("alice")
    for secret in ("", TOPUP_SECRET):
        answer = own_console.ask(
            "POST",
            "/webhooks/topup",
            data=body,
            headers={"Torchroom-Signature": sign(body, [secret], int(time.time()))},
        )
        assert answer.status_code == 404
    assert own_console.get("/me", hub.token("alice"))["available"] == 0
