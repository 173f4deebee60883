"""Tokens on a deployment as ``make up`` makes it: notebook, form, API, command line."""

import csv
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from e2e.test_browser import keep
from playwright.sync_api import Page, expect
from testbed.browser import log_in
from testbed.engine import wait_until
from testbed.hub import JSON, Deployment, RefusedError, User, execute
from testbed.tokens import TOKEN, ask, charge

pytestmark = pytest.mark.docker

WELCOME = 100 * TOKEN
SEEN_WITHIN_S = 30
PANEL = (
    "import sys; sys.path.insert(0, '/opt/torchroom');"
    " from torchroom_welcome import show; print(show.tokens())"
)


@pytest.fixture
def admin(deployment: Deployment) -> User:
    """The administrator."""
    return deployment.admin_user


def tokens_of(user: User) -> JSON:
    """What the ledger tells a user of their tokens."""
    reply = ask(user.deployment, user.token, "GET", "/me")
    assert reply.status_code == 200, reply.text
    found: JSON = reply.json()
    return found


def post(user: User, path: str, key: str = "", **body: object) -> requests.Response:
    """A request that changes something, under a key of its own if none is given."""
    headers = {"Idempotency-Key": key or uuid4().hex}
    return ask(user.deployment, user.token, "POST", path, json=body, headers=headers)


def history(asking: User, path: str = "/me/history") -> list[JSON]:
    """A history's first page."""
    reply = ask(asking.deployment, asking.token, "GET", path)
    assert reply.status_code == 200, reply.text
    items: list[JSON] = reply.json()["items"]
    return items


def text_of(microtokens: int) -> str:
    """An amount as people read it."""
    whole, part = divmod(microtokens, TOKEN)
    digits = f"{part:06d}".rstrip("0")
    return f"{whole:,}" + (f".{digits}" if digits else "") + " tokens"


# -- what a student sees -------------------------------------------------------------


def test_the_form_says_what_each_size_costs(people: Callable[[str], User]) -> None:
    """Before anything is started, in tokens per hour; a CPU is free."""
    page = people("chooser").page("/hub/spawn")
    assert re.search(r"[1-9][\d.,]* tokens? per hour", page)
    assert "free" in page


def test_the_notebook_shows_the_tokens_of_now(
    people: Callable[[str], User], admin: User
) -> None:
    """With the server's own token: the balance moves as tokens come and go."""
    user = people("reader")
    user.start("1-gpu")
    before = user.python(PANEL)
    assert "As of now" in before, before
    rate = tokens_of(user)["microtokens_per_hour"]
    assert rate > 0
    assert f"{text_of(rate)} per hour" in before
    assert re.search(r"Balance +(99\.|100 )", before), before
    assert "Lasts for" in before
    reply = post(admin, f"/users/{user.name}/grants", microtokens=5 * TOKEN)
    assert reply.status_code == 201, reply.text
    assert re.search(r"Balance +(104\.|105 )", user.python(PANEL))


def test_without_the_service_the_notebook_shows_the_figures_of_the_start(
    people: Callable[[str], User],
) -> None:
    """And says so, and why; no traceback."""
    user = people("alone")
    user.start("1-gpu")
    cut = f"import os; os.environ['JUPYTERHUB_API_TOKEN'] = 'wrong'; {PANEL}"
    shown = user.python(cut)
    assert "As of the start of this server" in shown
    assert "does not accept" in shown
    assert "Balance    100 tokens" in shown or "Balance    99." in shown, shown


def test_everybody_gets_a_welcome_once(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """At the first look at the form; not again by another look or another start."""
    user = people("newcomer")
    for _ in range(2):
        user.page("/hub/spawn")
    user.start("cpu")
    user.stop()
    assert tokens_of(user)["available"] == WELCOME
    codes = [entry["code"] for entry in history(user)]
    assert codes.count("welcome") == 1


@pytest.mark.browser
def test_the_page_shows_the_tokens_and_takes_a_voucher(
    page: Page,
    deployment: Deployment,
    people: Callable[[str], User],
    admin: User,
    tmp_path: Path,
) -> None:
    """From the hub's menu, without another login; a code counts once.

    Of a server that runs it says what it uses, and how long the tokens last.
    """
    until = datetime.now(UTC) + timedelta(days=1)
    made = post(admin, "/vouchers", microtokens=5 * TOKEN, expires_at=until.isoformat())
    assert made.status_code == 201, made.text
    (code,) = (voucher["code"] for voucher in made.json()["items"])
    user = people("holder")
    log_in(page, deployment, user.name)
    page.locator("nav").get_by_role("button", name="Services").click()
    page.get_by_role("link", name="torchroom").click()
    expect(page.get_by_role("heading", name="Your tokens")).to_be_visible()
    expect(page.get_by_text("100 tokens", exact=True).first).to_be_visible()
    page.get_by_label("Code").fill(code.lower())
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_role("status")).to_have_text("Redeemed: 5 tokens.")
    expect(page.get_by_text("105 tokens", exact=True).first).to_be_visible()
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_role("status")).not_to_contain_text("Redeemed")
    assert tokens_of(user)["available"] == WELCOME + 5 * TOKEN
    user.start("1-gpu")
    page.reload()
    expect(page.get_by_text("At this rate your tokens last for")).to_be_visible()
    keep(page, "tokens.png", tmp_path, last=page.locator("main"))


# -- who may -------------------------------------------------------------------------


def test_a_servers_token_reads_its_owners_balance_and_extends_its_servers(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """Nothing else: what runs in a notebook can neither look around nor give away."""
    user, other = people("owner"), people("other")
    user.start("cpu")
    token = user.python("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])").strip()
    reply = ask(deployment, token, "GET", "/me")
    assert (reply.status_code, reply.json()["user"]) == (200, user.name)
    for path in (
        "/me/history",
        "/me/usage",
        f"/users/{user.name}",
        f"/users/{other.name}",
        f"/users/{other.name}/history",
        "/courses/any",
        "/courses/any/students",
        "/vouchers",
        "/usage",
        "/ledger",
    ):
        assert ask(deployment, token, "GET", path).status_code == 403, path
    key = {"Idempotency-Key": uuid4().hex}
    for path, body in (
        ("/me/vouchers", {"code": "ABCD-EFGH"}),
        (f"/users/{user.name}/grants", {"microtokens": TOKEN}),
        (f"/users/{other.name}/take-backs", {"microtokens": TOKEN}),
        ("/prices", {"key": "cpu", "microtokens_per_hour": 0}),
    ):
        reply = ask(deployment, token, "POST", path, json=body, headers=key)
        assert reply.status_code == 403, (path, reply.text)
    notice = ask(deployment, token, "GET", "/me/servers/-/notice")
    assert notice.status_code == 204, notice.text
    # And of the hub itself it is told no more than before.
    theirs = {"Authorization": f"token {token}"}
    for path in (f"/users/{other.name}", "/users", "/groups", "/proxy"):
        assert user.api("GET", path, headers=theirs).status_code in {403, 404}, path


def test_nobody_reads_or_spends_for_another(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """Not with a token of their own, not with a wrong one, not without one."""
    user, other = people("nosy"), people("victim")
    for path in (f"/users/{other.name}", f"/users/{other.name}/history", "/usage"):
        assert ask(deployment, user.token, "GET", path).status_code == 403
    grant = f"/users/{user.name}/grants"
    assert post(user, grant, microtokens=TOKEN).status_code == 403
    for headers in ({"Authorization": "token wrong"}, {"Authorization": ""}):
        reply = ask(deployment, user.token, "GET", "/me", headers=headers)
        assert reply.status_code == 401


# -- what an admin does --------------------------------------------------------------


def test_an_admin_grants_and_reads_statements(
    people: Callable[[str], User], admin: User
) -> None:
    """Once per key; the statement is there as JSON and as CSV."""
    user = people("granted")
    path, key = f"/users/{user.name}/grants", uuid4().hex
    first = post(admin, path, key, microtokens=TOKEN, note="=for the project")
    assert first.status_code == 201, first.text
    again = post(admin, path, key, microtokens=TOKEN, note="=for the project")
    assert again.status_code == 200
    assert post(admin, path, key, microtokens=2 * TOKEN).status_code == 409
    theirs = f"/users/{user.name}/history"
    entries = [entry for entry in history(admin, theirs) if entry["code"] == "grant"]
    assert [entry["microtokens"] for entry in entries] == [TOKEN]
    assert entries[0]["actor"] == admin.name
    reply = ask(admin.deployment, admin.token, "GET", f"{theirs}?format=csv")
    assert reply.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["note"] for row in rows if row["code"] == "grant"] == [
        "'=for the project"
    ]


def test_a_server_costs_rate_times_seconds(
    people: Callable[[str], User], admin: User
) -> None:
    """The statement has one line for it, which says how long it ran at which rate."""
    user = people("payer")
    user.start("1-gpu")
    wait_until(
        lambda: tokens_of(user)["accrued"],
        what="a second has passed",
        within_s=SEEN_WITHIN_S,
    )
    user.stop()

    def closed() -> JSON:
        leases = [entry["lease"] or {} for entry in history(user)]
        return next((lease for lease in leases if lease.get("ended_at")), {})

    lease = wait_until(closed, what="the charge is final", within_s=SEEN_WITHIN_S)
    cost = charge(lease["microtokens_per_hour"], lease["settled_s"])
    assert cost > 0
    (entry,) = [entry for entry in history(user) if entry["lease"]]
    assert entry["microtokens"] == -cost
    assert tokens_of(user)["available"] == WELCOME - cost
    reply = ask(user.deployment, user.token, "GET", "/me/usage?by=type")
    (used,) = reply.json()["items"]
    assert (used["microtokens"], used["seconds"]) == (cost, lease["settled_s"])
    assert "simulated" in used["key"]


def test_the_command_line_in_the_hubs_container(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """An admin on the machine needs no token: balance, grant, statement, audit."""
    user = people("shell")
    user.page("/hub/spawn")

    def ledger(*words: str) -> str:
        command = ["torchroom", "ledger", *words]
        status, output = execute(deployment.service("hub"), command)
        assert status == 0, output
        return output

    assert re.search(r"to spend +100$", ledger("balance", user.name), re.MULTILINE)
    ledger("grant", user.name, "2.5")
    assert re.search(r"to spend +102\.5$", ledger("balance", user.name), re.MULTILINE)
    assert "2.5" in ledger("statement", user.name)
    assert "All is well" in ledger("verify")


# -- when there are none -------------------------------------------------------------


def test_who_has_no_tokens_starts_a_cpu_server_and_nothing_else(
    people: Callable[[str], User], admin: User
) -> None:
    """The refusal says what is needed and what there is; the CPU server is free."""
    user = people("poor")
    user.page("/hub/spawn")
    everything = tokens_of(user)["available"]
    path = f"/users/{user.name}/take-backs"
    assert post(admin, path, microtokens=everything).status_code == 201
    with pytest.raises(RefusedError, match="token") as refused:
        user.start("1-gpu")
    assert refused.value.status in {0, 402}
    user.start("cpu")
    assert "free" in user.python(PANEL)
    assert tokens_of(user)["spendable"] == 0


# -- when something dies -------------------------------------------------------------


def test_the_service_comes_back_with_a_killed_hub(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """And the server that ran meanwhile goes on being metered under the same rate."""
    user = people("steady")
    user.start("1-gpu")
    rate = tokens_of(user)["microtokens_per_hour"]
    deployment.kill_hub()
    deployment.wait_up()

    def answers() -> bool:
        return ask(deployment, user.token, "GET", "/me").status_code == 200

    wait_until(answers, what="the service answers", within_s=SEEN_WITHIN_S)
    assert tokens_of(user)["microtokens_per_hour"] == rate
    assert "As of now" in user.python(PANEL)
