"""What JupyterLab shows of the hub's warnings, whatever the hub says and when.

JupyterLab, its notifications and the server are real; what the server says of warnings
is scripted where the browser asks for it, and so is the time where a test needs that.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from e2e.test_warnings import look_now
from playwright.sync_api import Locator, Page, Route, expect
from testbed.browser import log_in
from testbed.hub import Deployment, User, crowd

pytestmark = [pytest.mark.docker, pytest.mark.browser]

READY_MS = 90_000
LEFT_S = 630  # "10 minutes", for half a minute
IDLE = "The GPU of this server has computed nothing for 20 minutes."
TOO_OLD = "It may run for 12 hours in all."
NOTICE = {
    "lease": "ls_1",
    "reason": "idle",
    "sentence": f"{IDLE} This server stops in 10 minutes. Your files are kept.",
    "seconds_left": LEFT_S,
    "extend_by_s": 1800,
    "microtokens": 1_500_000,
    "n_extensions_left": 2,
    "next_extension": 1,
}
OLD = {"reason": "max_age", "sentence": f"{TOO_OLD} This server stops in 9 minutes."}
TIME_OF = """at => new Date(at).toLocaleTimeString([], {
    hour: "2-digit", minute: "2-digit"
})"""


class Script:
    """What the page's server answers when it is asked for warnings."""

    def __init__(self, page: Page) -> None:
        self.status = 200
        self.body: dict[str, Any] = {}
        self.n_asked = 0
        self.tell(None)
        page.route(re.compile(r"/torchroom/(notice|extension)"), self._answer)

    def tell(self, notice: dict[str, Any] | None, **more: object) -> None:
        """Answer with this notice from now on."""
        self.status = 200
        told = {"notice": notice, "every_s": 30, "hidden_every_s": None}
        self.body = told | {"microtokens_left": 8_500_000} | more

    def refuse(self, status: int, message: str = "") -> None:
        """Answer with this status from now on."""
        self.status, self.body = status, {"message": message}

    def _answer(self, route: Route) -> None:
        self.n_asked += 1
        route.fulfill(
            status=self.status,
            content_type="application/json",
            body=json.dumps(self.body),
        )


@pytest.fixture(scope="module")
def owner(deployment: Deployment) -> Iterator[User]:
    """Somebody whose server all these pages are of."""
    with crowd(deployment) as make:
        user = make("reader")
        user.start("cpu")
        yield user


@pytest.fixture
def script(page: Page) -> Script:
    """The answers of this test."""
    return Script(page)


def open_lab(page: Page, owner: User) -> None:
    """Open JupyterLab as its owner does."""
    log_in(page, owner.deployment, owner.name)
    page.goto(f"{owner.deployment.url}/user/{owner.name}/lab")
    expect(page.locator("#jp-bottom-panel")).to_be_visible(timeout=READY_MS)


def notification(page: Page, text: str) -> Locator:
    """The open notifications that say this."""
    return page.locator(".Toastify__toast").filter(has_text=text)


def countdown(page: Page) -> Locator:
    """The countdown in the status bar."""
    return page.locator(".torchroom-Countdown")


def close(warning: Locator) -> None:
    """Close a notification as a reader does."""
    warning.get_by_title("Hide notification").click()
    expect(warning).to_have_count(0)


def test_a_closed_warning_comes_again_when_there_is_news(
    page: Page, owner: User, script: Script
) -> None:
    """For another reason, and whenever five minutes are left; not at every answer."""
    page.clock.install()
    script.tell(NOTICE)
    open_lab(page, owner)
    first = notification(page, IDLE)
    expect(first).to_contain_text("This server stops in 10 minutes (")
    close(first)
    script.tell(NOTICE | {"seconds_left": 590})
    look_now(page)
    expect(countdown(page)).to_have_text(re.compile("This server stops in 9:[45]"))
    expect(first).to_have_count(0)

    script.tell(NOTICE | OLD | {"seconds_left": 540})
    look_now(page)
    second = notification(page, TOO_OLD)
    expect(second).to_be_visible()
    close(second)

    script.tell(NOTICE | OLD | {"seconds_left": 299})
    page.clock.fast_forward(240_000)
    expect(second).to_be_visible()
    close(second)

    script.tell(NOTICE | OLD | {"seconds_left": 900})  # extended in another tab
    look_now(page)
    expect(countdown(page)).to_have_text(re.compile("This server stops in 1[45]:"))
    expect(second).to_have_count(0)
    script.tell(NOTICE | OLD | {"seconds_left": 299})
    look_now(page)
    expect(second).to_be_visible()

    script.tell(None)
    look_now(page)
    expect(second).to_have_count(0)
    expect(countdown(page)).to_be_hidden()


def test_an_end_that_hardly_moves_is_not_told_anew(
    page: Page, owner: User, script: Script
) -> None:
    """A screen reader reads every change: the minute must not go to and fro."""
    end_ms = (int(page.evaluate("Date.now()")) // 60_000 + 20) * 60_000 + 500
    shown = page.evaluate(TIME_OF, end_ms)
    open_lab(page, owner)
    for error_s in (0, -1, 1, -1):
        left_s = (end_ms - page.evaluate("Date.now()")) / 1000
        script.tell(NOTICE | {"seconds_left": left_s + error_s})
        with page.expect_response(re.compile("/torchroom/notice")):
            look_now(page)
        first = countdown(page).inner_text()
        expect(countdown(page)).not_to_have_text(first)  # it has been taken in
        expect(notification(page, f"({shown})")).to_be_visible()


def test_after_a_sleep_the_page_goes_by_the_clock(
    page: Page, owner: User, script: Script
) -> None:
    """Also before the network is back; then the hub is asked at once."""
    page.clock.install()
    script.tell(NOTICE)
    open_lab(page, owner)
    expect(countdown(page)).to_have_text(re.compile("This server stops in 10:"))
    script.refuse(503)
    page.clock.set_system_time(datetime.now(UTC) + timedelta(minutes=7))
    expect(countdown(page)).to_have_text(re.compile("This server stops in [23]:"))
    script.tell(NOTICE | {"seconds_left": 3000})  # somebody extended it meanwhile
    look_now(page)
    expect(countdown(page)).to_have_text(re.compile("This server stops in (50|49):"))


def test_a_hub_that_is_away_changes_nothing(
    page: Page, owner: User, script: Script
) -> None:
    """The countdown goes on, and nothing else is shown; it is asked again."""
    script.tell(NOTICE)
    open_lab(page, owner)
    expect(notification(page, IDLE)).to_be_visible()
    script.refuse(503, "The hub does not answer; try again in a minute.")
    before = script.n_asked
    with page.expect_response(re.compile("/torchroom/notice")):
        look_now(page)
    first = countdown(page).inner_text()
    expect(countdown(page)).not_to_have_text(first)
    expect(page.locator(".Toastify__toast")).to_have_count(1)
    assert script.n_asked > before


def test_the_end_is_asked_for_often_and_told(
    page: Page, owner: User, script: Script
) -> None:
    """When the time is over it is known within seconds whether the server is gone."""
    script.tell(NOTICE | {"seconds_left": 0})
    open_lab(page, owner)
    expect(notification(page, f"This server stops now. {IDLE}")).to_be_visible()
    expect(page.get_by_role("button", name="Extend")).to_have_count(0)
    script.refuse(424, "JupyterHub server no longer running.")
    gone = notification(page, f"This server has stopped. {IDLE} Your files are kept.")
    expect(gone).to_be_visible(timeout=15_000)
    expect(countdown(page)).to_have_text("This server has stopped")

    script.tell(None)  # it was started again
    look_now(page)
    expect(gone).to_have_count(0)
    expect(countdown(page)).to_be_hidden()


def test_one_that_ends_with_its_program_says_so_first(
    page: Page, owner: User, script: Script
) -> None:
    """Before the cause, which may be long: JupyterLab cuts it."""
    cause = f"A GPU of this server is taken out of service: {'it fell off ' * 8}"
    sick = {"reason": "health", "sentence": f"{cause}. It may end first."}
    script.tell(NOTICE | sick | {"seconds_left": None, "next_extension": None})
    open_lab(page, owner)
    expect(
        notification(page, "This server stops when what runs on its GPU has ended.")
    ).to_be_visible()
    expect(countdown(page)).to_be_hidden()


def test_a_refusal_stands_beside_the_warning(
    page: Page, owner: User, script: Script
) -> None:
    """It says why, and goes by itself; the button is there for another try."""
    script.tell(NOTICE | {"n_extensions_left": 1})
    open_lab(page, owner)
    expect(notification(page, f"{IDLE} You can extend it once.")).to_be_visible()
    more = page.get_by_role("button", name="Extend 30 minutes (1.5 tokens)")
    why = "There are no more extensions for this server."
    page.route(
        re.compile("/torchroom/extension"),
        lambda route: route.fulfill(status=409, json={"message": why}),
    )
    more.click()
    expect(notification(page, f"Not extended: {why}")).to_be_visible()
    expect(notification(page, "This server stops in")).to_have_count(1)
    expect(more).to_have_count(1)
    expect(notification(page, why)).to_have_count(0, timeout=30_000)
