"""JupyterLab says that a server will stop, counts down, and takes more time for tokens.

A hub of its own with the real steward. Its policy gives servers whose GPUs compute
nothing some minutes, those with two GPUs less; what NVML tells of them is scripted.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import docker
import pytest
import requests
from e2e.test_browser import keep, wait_until_idle
from playwright.sync_api import Locator, Page, expect
from testbed.browser import choose, log_in
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.gpu.state import GIB
from testbed.hub import JSON, User, crowd
from testbed.hub_process import HubProcess, hub_process, own
from testbed.tokens import TOKEN, Tokens, ask
from torchroom.steward.store import Store

pytestmark = [pytest.mark.docker, pytest.mark.browser]

READY_MS = 90_000
SEEN_WITHIN_S = 120
STOPPED_WITHIN_S = 150
PANEL = (
    "import sys; sys.path.insert(0, '/opt/torchroom');"
    " from torchroom_welcome import show; print(show.tokens())"
)
WELCOME = Path(__file__).resolve().parents[2] / "welcome" / "torchroom_welcome"
POLICY = """
[default]
idle_minutes = 11.3
grace_minutes = 0
cpu_idle_minutes = false
warn_minutes = 10
extend_minutes = 30
extensions = 2
extension_price = "1.5"
[size."2-gpu"]
idle_minutes = 1.5
several_gpus_idle_minutes = 1.5
warn_minutes = 1
"""
# What jupyterhub_config.py has beside what every hub of the tests has.
CONFIGURATION = """
from gpuspawner import window
from torchroom import pages, roles
from torchroom.membership import Membership
from torchroom.steward import service as steward
c.JupyterHub.extra_handlers = window.handlers(c.JupyterHub.spawner_class)
c.JupyterHub.template_paths = [pages.TEMPLATES]
c.JupyterHub.services.append({{
    "name": roles.STEWARD,
    "command": steward.COMMAND,
    "environment": steward.of_steward(os.environ) | {{
        "TORCHROOM_STEWARD_POLICY": "{policy}",
    }},
}})
granted = roles.grant(
    Membership(),
    window.SCOPES,
    admins=["admin"],
    services=[service["name"] for service in c.JupyterHub.services],
)
c.JupyterHub.load_roles = granted.load_roles
c.JupyterHub.custom_scopes = granted.custom_scopes
c.JupyterHub.extra_user_scopes = granted.extra_user_scopes
c.Spawner.server_token_scopes = granted.server_token_scopes
c.GPUDockerSpawner.seed_home = "{home}"
c.GPUDockerSpawner.deliver = {{"/opt/torchroom/torchroom_welcome": "{package}"}}
c.GPUDockerSpawner.search_paths = {{
    "JUPYTER_PATH": "/opt/torchroom/torchroom_welcome/lab/share",
    "JUPYTER_CONFIG_PATH": "/opt/torchroom/torchroom_welcome/lab/config",
}}
c.Spawner.default_url = "/lab/tree/welcome.ipynb"
c.Spawner.disable_user_config = True
"""


@pytest.fixture(scope="module")
def hub(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[HubProcess]:
    """A hub with two GPUs, tokens and the steward; what a test starts is free."""
    folder = tmp_path_factory.mktemp("warnings")
    policy = folder / "steward.toml"
    policy.write_text(POLICY)
    with hub_process(
        engine,
        engine_socket,
        gpu_dir,
        folder,
        name="torchroom-warnings",
        port=8090,
        gpus=own(states.simple(2)),
        configuration=CONFIGURATION.format(
            policy=policy, home=WELCOME.parent / "home", package=WELCOME
        ),
        tokens=Tokens({"*": "0"}, welcome="100"),
    ) as running:
        yield running


@pytest.fixture
def user(hub: HubProcess) -> Iterator[User]:
    """Somebody with 100 tokens."""
    with crowd(hub) as make:
        yield make("warned")


def warning_of(page: Page) -> Locator:
    """The notification that warns."""
    return page.locator(".Toastify__toast").filter(has_text="This server stops in")


def look_now(page: Page) -> None:
    """Let the page ask at once, as it does when its tab is looked at again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def admin_does(user: User, what: str, microtokens: int) -> requests.Response:
    """Let the admin give or take tokens."""
    admin = user.deployment.admin_user
    return ask(
        user.deployment,
        admin.token,
        "POST",
        f"/users/{user.name}/{what}",
        json={"microtokens": microtokens},
        headers={"Idempotency-Key": uuid4().hex},
    )


def test_jupyterlab_warns_counts_down_and_extends(
    page: Page, hub: HubProcess, user: User, tmp_path: Path
) -> None:
    """Of an idle GPU; after a click the server lives longer, and tokens are taken.

    Who cannot pay is told why, and can try again.
    """
    start(page, hub, user, "1-gpu")
    warning = see_warning(page, user)
    expect(warning).to_contain_text("The GPU of this server has computed nothing for")
    countdown = page.get_by_role("timer")
    expect(countdown).to_have_text(re.compile(r"This server stops in \d+:\d\d"))
    first = countdown.inner_text()
    expect(countdown).not_to_have_text(first)
    expect(warning).to_contain_text("You can extend it 2 times.")
    more = page.get_by_role("button", name="Extend 30 minutes (1.5 tokens)")
    expect(more).to_have_count(1)
    keep(page, "warning.png", tmp_path)
    assert "30 min more: 1.5 tokens, 2 times left" in user.python(PANEL)

    assert admin_does(user, "take-backs", 99 * TOKEN).ok
    more.click()
    refused = page.locator(".Toastify__toast").filter(has_text="Not extended")
    expect(refused).to_contain_text("This costs 1.5 tokens, but only 1 token can be")
    assert fee_of(user) == 0

    assert admin_does(user, "grants", 9 * TOKEN).ok
    more.click()
    done = page.locator(".Toastify__toast").filter(has_text="Extended until")
    expect(done).to_contain_text("You have 8.5 tokens left")
    expect(countdown).to_have_text(re.compile(r"This server stops in (3|4)\d:\d\d"))
    assert fee_of(user) == 3 * TOKEN // 2
    store = Store.open(hub.root)
    (kept,) = store.extensions([user.lease().id])[user.lease().id]
    store.close()
    assert kept.k == 1

    # The steward has seen it: nothing is in sight any more, and nothing is shown.
    wait_until(
        lambda: notice_of(user) is None,
        what="the steward keeps to the extension",
        within_s=SEEN_WITHIN_S,
    )
    look_now(page)
    expect(countdown).to_be_hidden()
    expect(warning).to_have_count(0)


def test_who_computes_keeps_the_server_and_who_does_not_loses_it(
    page: Page, hub: HubProcess, user: User
) -> None:
    """The warning goes when a kernel computes; the page says why it was stopped."""
    start(page, hub, user, "2-gpu")
    idle = "The GPUs of this server have computed nothing for"
    warning = see_warning(page, user)
    expect(warning).to_contain_text(idle)
    (uuid, _) = user.lease().devices
    kernel = pid_of(user, "ipykernel")
    with hub.change() as gpus:
        gpus.process(uuid, kernel, GIB, sm=80, live=True)
        gpus.set_utilisation(uuid, 90)
    wait_until(
        lambda: notice_of(user) is None,
        what="the warning is taken back",
        within_s=SEEN_WITHIN_S,
    )
    look_now(page)
    expect(warning).to_have_count(0)
    expect(page.get_by_role("timer")).to_be_hidden()
    assert user.answers()

    with hub.change() as gpus:
        gpus.end_process(kernel)
        gpus.set_utilisation(uuid, 0)
    see_warning(page, user)
    wait_until(user.is_idle, what="it is stopped", within_s=STOPPED_WITHIN_S)
    gone = page.locator(".Toastify__toast").filter(has_text="This server has stopped")
    expect(gone).to_contain_text(idle, timeout=READY_MS)
    expect(page.get_by_text("Server unavailable")).to_be_visible(timeout=READY_MS)

    page.reload()
    why = "Your last server stopped: its GPUs computed nothing for"
    expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()
    page.get_by_role("button", name="Launch Server").click()
    expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()


def start(page: Page, hub: HubProcess, user: User, offer: str) -> None:
    """Log in, choose a server, and wait until the welcome notebook has a kernel."""
    log_in(page, hub, user.name)
    choose(page, offer)
    page.wait_for_url("**/lab/tree/welcome.ipynb*", timeout=READY_MS)
    expect(page.locator(".jp-Notebook")).to_be_visible(timeout=READY_MS)
    wait_until_idle(page)


def see_warning(page: Page, user: User) -> Locator:
    """Wait until the steward warns; returns the one notification that says it."""
    wait_until(
        lambda: notice_of(user), what="the steward warns", within_s=SEEN_WITHIN_S
    )
    look_now(page)
    warning = warning_of(page)
    expect(warning).to_have_count(1)
    return warning


def pid_of(user: User, name: str) -> int:
    """The PID on the host of a program in the user's server."""
    rows = user.container().top(ps_args="-eo pid,args")["Processes"]
    return next(int(pid) for pid, args in rows if name in args)


def fee_of(user: User) -> int:
    """What the user paid beside servers."""
    reply = ask(user.deployment, user.token, "GET", "/me/history").json()
    return sum(-x["microtokens"] for x in reply["items"] if x["code"] == "fee")


def notice_of(user: User) -> JSON | None:
    """What the user's Jupyter server says to its page."""
    reply = user.server_api("GET", "torchroom/notice")
    assert reply.status_code == 200, reply.text
    found: JSON | None = reply.json()["notice"]
    return found


def test_every_server_of_a_deployment_has_both_halves(
    people: Callable[[str], User],
) -> None:
    """As `make up` delivers them, and without PYTHONPATH in what a student runs."""
    owner = people("owner")
    owner.start("cpu")
    shown = owner.server_api("GET", "lab").text
    assert "@torchroom/lab" in shown
    script = "lab/extensions/@torchroom/lab/static/remoteEntry.js"
    assert "_JUPYTERLAB" in owner.server_api("GET", script).text
    answer = owner.server_api("GET", "torchroom/notice")
    # Every half minute, but not from a hidden tab: that would pass for activity.
    told = {"notice": None, "every_s": 30, "hidden_every_s": None}
    assert (answer.status_code, answer.json()) == (200, told)
    path = owner.python("import os; print(os.environ.get('PYTHONPATH'))")
    assert path.strip() == "None"


def test_a_stranger_neither_sees_nor_extends(hub: HubProcess, user: User) -> None:
    """The addresses are authenticated like all others; a form elsewhere is refused."""
    user.start("cpu")
    with crowd(hub) as make:
        stranger = make("stranger")
        base = f"{hub.url}/user/{user.name}/torchroom"
        theirs = {"Authorization": f"token {stranger.token}"}
        for method, path in (("GET", "notice"), ("POST", "extension")):
            answer = stranger.session.request(
                method,
                f"{base}/{path}",
                headers=theirs,
                json={"lease": "ls_1", "extension": 1},
            )
            assert answer.status_code in {401, 403, 404}, (path, answer.text)
    # The owner's own cookies without the page's token against forged requests.
    user.session.get(f"{hub.url}/user/{user.name}/lab")
    forged = user.session.post(
        f"{hub.url}/user/{user.name}/torchroom/extension",
        json={"lease": "ls_1", "extension": 1},
    )
    assert forged.status_code == 403, forged.text
    assert fee_of(user) == 0
