"""Bad input to the login at a provider, beside what test_login.py tries of its protocol.

The lists below are what was tried, a line each. `hub` fails on any traceback.
"""
# ruff: noqa: E501 - so that a line is one input

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import requests
from testbed.bare_hub import free_port
from testbed.engine import wait_until
from testbed.identity import IdentityProvider, identity_provider
from testbed.login_hub import STUDENTS, LoginHub, Visitor, login_hub, said

WITHIN_S = 30
Person = Callable[..., str]


def is_logged_in(visitor: Visitor, hub: LoginHub) -> bool:
    return visitor.home(hub).status_code == 200


def is_known(hub: LoginHub, name: str) -> bool:
    """Does the hub know somebody of this name?"""
    answer = hub.ask(f"users/{name}", hub.key)
    assert answer.status_code in {200, 404}, answer.text
    return answer.ok


# ------------------------------------------------------------------- the way back, wrong

BACK: dict[str, tuple[str, Any]] = {
    # what is wrong -> how it is sent, and how the answer of the provider is changed
    "by POST, as a form": ("POST", {}),
    "by PUT": ("PUT", {}),
    "by DELETE": ("DELETE", {}),
    "by HEAD": ("HEAD", {}),
    "by no method": ("FOO", {}),
    "two codes": ("GET", [("code", "x")]),
    "no code": ("GET", {"code": None}),
    "an empty code": ("GET", {"code": ""}),
    "a code of 30 kB": ("GET", {"code": "x" * 30_000}),
    "a code of bytes": ("GET", {"code": b"\xff\xfe"}),
    "a code with a line's end": ("GET", {"code": "a\r\nX: y"}),
    "another client's code": ("GET", {"code": "4/0AX4XfWh-another-clients"}),
    "a token instead of a code": ("GET", {"code": None, "access_token": "x", "id_token": "y"}),
    "a state of bytes": ("GET", {"state": b"\xff\xfe"}),
    "a state of 30 kB": ("GET", {"state": "x" * 30_000}),
    "two states": ("GET", [("state", "x")]),
    "no issuer": ("GET", {"iss": None}),
    "an issuer of bytes": ("GET", {"iss": b"\xff"}),
    "an issuer in capitals": ("GET", {"iss": "HTTP://127.0.0.1"}),
    "an error of markup": ("GET", {"error": "<script>alert(1)</script>", "code": None}),
    "an error and a code": ("GET", {"error": "access_denied"}),
}  # fmt: skip


@pytest.mark.parametrize("what", BACK)
def test_an_answer_that_is_none_logs_nobody_in(
    hub: LoginHub, person: Person, what: str
) -> None:
    """Begun well in this browser, by somebody who would get in."""
    method, changes = BACK[what]
    visitor, name = Visitor(), person(STUDENTS)
    back = urlsplit(visitor.come_back(hub, name))
    query: list[tuple[str, Any]] = list(parse_qsl(back.query))
    if isinstance(changes, list):
        query += changes
    else:
        query = [(key, value) for key, value in query if key not in changes]
        query += [(key, value) for key, value in changes.items() if value is not None]
    url = f"{hub.url}{back.path}"
    if method == "POST":
        page = visitor.session.post(
            url, data=query, timeout=WITHIN_S, allow_redirects=False
        )
    else:
        page = visitor.session.request(
            method, f"{url}?{urlencode(query)}", timeout=WITHIN_S, allow_redirects=False
        )
    assert 400 <= page.status_code < 500, (page.status_code, page.text[:500])
    assert "<script>alert" not in page.text
    assert not is_logged_in(visitor, hub)
    assert not is_known(hub, name)


COOKIES = {
    "none": None,
    "empty": "",
    "a text": "rubbish",
    "cut": -9,
    "a letter of it changed": -1,
    "another version": "1|x|y",
    "a time at the end of days": "2|1:0|99999999999999999999:1|18:oauthenticator-state|4:eA==|" + "0" * 64,
    "bytes": "\xff\xfe",
    "20 kB": "x" * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("what", COOKIES)
def test_a_cookie_of_a_login_that_somebody_made_up(
    hub: LoginHub, person: Person, what: str
) -> None:
    """The state in it is signed; without it there was no login."""
    visitor, name = Visitor(), person(STUDENTS)
    back = visitor.come_back(hub, name)
    ours = [x for x in visitor.session.cookies if "oauthenticator" in x.name]
    assert ours, visitor.session.cookies
    value, pairs = COOKIES[what], []
    for cookie in ours:
        good = str(cookie.value).strip('"')
        match value:
            case int():
                forged = good[:value] + ("0" if good[-1] != "0" else "1")
            case None:
                continue
            case _:
                forged = value
        pairs.append(f'{cookie.name}="{forged}"')
    page = requests.get(
        back,
        headers={"Cookie": "; ".join(pairs).encode("latin-1")},
        timeout=WITHIN_S,
        allow_redirects=False,
    )
    assert 400 <= page.status_code < 500, page.text[:500]
    assert not any("login" in cookie.name for cookie in page.cookies)
    assert not is_known(hub, name)


# ------------------------------------------------------------------- the way there, wrong

THERE = [
    ("POST", "/hub/oauth_login"),
    ("PUT", "/hub/oauth_login"),
    ("FOO", "/hub/oauth_login"),
    ("GET", "/hub/oauth_login?next=%ff"),
    ("GET", "/hub/oauth_login?next=//[::1"),
    ("GET", "/hub/oauth_login?next=/a%0d%0aLocation:%20//evil.example"),
    ("GET", "/hub/oauth_login?another=%ff"),
    ("GET", "/hub/oauth_callback"),
    ("POST", "/hub/login"),
    ("GET", "/hub/oauth_login/x"),
    ("GET", "/hub/oauth_callback/..%2fhome"),
]


@pytest.mark.parametrize(("method", "path"), THERE)
def test_a_login_that_cannot_begin(hub: LoginHub, method: str, path: str) -> None:
    """And nobody is led to the provider by it; nor for want of the form's own key."""
    session = requests.Session()
    session.get(f"{hub.url}/hub/nope", timeout=WITHIN_S)
    (key,) = (row.value for row in session.cookies if row.name == "_xsrf")
    form = {"username": "nora", "password": "x"}
    page = session.request(
        method,
        hub.url + path,
        data=form if method == "POST" else None,
        headers={"X-XSRFToken": key},
        timeout=WITHIN_S,
        allow_redirects=False,
    )
    assert 400 <= page.status_code < 500, (page.status_code, page.headers)
    assert "_xsrf" not in said(page), said(page)


@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "javascript"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Forwarded-Prefix": "//evil.example"},
        {"Referer": "https://evil.example/"},
    ],
    ids=str,
)
def test_no_header_changes_where_the_provider_leads_back(
    hub: LoginHub, header: dict[str, str]
) -> None:
    """Codes would go to another site. Two lines of a header neither."""
    page = requests.get(
        f"{hub.url}/hub/oauth_login",
        headers=header,
        timeout=WITHIN_S,
        allow_redirects=False,
    )
    query = dict(parse_qsl(urlsplit(page.headers["Location"]).query))
    assert query["redirect_uri"] == f"{hub.url}/hub/oauth_callback"
    assert query["code_challenge_method"] == "S256"
    assert "evil" not in page.headers["Location"]


# --------------------------------------------------------------- claims that claim a lot

CLAIMS: dict[str, dict[str, Any]] = {
    "the hub's group of admins": {"groups": ["hub:admins"]},
    "the hub's group of instructors": {"groups": ["instructors-of-ml101"]},
    "a course by its own name": {"groups": ["ml101"]},
    "another case": {"groups": [STUDENTS.upper()]},
    "a space at its end": {"groups": [STUDENTS + " "]},
    "a NUL at its end": {"groups": [STUDENTS + "\0"]},
    "a line's end": {"groups": [f"x\n{STUDENTS}"]},
    "several in one": {"groups": [f"x,{STUDENTS}"]},
    "a list in a text": {"groups": json.dumps([STUDENTS])},
    "a list in a list": {"groups": [[STUDENTS]]},
    "a path": {"groups": [f"/{STUDENTS}"]},
    "true": {"groups": True},
    "null among them": {"groups": [None, STUDENTS]},
    "half of a surrogate pair": {"groups": ["\ud800"]},
    "admin, said otherwise": {"groups": [], "admin": True, "roles": ["admin"], "is_admin": True},
    "scopes": {"groups": [], "scope": "admin:users", "scopes": ["admin:users"]},
}  # fmt: skip


@pytest.mark.parametrize("what", CLAIMS)
def test_claims_that_are_no_membership_let_nobody_in(
    hub: LoginHub, person: Person, what: str
) -> None:
    """Only what courses.toml names counts, letter by letter."""
    name, visitor = person(**CLAIMS[what]), Visitor()
    page = visitor.log_in(hub, name)
    assert page.status_code == 403, page.text
    assert not is_logged_in(visitor, hub)
    assert not is_known(hub, name)


def test_claims_beside_a_membership_give_nothing_more(
    hub: LoginHub, person: Person
) -> None:
    """A student stays one."""
    name = person(
        STUDENTS,
        "hub:admins",
        "instructors-of-ml101",
        admin=True,
        roles=["admin"],
        auth_state={"admin": True},
    )
    Visitor().log_in(hub, name)
    user = hub.user(name)
    assert (user["groups"], user["admin"]) == (["ml101"], False)
    token = hub.token_of(name)
    assert hub.ask("users", token).status_code == 403
    assert hub.ask("groups/hub:admins", token).status_code in {403, 404}


def test_who_is_put_into_a_group_by_hand_is_out_of_it_when_the_provider_is_asked(
    hub: LoginHub, person: Person
) -> None:
    """JupyterHub lets admins do it; the provider has the last word."""
    name, visitor = person(STUDENTS), Visitor()
    visitor.log_in(hub, name)
    for group in ("bio7", "hub:admins", "instructors-of-ml101"):
        path, body = f"groups/{quote(group)}/users", {"users": [name]}
        hub.ask(path, hub.key, method="POST", json=body)

    def is_out() -> bool:
        visitor.home(hub)
        return bool(hub.user(name)["groups"] == ["ml101"])

    wait_until(is_out, what="the provider was asked again", within_s=20)


# ----------------------------------------------------------------------------------- pace


@pytest.fixture
def slow_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginHub]:
    """A hub that lets six logins begin in a minute."""
    more = """
from gpuspawner.pacing import Pace
from torchroom.auth.authenticator import OidcAuthenticator
from torchroom.auth.pace import LoginPace
from traitlets import default

class SlowAuthenticator(OidcAuthenticator):
    @default("pace")
    def _slow(self):
        return LoginPace(logins_of_address=Pace(6, 60))

c.JupyterHub.authenticator_class = SlowAuthenticator
"""
    port = free_port()
    provider: IdentityProvider
    with (
        identity_provider(
            tmp_path_factory.mktemp("provider"), f"http://127.0.0.1:{port}"
        ) as provider,
        login_hub(
            tmp_path_factory.mktemp("hub"), provider, port=port, more=more
        ) as hub,
    ):
        yield hub


def test_logins_that_come_too_fast_are_refused_whoever_they_say_they_are(
    slow_hub: LoginHub,
) -> None:
    """X-Forwarded-For and X-Real-Ip of a client change nothing behind the proxy.

    Who began before comes back all the same.
    """
    url = f"{slow_hub.url}/hub/oauth_login"
    visitor = Visitor()
    there = dict(parse_qsl(urlsplit(visitor.start_login(slow_hub)).query))
    for n in range(5):
        forged = {"X-Forwarded-For": f"9.9.9.{n}", "X-Real-Ip": f"8.8.8.{n}"}
        page = requests.get(
            url, headers=forged, timeout=WITHIN_S, allow_redirects=False
        )
        assert page.status_code == 302
    forged = {"X-Forwarded-For": "7.7.7.7", "X-Real-Ip": "7.7.7.7"}
    page = requests.get(url, headers=forged, timeout=WITHIN_S, allow_redirects=False)
    assert page.status_code == 429
    assert "Try again in a minute." in page.text
    assert int(page.headers["Retry-After"]) <= 60
    back = urlencode({"code": "x", "state": there["state"]})
    page = visitor.open(f"{slow_hub.url}/hub/oauth_callback?{back}")
    assert page.status_code in {400, 403}
    assert "did not finish this login" in said(page) or "verified" in said(page)
    page = requests.get(f"{slow_hub.url}/hub/oauth_callback?{back}", timeout=WITHIN_S)
    assert page.status_code == 400
    assert "Traceback" not in slow_hub.log()


def test_where_users_have_hosts_below_the_hubs_no_page_plants_a_state(
    tmp_path: Path,
) -> None:
    """It would make who follows its link a login that is its owner's."""
    port = free_port()
    more = "c.JupyterHub.cookie_host_prefix_enabled = True"  # as with subdomains
    with (
        identity_provider(tmp_path, f"http://127.0.0.1:{port}") as provider,
        login_hub(tmp_path, provider, port=port, more=more) as hub,
    ):
        begun = requests.get(
            f"{hub.url}/hub/oauth_login", timeout=WITHIN_S, allow_redirects=False
        )
        name = "__Host-oauthenticator-state"
        assert f"{name}=" in begun.headers["Set-Cookie"]
        assert "Secure" in begun.headers["Set-Cookie"]
        state = dict(parse_qsl(urlsplit(begun.headers["Location"]).query))["state"]
        told = {"code": "x", "state": state, "iss": provider.issuer}

        def come_back(cookie: str) -> str:
            sent = {"Cookie": f"{cookie}={begun.cookies[name]}"}
            back = f"{hub.url}/hub/oauth_callback?{urlencode(told)}"
            return said(requests.get(back, headers=sent, timeout=WITHIN_S))

        assert "did not finish this login" in come_back(name)
        assert "begun in another browser" in come_back(name.removeprefix("__Host-"))
        assert "Traceback" not in hub.log()
