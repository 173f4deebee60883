"""Who looks at their tokens has been welcomed, whether or not they started a server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console.test_page import Browser
from testbed.bare_hub import BareHub
from testbed.console import ConsoleProcess, Ledgers, console_process


@pytest.fixture
def generous(
    ledgers: Ledgers, hub: BareHub, tmp_path: Path
) -> Iterator[ConsoleProcess]:
    """A console of a site that gives every new user 5 tokens."""
    with (
        ledgers() as url,
        console_process(hub, tmp_path, url, TORCHROOM_WELCOME_TOKENS="5") as made,
    ):
        yield made


def test_a_new_user_sees_the_welcome_tokens(
    generous: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """In the API and on the page; they are given once."""
    asks, browses = student(), student()
    for _ in range(2):
        assert generous.get("/me", hub.token(asks))["available"] == 5_000_000
    browser = Browser(hub, generous)
    browser.sign_in_to_hub(browses)
    for _ in range(2):
        assert "5 tokens</p>" in browser.go().text
    (entry,) = generous.get("/me/history", hub.token(browses))["items"]
    assert entry["code"] == "welcome"


def test_an_admin_who_looks_at_somebody_welcomes_nobody(
    generous: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """A name that was typed wrong gets no tokens."""
    user = student()
    assert generous.get(f"/users/{user}", hub.token("ada"))["available"] == 0
