"""The main job in a real browser: log in, get a GPU of one's own, run the notebook."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect
from testbed.browser import choose, log_in
from testbed.hub import Deployment, User

pytestmark = [pytest.mark.docker, pytest.mark.browser]

READY_MS = 90_000
RUN_MS = 120_000
MARGIN = 24
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


# A server may be there before a test has looked once at the page on which it waits.
REMEMBER_PROGRESS = """
addEventListener('DOMContentLoaded', () => {
  const line = document.querySelector('#progress-message');
  const look = () => { sessionStorage.progress = line.textContent; };
  const all = { childList: true, subtree: true };
  if (line) new MutationObserver(look).observe(line, all);
});
"""


def keep(page: Page, name: str, folder: Path, *, last: Locator | None = None) -> None:
    """Take a screenshot: into the documentation if asked for, else into tmp.

    What is below `last` is left out.
    """
    if os.environ.get("TORCHROOM_UPDATE_PICTURES") == "1":
        PICTURES.mkdir(parents=True, exist_ok=True)
        folder = PICTURES
    size = page.viewport_size
    assert size is not None
    box = last.bounding_box() if last else None
    end = int(box["y"] + box["height"]) + MARGIN if box else size["height"]
    height = min(end, size["height"])
    clip: FloatRect = {"x": 0, "y": 0, "width": size["width"], "height": height}
    page.screenshot(path=folder / name, clip=clip)


def test_log_in_choose_a_gpu_and_run_the_notebook(
    page: Page, deployment: Deployment, people: Callable[[str], User], tmp_path: Path
) -> None:
    """From the login page to the leased device's name in the notebook's output."""
    student = people("student")
    log_in(page, deployment, student.name)
    expect(page.locator("input[name=offer][value='1-gpu']")).to_be_visible()
    expect(page.get_by_text("simulated").first).to_be_visible()
    keep(page, "spawn.png", tmp_path, last=page.locator("#spawn_form"))

    page.add_init_script(REMEMBER_PROGRESS)
    choose(page, "1-gpu")
    page.wait_for_url("**/lab/tree/welcome.ipynb*", timeout=READY_MS)
    assert page.evaluate("sessionStorage.progress"), "its progress was shown"
    expect(page.locator(".jp-Notebook")).to_be_visible(timeout=READY_MS)
    lease = student.lease()
    assert len(lease.devices) == 1
    run_all_cells(page)
    devices = {row["uuid"]: row["name"] for row in deployment.devices()}
    outputs = page.locator(".jp-OutputArea-output")
    name = devices[lease.devices[0]]
    expect(outputs.filter(has_text=name).first).to_be_visible(timeout=RUN_MS)
    uuid = outputs.filter(has_text=lease.devices[0])
    expect(uuid.first).to_be_visible(timeout=RUN_MS)
    wait_until_idle(page)
    assert "Traceback" not in page.locator(".jp-Notebook").inner_text()
    heading = page.get_by_role("heading", name="Your GPUs")
    heading.evaluate("heading => heading.scrollIntoView()")
    keep(page, "welcome.png", tmp_path)


def run_all_cells(page: Page) -> None:
    """Choose "Run All Cells" from JupyterLab's menu, once a kernel is there."""
    wait_until_idle(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def wait_until_idle(page: Page) -> None:
    """Wait until the status bar says that there is a kernel and it is idle."""
    status = page.locator("#jp-bottom-panel").get_by_text(re.compile(r"\| Idle"))
    expect(status.first).to_be_visible(timeout=RUN_MS)


def test_every_hub_page_says_simulated(
    page: Page, deployment: Deployment, people: Callable[[str], User]
) -> None:
    """The announcement that GPUs are simulated is on every page, also before login."""
    page.goto(f"{deployment.url}/hub/login")
    expect(page.get_by_text("simulated").first).to_be_visible()
    user = people("looker")
    log_in(page, deployment, user.name)
    for path in ("/hub/home", "/hub/spawn", "/hub/token"):
        page.goto(deployment.url + path)
        expect(page.get_by_text("simulated").first).to_be_visible()


def test_a_wrong_password_is_said_kindly(page: Page, deployment: Deployment) -> None:
    """The login page comes back with a sentence."""
    page.goto(deployment.url)
    page.get_by_label("Username").fill("somebody")
    page.get_by_label("Password").fill("wrong")
    page.locator("#login_submit").click()
    expect(page.get_by_text("Invalid username or password")).to_be_visible()


def test_who_finds_every_gpu_taken_can_wait_or_take_a_cpu_server(
    page: Page, deployment: Deployment, people: Callable[[str], User]
) -> None:
    """The form says how long the queue is; its button leaves it again."""
    holder, late = people("holder"), people("late")
    holder.start("4-gpu")
    log_in(page, deployment, late.name)
    expect(page.get_by_text("0 of 4 free now").first).to_be_visible()
    choose(page, "1-gpu")
    place = page.locator("#progress-message")
    expect(place).to_contain_text("You are number 1 in the queue", timeout=20_000)
    page.get_by_role("button", name="Leave the queue").first.click()
    page.locator("#start").click(timeout=20_000)
    choose(page, "cpu")
    page.wait_for_url("**/lab/tree/welcome.ipynb*", timeout=READY_MS)
    assert late.lease().devices == ()
