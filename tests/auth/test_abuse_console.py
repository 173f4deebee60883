"""Bad input to the console is refused: no token moves, nothing is printed.

What a body of its REST API may not be is in tests/console/test_bad_input.py. Here is who
asks, how, and for what; the lists below are what was tried, a line each.
"""
# ruff: noqa: E501 - so that a line is one input

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from auth.abuse import ANSWER_WITHIN_S, HUGE, Try, browser, raw
from testbed.console import PREFIX, ConsoleProcess, console_process
from testbed.role_hub import COURSE, RoleHub, role_hub

LOOPBACK = "torchroom.auth.local.LoopbackAuthenticator"
API = "/api/v1"


@dataclass
class WatchedConsole:
    """A console in whose ledger nothing must move."""

    hub: RoleHub
    console: ConsoleProcess

    def sums(self) -> Any:
        """All that there is of tokens; when it was audited says nothing of them."""
        key = self.hub.keys["root"]
        found = self.console.get("/ledger", key)
        del found["last_audit"]
        return found, self.console.get("/users/alice", key)["available"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedConsole]:
    """A real hub and a real console."""
    folder = tmp_path_factory.mktemp("console")
    url = f"sqlite:///{folder / 'ledger.sqlite'}"
    with (
        role_hub(tmp_path_factory.mktemp("hub"), authenticator=LOOPBACK) as hub,
        console_process(hub, folder, url) as console,
    ):
        key = hub.keys["root"]
        body = {"title": "Machine learning", "student_cap": None}
        console.ask("PUT", f"/courses/{COURSE}", key, json=body)
        console.post(f"/courses/{COURSE}/budget", key, {"microtokens": 100})
        yield WatchedConsole(hub, console)


GRANT, HAND_OUT = "/users/alice/grants", f"/courses/{COURSE}/hand-outs"
ONE = '{"microtokens": 1}'
TO_ALICE = '{"user": "alice", "microtokens": 1}'
NOTICE, EXTENSION = "/me/servers/-/notice", "/me/servers/-/extension"
ASKED = [
    # who asks
    Try("nobody", "GET", "/me", who="nobody"),
    Try("nobody", "POST", GRANT, ONE, who="nobody"),
    Try("a token that is none", "GET", "/me", None, "nobody", {"Authorization": "Bearer " + "0" * 32}),
    Try("a token of bytes", "GET", "/me", None, "nobody", {"Authorization": "Bearer \xff\xfe"}),
    Try("a token of 50 kB", "GET", "/me", None, "nobody", {"Authorization": "Bearer " + "x" * 50_000}),
    Try("a token with a slash", "GET", "/me", None, "nobody", {"Authorization": "Bearer ../user"}),
    Try("a token with a line's end", "GET", "/me", None, "nobody", {"Authorization": "Bearer a%0d%0ab"}),
    Try("a password", "GET", "/me", None, "nobody", {"Authorization": "Basic YWRhOmFkYQ=="}),
    Try("a token in the address", "GET", "/me?token={ada}", who="nobody"),
    Try("a cookie for a token", "GET", "/me", None, "nobody", {"Cookie": "jupyterhub-hub-login=x; torchroom-session=x"}),
    Try("a name in a header", "GET", "/me", None, "nobody", {"X-Forwarded-User": "ada"}),
    Try("a service for a user", "GET", "/me", who="steward"),
    # what is not theirs
    Try("a student's grant to herself", "POST", GRANT, ONE),
    Try("a student's hand-out", "POST", HAND_OUT, TO_ALICE),
    Try("a student's look at a course", "GET", f"/courses/{COURSE}"),
    Try("a student's look at another", "GET", "/users/bob"),
    Try("an instructor's grant", "POST", GRANT, ONE, who="ivy"),
    Try("an instructor's budget", "POST", f"/courses/{COURSE}/budget", ONE, who="ivy"),
    Try("another instructor's hand-out", "POST", HAND_OUT, TO_ALICE, who="otto"),
    Try("a hand-out to another course", "POST", HAND_OUT, '{"user": "eve", "microtokens": 1}', who="ivy"),
    Try("a hand-out to nobody", "POST", HAND_OUT, '{"user": "who", "microtokens": 1}', who="ivy"),
    Try("the steward's grant", "POST", GRANT, ONE, who="steward"),
    Try("the console's own grant", "POST", GRANT, ONE, who="console"),
    Try("a price by a student", "POST", "/prices", '{"key": "cpu", "microtokens_per_hour": 0}'),
    Try("what the steward did, for a student", "GET", "/steward/events"),
    # a server's own warnings
    Try("an extension of nothing", "POST", EXTENSION, '{"lease": "ls_1", "extension": 1}'),
    Try("an extension that is none", "POST", EXTENSION, '{"lease": "ls_1", "extension": 0}'),
    Try("an extension below 0", "POST", EXTENSION, '{"lease": "ls_1", "extension": -1}'),
    Try("an extension of text", "POST", EXTENSION, '{"lease": "ls_1", "extension": "1"}'),
    Try("an extension of true", "POST", EXTENSION, '{"lease": "ls_1", "extension": true}'),
    Try("an extension of 5000 digits", "POST", EXTENSION, '{"lease": "ls_1", "extension": ' + "9" * 5000 + "}"),
    Try("an extension and a price", "POST", EXTENSION, '{"lease": "ls_1", "extension": 1, "microtokens": 0}'),
    Try("an extension for nobody", "POST", EXTENSION, '{"lease": "ls_1", "extension": 1}', who="nobody"),
    Try("an extension by a service", "POST", EXTENSION, '{"lease": "ls_1", "extension": 1}', who="steward"),
    Try("another's server", "GET", "/me/servers/..%2f..%2fusers%2fbob/notice"),
    Try("a server of nothing", "GET", "/me/servers/%00/notice"),
    Try("a server of 5000 letters", "GET", f"/me/servers/{'x' * 5000}/notice"),
    # vouchers and signatures
    Try("a voucher that is none", "POST", "/me/vouchers", '{"code": "TR-0000-0000-0000-0000"}'),
    Try("a voucher of 100 kB", "POST", "/me/vouchers", f'{{"code": "{HUGE}"}}'),
    Try("a voucher of a number", "POST", "/me/vouchers", '{"code": 5}'),
    Try("a top-up without a signature", "POST", "/webhooks/topup", "{}", who="nobody"),
    Try("a top-up with a made-up one", "POST", "/webhooks/topup", "{}", "nobody", {"Torchroom-Signature": "t=1,v1=00"}),
    # how it is asked
    Try("a body of 200 kB", "POST", GRANT, f'{{"microtokens": 1, "note": "{HUGE * 2}"}}', who="ada"),
    Try("20000 lists in each other", "POST", GRANT, "[" * 20_000, who="ada"),
    Try("bytes for a body", "POST", GRANT, b"\xff\xfe", who="ada"),
    Try("a form for a body", "POST", GRANT, "microtokens=1", "ada", {"Content-Type": "application/x-www-form-urlencoded"}),
    Try("no key", "POST", GRANT, ONE, "ada", {"Idempotency-Key": ""}),
    Try("a key of 5000 letters", "POST", GRANT, ONE, "ada", {"Idempotency-Key": "k" * 5000}),
    Try("a name of nothing", "GET", "/users/%00", who="ada"),
    Try("a name that leads up", "GET", "/users/..%2f..%2fledger", who="ada"),
    Try("a course that leads up", "PUT", "/courses/..%2fx", '{"title": "x", "student_cap": null}', who="ada"),
    Try("no such address", "GET", "/none", who="ada"),
    Try("no such method", "PUT", "/me", ONE, who="ada"),
    Try("no method at all", "FOO", "/me", who="ada"),
    Try("a cursor of bytes", "GET", "/me/history?cursor=%ff"),
    Try("a limit of 25 digits", "GET", f"/me/history?limit={'9' * 25}"),
]  # fmt: skip


@pytest.mark.parametrize("tried", ASKED, ids=str)
def test_it_is_refused_and_no_token_moves(there: WatchedConsole, tried: Try) -> None:
    """With a 4xx and a sentence."""
    before, n_seen = there.sums(), len(there.console.log())
    n_seen_of_hub = len(there.hub.log())
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": "of-this-test",
        **tried.headers,
    }
    known = there.hub.keys
    if tried.who != "nobody":
        token = known.get(tried.who) or there.hub.token(tried.who)
        headers["Authorization"] = f"Bearer {token}"
    url = there.console.base + tried.path.replace("{ada}", there.hub.token("ada"))
    body = tried.body.encode() if isinstance(tried.body, str) else tried.body
    prepared = requests.Request(
        tried.method,
        url,
        data=body,
        headers={name: value.encode("latin-1") for name, value in headers.items()},
    ).prepare()
    prepared.url = url
    with requests.Session() as session:
        answer = session.send(prepared, allow_redirects=False, timeout=ANSWER_WITHIN_S)
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:500])
    assert answer.json()["message"].endswith(".")
    assert "Traceback" not in there.console.log()[n_seen:]
    assert "Traceback" not in there.hub.log()[n_seen_of_hub:]
    assert there.sums() == before


# ----------------------------------------------------------------------------- the page

PAGES = [
    ("an answer to nothing", "GET", "oauth_callback", {}),
    ("a code without a login", "GET", "oauth_callback?code=x&state=y", {}),
    ("a state of nothing", "GET", "oauth_callback?code=x&state=%00", {"Cookie": "torchroom-login=%00.x"}),
    ("a state of bytes", "GET", "oauth_callback?code=x&state=%ff", {"Cookie": "torchroom-login=\xff.x"}),
    ("an empty state and cookie", "GET", "oauth_callback?code=x&state=", {"Cookie": "torchroom-login=."}),
    ("a state of 10 kB", "GET", "oauth_callback?code=x&state=" + "x" * 10_000, {}),
    ("an answer by POST", "POST", "oauth_callback", {}),
    ("a voucher of nobody", "POST", "redeem", {}),
    ("a voucher of another site", "POST", "redeem", {"Origin": "https://evil.example", "Cookie": "torchroom-session=x"}),
    ("a session that is none", "POST", "redeem", {"Cookie": "torchroom-session=" + "x" * 43}),
    ("a file above", "GET", "..%2f..%2fetc/passwd", {}),
    ("no such page", "GET", "none", {}),
    ("no method at all", "FOO", "", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "method", "path", "headers"), PAGES, ids=[each[0] for each in PAGES]
)
def test_a_page_that_cannot_be(
    there: WatchedConsole, what: str, method: str, path: str, headers: dict[str, str]
) -> None:
    """Nobody is signed in by it, and nothing is redeemed."""
    before, n_seen = there.sums(), len(there.console.log())
    answer = requests.request(
        method,
        f"http://127.0.0.1:{there.console.port}{PREFIX}{path}",
        headers={name: value.encode("latin-1") for name, value in headers.items()},
        data={"code": "TR-0000-0000-0000-0000"} if method == "POST" else None,
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    led = answer.headers.get("Location", "")
    is_to_sign_in = answer.is_redirect and (
        led == PREFIX or "/hub/api/oauth2/authorize" in led
    )
    assert is_to_sign_in or 400 <= answer.status_code < 500, answer.status_code
    assert "evil" not in led
    assert not any("session" in cookie.name for cookie in answer.cookies)
    assert "Traceback" not in there.console.log()[n_seen:]
    assert there.sums() == before


def test_what_is_not_http_ends_nothing(there: WatchedConsole) -> None:
    """Others go on."""
    n_seen = len(there.console.log())
    for data in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST "
        + PREFIX.encode()
        + b"api/v1/me HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ):
        answer = raw(there.console.port, data)
        assert not answer or b" 40" in answer[:20] or b" 43" in answer[:20], answer[:99]
    assert "Traceback" not in there.console.log()[n_seen:]
    assert there.console.get("/health", there.hub.token("alice"))


def test_a_session_of_the_hub_is_none_of_the_console(there: WatchedConsole) -> None:
    """Its cookie opens the hub's pages only."""
    session = browser(there.hub, "alice")
    answer = session.get(
        f"{there.console.base}/me", timeout=ANSWER_WITHIN_S, allow_redirects=False
    )
    assert answer.status_code == 401
