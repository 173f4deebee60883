"""The page "Your tokens": signed in with the hub, shows one's own, redeems vouchers."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from testbed.bare_hub import BareHub
from testbed.console import PREFIX, ConsoleProcess
from torchroom.console.login import (
    SESSION_S,
    SESSIONS_MAX,
    SESSIONS_OF_USER_MAX,
    Attempt,
    Sessions,
)

Browse = Callable[[str], "Browser"]


class Browser:
    """Somebody at a browser: the hub's pages and the console's, with their cookies.

    There is no proxy in front, so it goes to the two by their own ports.
    """

    def __init__(self, hub: BareHub, console: ConsoleProcess) -> None:
        self.http = requests.Session()
        self.hub = hub
        self.pages = f"http://127.0.0.1:{console.port}"

    def sign_in_to_hub(self, user: str) -> None:
        """Fill in the hub's login form."""
        url = f"http://127.0.0.1:{self.hub.port}/hub/login"
        self.http.get(url, timeout=60)
        (xsrf,) = {c.value for c in self.http.cookies if c.name == "_xsrf"}
        form = {"username": user, "password": self.hub.password, "_xsrf": str(xsrf)}
        told = self.http.post(
            f"{url}?next=/hub/home", data=form, allow_redirects=False, timeout=60
        )
        assert told.status_code == 302, told.text

    def go(self, path: str = PREFIX) -> requests.Response:
        """Open an address of the page; follow it to the hub and back."""
        answer = self.http.get(self.pages + path, allow_redirects=False, timeout=60)
        for _ in range(5):
            if answer.status_code not in {302, 303}:
                return answer
            to = answer.headers["Location"]
            base = f"http://127.0.0.1:{self.hub.port}"
            if not to.startswith("/hub/"):
                base = self.pages
            answer = self.http.get(base + to, allow_redirects=False, timeout=60)
        raise AssertionError("it goes round in circles")

    def redeem(self, page: requests.Response, code: str, **more: str) -> str:
        """Send the page's form; return the page that comes then."""
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
        answer = self.http.post(
            f"{self.pages}{PREFIX}redeem",
            data=fields | {"code": code} | more,
            allow_redirects=False,
            timeout=60,
        )
        if answer.status_code != 303:
            return answer.text
        return self.go(answer.headers["Location"]).text


@pytest.fixture
def browse(hub: BareHub, console: ConsoleProcess) -> Browse:
    """Opens a browser for a user who is signed in to the hub."""

    def opened(user: str) -> Browser:
        browser = Browser(hub, console)
        browser.sign_in_to_hub(user)
        return browser

    return opened


def test_a_user_who_is_signed_in_to_the_hub_sees_their_tokens(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], browse: Browse
) -> None:
    """Without a question, theirs only, and without a script."""
    user = student()
    body = {"microtokens": 12_500_000, "note": "<script>alert(1)</script>"}
    console.post(f"/users/{user}/grants", hub.token("ada"), body)
    page = browse(user).go()
    assert page.status_code == 200
    assert "12.5 tokens" in page.text
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"


def test_a_voucher_is_redeemed_in_the_form(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], browse: Browse
) -> None:
    """Pressed twice it is redeemed once; a wrong code gets its sentence."""
    made = console.post("/vouchers", hub.token("ada"), {"microtokens": 7_000_000})
    browser = browse(student())
    page = browser.go()
    code = made["items"][0]["code"]
    for _ in range(2):
        text = browser.redeem(page, code)
        assert "Redeemed: 7 tokens." in text
        assert text.count("7 tokens</p>") == 1
    assert "cannot be redeemed" in browser.redeem(browser.go(), code)
    assert "cannot be redeemed" not in browser.go().text


def test_a_form_of_another_site_redeems_nothing(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str], browse: Browse
) -> None:
    """It does not know the session's form key, and its forms carry no cookie."""
    user = student()
    made = console.post("/vouchers", hub.token("ada"), {"microtokens": 7})
    browser = browse(user)
    page = browser.go()
    code = made["items"][0]["code"]
    assert "not of this page" in browser.redeem(page, code, form_key="x")
    cookies = {cookie.name: cookie for cookie in browser.http.cookies}
    kept = cookies["torchroom-session"]
    assert kept.path == PREFIX
    assert kept.has_nonstandard_attr("HttpOnly")
    assert kept.get_nonstandard_attr("SameSite") == "lax"
    assert console.get("/me", hub.token(user))["available"] == 0


def test_a_script_does_not_fetch_the_page(
    student: Callable[..., str], browse: Browse
) -> None:
    """A browser says that nobody opened it."""
    browser = browse(student())
    browser.go()
    answer = browser.http.get(
        browser.pages + PREFIX, headers={"Sec-Fetch-Mode": "cors"}, timeout=60
    )
    assert answer.status_code == 403


def test_who_is_not_signed_in_is_sent_to_the_hub(
    hub: BareHub, console: ConsoleProcess
) -> None:
    """With a state that only this browser knows."""
    answer = requests.get(
        f"http://127.0.0.1:{console.port}{PREFIX}", allow_redirects=False, timeout=60
    )
    assert answer.status_code == 303
    asked = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert answer.headers["Location"].startswith("/hub/api/oauth2/authorize?")
    assert asked["code_challenge_method"] == ["S256"]
    assert answer.cookies["torchroom-login"].startswith(asked["state"][0])


@pytest.mark.parametrize(
    "query", ["", "?code=x", "?state=x", "?code=x&state=x", "?code=x&state="]
)
def test_an_answer_that_the_browser_did_not_ask_for_signs_nobody_in(
    console: ConsoleProcess, query: str
) -> None:
    """Somebody else's code would sign one in as somebody else."""
    answer = requests.get(
        f"http://127.0.0.1:{console.port}{PREFIX}oauth_callback{query}",
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code == 403
    assert "torchroom-session" not in answer.cookies


def test_a_code_that_the_hub_did_not_give_signs_nobody_in(
    console: ConsoleProcess,
) -> None:
    """Although the state fits."""
    url = f"http://127.0.0.1:{console.port}{PREFIX}"
    browser = requests.Session()
    asked = browser.get(url, allow_redirects=False, timeout=60).headers["Location"]
    state = parse_qs(urlsplit(asked).query)["state"][0]
    answer = browser.get(
        f"{url}oauth_callback?code=forged&state={state}",
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code == 403
    assert "torchroom-session" not in answer.cookies


def test_a_session_ends() -> None:
    """After half a day, when it is forgotten, and when there are too many."""
    sessions = Sessions()
    name = sessions.begin("token", 0)
    assert sessions.find(name, SESSION_S - 1) is not None
    assert sessions.find(name, SESSION_S) is None
    assert sessions.find("", 0) is None
    sessions.end(name)
    assert sessions.find(name, 0) is None
    first = sessions.begin("token", 0)
    for n in range(SESSIONS_MAX):
        sessions.begin("token", 0, f"user{n}")
    assert sessions.find(first, 0) is None


def test_nobody_signs_others_out_by_signing_in_often() -> None:
    """The oldest session of the same user ends."""
    sessions = Sessions()
    ann, first = sessions.begin("token", 0, "ann"), sessions.begin("token", 0, "bob")
    for _ in range(SESSIONS_OF_USER_MAX - 1):
        sessions.begin("token", 0, "bob")
    assert sessions.find(first, 0) is not None
    sessions.begin("token", 0, "bob")
    assert sessions.find(first, 0) is None
    assert sessions.find(ann, 0) is not None


def test_an_empty_attempt_fits_nothing() -> None:
    """Not even an empty state."""
    assert not Attempt.of("").fits("")
    assert not Attempt.of(".x").fits("")
    mine = Attempt.new()
    assert Attempt.of(mine.cookie) == mine
    assert mine.fits(mine.state)
