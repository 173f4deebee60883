"""The login as a person has it: Chromium, the provider's page, the hub's pages."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from testbed.browser import chromium, fresh_page
from testbed.engine import wait_until
from testbed.identity import PASSWORD, IdentityProvider
from testbed.login_hub import STAFF, STUDENTS, LoginHub

pytestmark = pytest.mark.browser

Person = Callable[..., str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of these tests."""
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile."""
    with fresh_page(browser) as opened:
        yield opened


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Account").fill(name)
    page.get_by_label("Secret").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_log_in_work_log_out(page: Page, hub: LoginHub, person: Person) -> None:
    """One address opened, one form filled, and there is the hub."""
    name = person(STUDENTS)
    page.goto(f"{hub.url}/hub/home")
    sign_in(page, name)
    page.wait_for_url(f"{hub.url}/hub/home")
    expect(page.get_by_text(name).first).to_be_visible()
    page.get_by_role("link", name="Logout").or_(page.locator("#logout")).first.click()
    page.get_by_role("button", name="Log out of the school").click()
    expect(page.get_by_text("You are logged out of the school")).to_be_visible()
    page.goto(f"{hub.url}/hub/home")
    expect(page.get_by_label("Account")).to_be_visible()


def test_who_is_refused_reads_why_and_uses_another_account(
    page: Page, hub: LoginHub, person: Person
) -> None:
    stranger, student = person("chess-club"), person(STUDENTS)
    page.goto(f"{hub.url}/hub/home")
    sign_in(page, stranger)
    sentence = page.get_by_text(f"You are logged in as {stranger}")
    expect(sentence).to_be_visible()
    expect(sentence).to_contain_text("Ask your instructor")
    page.get_by_role("button", name="Log in with another account").click()
    sign_in(page, student)
    page.wait_for_url(re.compile(re.escape(hub.url)))
    page.goto(f"{hub.url}/hub/home")
    expect(page.get_by_text(student).first).to_be_visible()


def test_a_new_group_and_a_lost_one_show_without_a_new_login(
    page: Page, hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    """An admin sees the admin's page come and go."""
    name = person(STUDENTS)
    page.goto(f"{hub.url}/hub/home")
    sign_in(page, name)
    page.wait_for_url(f"{hub.url}/hub/home")
    admin = page.get_by_role("link", name="Admin", exact=True)
    expect(admin).to_have_count(0)

    def shows(count: int) -> Callable[[], bool]:
        def look() -> bool:
            page.goto(f"{hub.url}/hub/home")
            return admin.count() == count

        return look

    provider.account(name, STUDENTS, STAFF)
    wait_until(shows(1), what="the link is there", within_s=20)
    provider.account(name, STUDENTS)
    wait_until(shows(0), what="the link is gone", within_s=20)


def test_a_removed_student_reads_why(
    page: Page, hub: LoginHub, provider: IdentityProvider, person: Person
) -> None:
    name = person(STUDENTS)
    page.goto(f"{hub.url}/hub/home")
    sign_in(page, name)
    page.wait_for_url(f"{hub.url}/hub/home")
    provider.account(name)
    sentence = page.get_by_text(f"{name} is in no course of this hub")

    def is_said() -> bool:
        page.goto(f"{hub.url}/hub/home")
        return sentence.count() > 0

    wait_until(is_said, what="it is said", within_s=20)
    expect(sentence).to_contain_text("Ask your instructor")


@pytest.mark.parametrize("how", ["tampered", "expired"])
def test_a_wrong_state_and_a_token_that_does_not_count_are_said_plainly(
    page: Page, hub: LoginHub, provider: IdentityProvider, person: Person, how: str
) -> None:
    page.goto(f"{hub.url}/hub/oauth_callback?code=x&state=made-up")
    expect(page.get_by_text("begun in another browser")).to_be_visible()
    provider.behave(id_token=how)
    page.get_by_role("button", name="Log in again").click()
    sign_in(page, person(STUDENTS))
    expect(page.get_by_text("could not be verified")).to_be_visible()
    provider.reset()
    page.get_by_role("button", name="Log in again").click()
    page.wait_for_url(re.compile(re.escape(hub.url)))
    page.goto(f"{hub.url}/hub/home")
    expect(page).to_have_url(f"{hub.url}/hub/home")
