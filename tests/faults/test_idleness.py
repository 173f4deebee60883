"""Servers that do not compute: a program sees which they are, and says why they end.

The hub, the engine, the containers and their processes are real; what NVML tells of
them is scripted.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.gpu.state import GIB
from testbed.hub import REQUEST_TIMEOUT_S, User, crowd, message_of
from testbed.hub_process import HubProcess, MakeHub, own

pytestmark = pytest.mark.docker

SEEN_WITHIN_S = 30
TOKEN = "for-the-steward-of-this-test-only"
SENTENCE = "Your last server stopped: its GPU had been idle for a while."
CONFIGURATION = f"""
from gpuspawner import window
c.JupyterHub.extra_handlers = window.handlers()
c.JupyterHub.services = [{{"name": "steward", "api_token": "{TOKEN}"}}]
c.JupyterHub.load_roles = [
    {{
        "name": "steward",
        "scopes": [window.READ, window.END, "read:servers", "delete:servers"],
        "services": ["steward"],
    }}
]
"""
WAITS = "import time; time.sleep(600)"
WORKS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while 1: 1'])"
# Over 15 % of the way from idle power (55 W) to the limit (300 W); under 40 % of the
# limit, which counts as long as idle power is not learnt.
BETWEEN_MW = 105_000
JSON = dict[str, Any]


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Iterator[HubProcess]:
    """A hub with two GPUs, and a program that may stop servers."""
    with make_hub(
        "idleness",
        port=8160,
        gpus=own(states.simple(2)),
        configuration=CONFIGURATION,
    ) as running:
        yield running


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with crowd(hub) as make:
        yield make


def ask(hub: HubProcess, method: str, path: str, **more: Any) -> requests.Response:
    """A request of the program that may stop servers."""
    return requests.request(
        method,
        f"{hub.url}/hub/api{path}",
        headers={"Authorization": f"token {TOKEN}"},
        timeout=REQUEST_TIMEOUT_S,
        **more,
    )


def row(hub: HubProcess, user: User) -> JSON:
    """The user's lease, as that program sees it; a new hub may have to look first."""

    def found() -> JSON:
        leases = ask(hub, "GET", "/gpus").json()["leases"]
        return next((lease for lease in leases if lease["user"] == user.name), {})

    return wait_until(found, what=f"{user}'s lease is seen", within_s=SEEN_WITHIN_S)


def wait_for_use(hub: HubProcess, user: User, state: str, *, for_s: float = 0) -> JSON:
    """Wait until a server's GPU is in this state, for so long; returns its use."""
    seen: JSON = {}

    def is_it() -> bool:
        seen.update(row(hub, user)["use"])
        lasts = datetime.now(UTC) - datetime.fromisoformat(seen["since"])
        return seen["state"] == state and lasts.total_seconds() >= for_s

    wait_until(is_it, what=f"{user} is seen {state}", within_s=SEEN_WITHIN_S)
    return seen


def tell(
    hub: HubProcess, user: User, reason: str, idle_since: str | None
) -> requests.Response:
    """Say why the user's server is about to be stopped."""
    said = {"reason": reason, "sentence": SENTENCE, "idle_since": idle_since}
    return ask(hub, "POST", f"/leases/{row(hub, user)['id']}/ending", json=said)


def stop(hub: HubProcess, user: User) -> None:
    """Stop the user's server as that program does."""
    assert ask(hub, "DELETE", f"/users/{user.name}/server").ok
    wait_until(user.is_idle, what="it has stopped", within_s=SEEN_WITHIN_S)


def test_an_idle_server_is_seen_and_stopped_for_a_reason_that_its_user_reads(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """From busy to idle; once more busy it is not stopped; the reason outlives all."""
    user = people("sleepy")
    (uuid,) = user.start("1-gpu").devices
    pid = user.run_program(WAITS)
    with hub.change() as gpus:
        gpus.process(uuid, pid, GIB, sm=80, live=True)
        gpus.set_utilisation(uuid, 90)
    wait_for_use(hub, user, "busy")
    with hub.change() as gpus:
        gpus.process(uuid, pid, GIB, live=True)
        gpus.set_utilisation(uuid, 0)
    use = wait_for_use(hub, user, "idle")
    assert use["why"].startswith("1 program holds 1 GiB of its memory")
    assert [slot["state"] for slot in use["slots"]] == ["idle"]
    lease = row(hub, user)
    assert (lease["offer"], lease["course"]) == ("1-gpu", None)
    assert lease["ready_at"] < use["idle_since"]

    with hub.change() as gpus:
        gpus.process(uuid, pid, GIB, sm=80, live=True)
    reply = tell(hub, user, "idle", use["idle_since"])
    assert reply.status_code == 409
    assert "A program kept its SMs 80% busy" in message_of(reply)
    assert user.answers()

    with hub.change() as gpus:
        gpus.process(uuid, pid, GIB, live=True)
    use = wait_for_use(hub, user, "idle")
    assert tell(hub, user, "idle", use["idle_since"]).status_code == 204
    stop(hub, user)
    assert SENTENCE in user.page("/hub/spawn")
    hub.kill_hub()
    assert SENTENCE in user.page("/hub/spawn")

    user.start("1-gpu")
    user.stop()
    assert SENTENCE not in user.page("/hub/spawn")


def test_a_program_whose_child_uses_the_cpu_is_not_known_to_be_idle(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """It holds a card above its idle power; the process table says the rest."""
    user = people("lifted")
    (uuid,) = user.start("1-gpu").devices
    try:
        with hub.change() as gpus:
            gpus.process(uuid, user.run_program(WAITS), GIB, live=True)
            gpus.change(uuid, power=BETWEEN_MW)
        wait_for_use(hub, user, "idle")
        with hub.change() as gpus:
            gpus.process(uuid, user.run_program(WORKS), GIB, live=True)
        # For longer than what a program needs to begin.
        use = wait_for_use(hub, user, "unknown", for_s=10)
        assert "2 programs hold 2 GiB" in use["why"]
        assert "CPU time" in use["why"]
        assert tell(hub, user, "idle", use["since"]).status_code == 409
    finally:
        with hub.change() as gpus:
            gpus.set_utilisation(uuid, 0)


def test_a_value_that_the_driver_no_longer_tells_is_unknown(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """What was idle is not idle any more, and begins anew."""
    user = people("untold")
    (uuid,) = user.start("1-gpu").devices
    before = wait_for_use(hub, user, "idle")
    try:
        with hub.change() as gpus:
            gpus.fault("nvmlDeviceGetProcessUtilization", uuid, code=states.UNKNOWN)
        use = wait_for_use(hub, user, "unknown")
        assert use["why"] == "The driver does not tell which programs use its SMs."
        assert tell(hub, user, "idle", before["idle_since"]).status_code == 409
    finally:
        with hub.change() as gpus:
            gpus.clear_faults()
    assert wait_for_use(hub, user, "idle")["idle_since"] > before["idle_since"]
    assert tell(hub, user, "idle", before["idle_since"]).status_code == 409


def test_a_new_hub_begins_anew_and_knows_what_it_serves(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """What nobody watched may have computed."""
    user = people("adopted")
    user.start("1-gpu")
    before = wait_for_use(hub, user, "idle")
    lease = row(hub, user)
    hub.kill_hub()
    user.page("/hub/spawn")  # the new hub looks when somebody comes
    after = wait_for_use(hub, user, "idle")
    assert after["idle_since"] > before["idle_since"]
    for key in ("id", "offer", "course", "ready_at"):
        assert row(hub, user)[key] == lease[key]


def test_a_cpu_server_is_stopped_for_a_reason_too(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """It has no GPU that could be idle."""
    user = people("frugal")
    user.start("cpu")
    assert row(hub, user)["use"] is None
    assert tell(hub, user, "cpu_idle", None).status_code == 204
    stop(hub, user)
    assert SENTENCE in user.page("/hub/spawn")
