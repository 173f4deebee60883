"""The hub starts the console as its service, and ends it with itself."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from testbed.bare_hub import BareHub
from testbed.console import PREFIX
from testbed.engine import wait_until
from torchroom.console.scopes import SERVICE


@pytest.fixture
def hub_with_console(tmp_path: Path) -> Iterator[BareHub]:
    """A hub that runs the console itself."""
    hub = BareHub(tmp_path)
    hub.services = [
        {
            "name": SERVICE,
            "command": [sys.executable, "-m", "torchroom.console"],
            "cwd": str(tmp_path),
            "environment": {"TORCHROOM_LEDGER_URL": f"sqlite:///{tmp_path / 'l'}"},
        }
    ]
    # Who started these tests may ignore SIGINT, and what they start would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        hub.begin()
        yield hub
    finally:
        hub.end()
        signal.signal(signal.SIGINT, before)


def test_the_hub_starts_it_with_all_it_needs_and_ends_it(
    hub_with_console: BareHub,
) -> None:
    """Its address, its token and its prefix come from the hub."""
    hub = hub_with_console
    base = f"http://127.0.0.1:{hub.console_port}{PREFIX}api/v1"

    def ask(path: str, token: str) -> requests.Response | None:
        try:
            return requests.get(
                base + path, headers={"Authorization": f"token {token}"}, timeout=20
            )
        except requests.ConnectionError:
            return None

    wait_until(lambda: ask("/health", ""), what="it answers", within_s=30)
    balance, ledger = ask("/me", hub.token("alice")), ask("/ledger", hub.keys["bank"])
    assert balance is not None
    assert balance.json()["user"] == "alice"
    assert ledger is not None
    assert ledger.json()["failing"] == {}
    hub.end()
    wait_until(lambda: ask("/health", "") is None, what="it ended", within_s=20)
    assert "Traceback" not in hub.log()
