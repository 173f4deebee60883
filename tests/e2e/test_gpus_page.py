"""Admins see who holds which GPU, and take one out of service; nobody else does."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from e2e.test_browser import keep
from playwright.sync_api import Locator, Page, expect
from prometheus_client.parser import text_string_to_metric_families
from testbed.engine import wait_until
from testbed.hub import REQUEST_TIMEOUT_S, Deployment, RefusedError, User, message_of

pytestmark = pytest.mark.docker

READ = "custom:gpus:read"
SEEN_MS = 20_000
JSON = dict[str, Any]


def window(user: User) -> JSON:
    """What the user gets of the GPUs."""
    reply = user.api("GET", "/gpus")
    assert reply.ok, reply.text
    found: JSON = reply.json()
    return found


@pytest.fixture
def admin(deployment: Deployment) -> User:
    """The administrator."""
    return deployment.admin_user


@pytest.fixture
def scoped(admin: User) -> str:
    """A token that may see the GPUs and nothing else, as a service has."""
    body = {"note": "graphs", "scopes": [READ]}
    reply = admin.api("POST", f"/users/{admin.name}/tokens", json=body)
    assert reply.ok, reply.text
    return str(reply.json()["token"])


# -- who may -------------------------------------------------------------------------


def test_students_see_nothing(people: Callable[[str], User]) -> None:
    """No data, no page, no link; and they change nothing."""
    student = people("curious")
    assert student.api("GET", "/gpus").status_code == 403
    word = {"state": "quarantined", "note": "mine"}
    assert student.api("POST", "/gpus/GPU-0", json=word).status_code == 403
    page = student.page("/hub/gpus")
    assert "403" in page
    assert "gpus-devices" not in page
    assert "/hub/gpus" not in student.page("/hub/home")


def test_a_program_with_the_scope_sees_and_does_not_change(
    admin: User, scoped: str
) -> None:
    """The scope to read is not the scope to manage."""
    theirs = {"Authorization": f"token {scoped}"}
    reply = admin.api("GET", "/gpus", headers=theirs)
    assert reply.status_code == 200
    uuid = reply.json()["devices"][0]["uuid"]
    word = {"state": "quarantined", "note": "no"}
    reply = admin.api("POST", f"/gpus/{uuid}", headers=theirs, json=word)
    assert reply.status_code == 403
    assert "custom:gpus:manage" in message_of(reply)


def test_a_page_elsewhere_cannot_use_an_admins_login(
    deployment: Deployment, admin: User
) -> None:
    """The cookie alone changes nothing, as everywhere in JupyterHub's API."""
    uuid = window(admin)["devices"][0]["uuid"]
    reply = admin.session.post(
        f"{deployment.url}/hub/api/gpus/{uuid}",
        json={"state": "quarantined", "note": "forged"},
        timeout=REQUEST_TIMEOUT_S,
    )
    assert reply.status_code == 403
    assert window(admin)["devices"][0]["health"]["override"] is None


# -- what is seen --------------------------------------------------------------------


def test_a_lease_is_seen_with_its_reason(
    admin: User, people: Callable[[str], User]
) -> None:
    """The GPUs that the container has, by whom, since when and why."""
    student = people("holder")
    lease = student.start("2-gpu")
    seen = window(admin)
    (row,) = [row for row in seen["leases"] if row["id"] == lease.id]
    assert (row["user"], row["server"], row["state"]) == (student.name, "", "active")
    assert {slot["device"] for slot in row["slots"]} == set(lease.devices)
    assert row["why"]
    assert row["since"]
    assert row["cap"]["by"] == "hardware"
    for slot in seen["slots"]:
        is_held = slot["device"] in lease.devices
        assert (slot["lease"] == lease.id) == is_held
        assert (slot["state"] == "leased") == is_held
    assert all(device["is_simulated"] for device in seen["devices"])
    assert seen["sampling"]["reader_cpu_s"] > 0
    found = {
        (sample.labels["uuid"], sample.labels["user"], sample.labels["lease"])
        for family in scrape(admin)
        for sample in family.samples
        if sample.name == "gpuspawner_lease_info"
        and sample.labels["user"] == student.name
    }
    assert found == {(uuid, student.name, lease.id) for uuid in lease.devices}


def scrape(admin: User) -> list[Any]:
    """The hub's metrics as Prometheus reads them."""
    reply = admin.api("GET", "/metrics")
    assert reply.ok, reply.text
    return list(text_string_to_metric_families(reply.text))


# -- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"state": "quarantined", "note": " "}, "Say in a note why"),
        ({"state": "quarantined"}, "Say in a note why"),
        ({"state": "probation", "note": "x"}, "goes on probation by itself"),
        ({"state": "broken", "note": "x"}, "Send {"),
        ({"state": "healthy", "note": 5}, "Send {"),
        ({}, "Send {"),
        ([1], "Send {"),
        ("{", "Send {"),
        ("", "Send {"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    admin: User, body: object, sentence: str
) -> None:
    """A 400 that says what to send; the GPU is as before."""
    uuid = window(admin)["devices"][0]["uuid"]
    data = body if isinstance(body, str) else json.dumps(body)
    reply = admin.api("POST", f"/gpus/{uuid}", data=data)
    assert reply.status_code == 400
    assert sentence in message_of(reply)
    assert "Traceback" not in reply.text
    assert window(admin)["devices"][0]["health"]["override"] is None


@pytest.mark.parametrize("state", ["quarantined", None])
def test_an_unknown_gpu_is_not_found(admin: User, state: str | None) -> None:
    """The sentence names those that are known."""
    word = {"state": state, "note": "x"}
    reply = admin.api("POST", "/gpus/GPU-100%25<b>", json=word)
    assert reply.status_code == 404
    assert message_of(reply).startswith("There is no device GPU-100%<b>. Known are: ")
    assert window(admin)["devices"][0]["uuid"] in message_of(reply)


# -- the page ------------------------------------------------------------------------


def open_page(page: Page, deployment: Deployment) -> None:
    """Log in as the admin and open the page by its link."""
    page.goto(f"{deployment.url}/hub/login?next=%2Fhub%2Ftoken")
    page.get_by_label("Username").fill(deployment.login["admin_user"])
    page.get_by_label("Password").fill(deployment.login["admin_password"])
    page.locator("#login_submit").click()
    page.get_by_role("link", name="GPUs").click()


def row_of(page: Page, uuid: str) -> Locator:
    """A GPU's row."""
    return page.locator(f"#gpus-devices tr[data-uuid='{uuid}']")


def say(page: Page, uuid: str, word: str, note: str) -> None:
    """Press a GPU's button, give a note, and confirm."""
    row_of(page, uuid).get_by_role("button", name=word).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=word).click()
    expect(dialog).to_be_visible()  # without a note nothing is done
    dialog.get_by_label("Note").fill(note)
    dialog.get_by_role("button", name=word).click()
    expect(dialog).to_be_hidden()


@pytest.mark.browser
def test_an_admin_sees_who_holds_what_and_quarantines_a_gpu(
    page: Page,
    deployment: Deployment,
    admin: User,
    people: Callable[[str], User],
    tmp_path: Path,
) -> None:
    """The next lease avoids the GPU, until it is healed; the note is kept."""
    holder, waiter, other, last = map(people, ("ann", "bea", "cid", "dan"))
    (uuid,) = holder.start("1-gpu").devices
    with closing(waiter.queue("4-gpu")):
        open_page(page, deployment)
        row = row_of(page, uuid)
        expect(row).to_contain_text(f"{holder.name} since")
        leases = window(admin)["leases"]
        (why,) = [lease["why"] for lease in leases if lease["user"] == holder.name]
        expect(row).to_contain_text(why)
        expect(row).to_contain_text("(simulated)")
        expect(page.locator("#gpus-queue")).to_contain_text(waiter.name)

        say(page, uuid, "Quarantine", "loud fan")
        expect(row).to_contain_text("quarantined", timeout=SEEN_MS)
        expect(row).to_contain_text("loud fan")
        expect(row).to_contain_text(holder.name)  # whose server goes on
        queue = page.locator("#gpus-queue")
        expect(queue).to_contain_text("too few such GPUs work now", timeout=SEEN_MS)
        keep(page, "gpus.png", tmp_path)

        page.route("**/hub/api/gpus", lambda route: route.fulfill(status=503))
        failure = page.get_by_text("may be old: the hub does not answer.")
        expect(failure).to_be_visible(timeout=SEEN_MS)
        page.unroute("**/hub/api/gpus")
        expect(failure).to_be_hidden(timeout=SEEN_MS)
        assert holder.answers()
        waiter.request_stop()
    holder.stop()
    expect(row).to_contain_text("unfit", timeout=SEEN_MS)

    # All else being as at the first start, it would be the same GPU again.
    assert uuid not in other.start("1-gpu").devices
    other.stop()
    with pytest.raises(RefusedError, match="out of service"):
        last.start("4-gpu")
    refused = {"status": "failure", "reason": "capacity"}
    assert refused in [
        {key: sample.labels[key] for key in refused}
        for family in scrape(admin)
        for sample in family.samples
        if sample.name == "jupyterhub_server_spawn_duration_seconds_count"
    ]

    deployment.kill_hub()
    deployment.wait_up()
    word = window(admin)["devices"]
    (kept,) = [d["health"]["override"] for d in word if d["uuid"] == uuid]
    assert (kept["state"], kept["note"]) == ("quarantined", "loud fan")
    assert kept["admin"] == admin.name

    page.reload()
    say(page, uuid, "Heal", "<b>fan</b> replaced")
    expect(row).to_contain_text("healthy", timeout=SEEN_MS)
    expect(row).to_contain_text("<b>fan</b> replaced")  # text, whatever it is
    row.get_by_role("button", name="Lift").click()
    page.get_by_role("dialog").get_by_role("button", name="Lift").click()
    expect(row.get_by_role("button", name="Lift")).to_have_count(0, timeout=SEEN_MS)
    wait_until(
        lambda: all(slot["state"] == "free" for slot in window(admin)["slots"]),
        what="all GPUs are free",
        within_s=60,
    )
    assert uuid in last.start("4-gpu").devices
