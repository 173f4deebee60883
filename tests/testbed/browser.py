"""Debian's Chromium, and what a person does on the hub's pages."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from testbed.hub import Deployment

CHROMIUM = "/usr/bin/chromium"
NO_NETLINK = Path(__file__).with_name("no_netlink.c")
# What a page must show it shows at once; a busy machine may take longer than the
# five seconds that are usual.
expect.set_options(timeout=30_000)
FLAGS = [
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--no-first-run",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; ends it afterwards.

    Where there is no compiler, containers that start may break off what it loads.
    """
    environment: dict[str, str | float | bool] = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if shutil.which("gcc"):
            library = f"{folder}/no_netlink.so"
            command = [
                "gcc",
                "-shared",
                "-fPIC",
                "-o",
                library,
                str(NO_NETLINK),
                "-ldl",
            ]
            subprocess.run(command, check=True)
            environment["LD_PRELOAD"] = library
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env=environment
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def fresh_page(browser: Browser) -> Iterator[Page]:
    """Open a page of a fresh profile; fails if it ever showed a traceback."""
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    page = context.new_page()
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        said.append(message.text)

    page.on("console", note)
    yield page
    context.close()
    assert not [text for text in said if "Traceback" in text]


def log_in(page: Page, deployment: Deployment, name: str) -> None:
    """Log in as a user does, with the local login; leads to the spawn form."""
    page.goto(deployment.url)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(deployment.login["user_password"])
    page.locator("#login_submit").click()


def choose(page: Page, offer: str) -> None:
    """Choose a size on the spawn form and start."""
    page.locator(f"input[name=offer][value='{offer}']").check()
    page.locator("#spawn_form [type=submit]").click()
