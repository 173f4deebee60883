"""A GPU that breaks: who is told, what is kept, and who goes on working.

The hub, the engine and the containers are real; NVML's answers are scripted.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.hub import RefusedError, User, answering, crowd
from testbed.hub_process import HubProcess, MakeHub, own

pytestmark = pytest.mark.docker

FALLEN_OFF_THE_BUS, ILLEGAL_ACCESS = 79, 31
DRAIN_AND_RESET = 4
SEEN_WITHIN_S = 30
HANG_MS = 120_000


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Iterator[HubProcess]:
    """A hub with eight GPUs; each test breaks some of its own."""
    with make_hub(
        "health",
        port=8030,
        gpus=own(states.simple(8)),
    ) as running:
        yield running


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with crowd(hub) as make:
        yield make


def record(hub: HubProcess, uuid: str) -> dict[str, Any]:
    """What the hub keeps of a GPU."""
    found: dict[str, Any] = json.loads(hub.kept("health"))["devices"][uuid]
    return found


def test_a_gpu_that_breaks_ends_its_server_with_a_reason_that_is_not_the_users(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """XID 79: told on the spawn form, refundable, another GPU next, evidence kept."""
    user, neighbour = people("broken"), people("neighbour")
    (uuid,) = user.start("1-gpu").devices
    neighbour.start("1-gpu")
    with answering(neighbour):
        with hub.change() as gpus:
            gpus.xid(uuid, FALLEN_OFF_THE_BUS)
        wait_until(user.is_idle, what="the server ends", within_s=SEEN_WITHIN_S)
        page = user.page("/hub/spawn")
        assert "The GPU of your server broke" in page
        assert "Your files are safe" in page
        (again,) = user.start("1-gpu").devices
        assert again != uuid
    assert hub.finding(uuid) == "quarantined"
    hub.kill_hub()
    found = record(hub, uuid)
    assert found["judged"] == "quarantined"
    assert any(row["code"] == "xid-79" for row in found["evidence"])
    assert user.lease().devices == (again,)
    everything = people("everything")
    assert "8-gpu" in everything.page("/hub/spawn")
    assert uuid not in everything.start("4-gpu").devices


def test_the_reason_outlives_the_hub(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The hub dies between the fault and its user's next look at the form."""
    user = people("unlucky")
    (uuid,) = user.start("1-gpu").devices
    container = user.container()
    with hub.proxy.hold("POST", rf"^/containers/{container.id}/stop") as held:
        with hub.change() as gpus:
            gpus.xid(uuid, FALLEN_OFF_THE_BUS)
        held.reached()
        hub.kill_hub()
    user.page("/hub/spawn")  # the new hub looks when somebody comes
    wait_until(user.is_idle, what="the server ends", within_s=SEEN_WITHIN_S)
    assert "The GPU of your server broke" in user.page("/hub/spawn")
    assert last_exit(hub, user)["is_refundable"] is True


def last_exit(hub: HubProcess, user: User) -> dict[str, object]:
    """Why the user's last server ended, as an admin reads it over REST."""
    reply = hub.admin_user.api(
        "GET", f"/users/{user.name}?include_stopped_servers=true"
    )
    found: dict[str, object] = reply.json()["servers"][""]["state"]["last_exit"]
    return found


def test_a_fault_of_the_users_own_program_ends_nothing(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """XID 31 is noted with its user; the server goes on and the GPU stays in use."""
    user = people("careless")
    lease = user.start("1-gpu")
    (uuid,) = lease.devices
    with hub.change() as gpus:
        gpus.xid(uuid, ILLEGAL_ACCESS)
    wait_until(lambda: "xid-31" in hub.kept("health"), what="it is noted", within_s=30)
    evidence = record(hub, uuid)["evidence"]
    assert {row["user"] for row in evidence if row["code"] == "xid-31"} == {user.name}
    assert user.lease() == lease
    assert user.answers()
    assert hub.finding(uuid) == "healthy"


def test_a_gpu_that_is_lost_and_comes_back_is_watched_before_it_is_leased(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Its server ends; afterwards it is on probation, and nobody gets it."""
    user = people("lost")
    (uuid,) = user.start("1-gpu").devices
    with hub.change() as gpus:
        gpus.lose(uuid)
    wait_until(user.is_idle, what="the server ends", within_s=SEEN_WITHIN_S)
    hub.wait_for_state(uuid, "quarantined")
    with hub.change() as gpus:
        gpus.restore(uuid)
    hub.wait_for_state(uuid, "probation")
    (again,) = user.start("1-gpu").devices
    assert again != uuid


def test_a_gpu_that_asks_for_a_reset_drains(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Its server goes on; nobody else gets it, and it is quarantined when free."""
    user = people("draining")
    lease = user.start("1-gpu")
    (uuid,) = lease.devices
    with hub.change() as gpus:
        gpus.need_recovery(uuid, DRAIN_AND_RESET)
    hub.wait_for_state(uuid, "draining")
    assert user.lease() == lease
    assert user.answers()
    user.stop()
    hub.wait_for_state(uuid, "quarantined")
    with hub.change() as gpus:  # somebody resets it
        gpus.change(uuid, recovery=0, energy=0)
    hub.wait_for_state(uuid, "probation")


def test_a_driver_that_does_not_match_its_library_is_said_and_heals(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """After an upgrade without a restart: servers go on, CPU servers start."""
    user, other, onlooker = people("before"), people("upgrade"), people("onlooker")
    lease = user.start("1-gpu")
    with hub.change() as gpus:
        gpus.driver(mismatch=True)
    hub.kill_reader()  # an NVML that was initialised before goes on reading
    wait_until(
        lambda: "driver" in notices(onlooker), what="the form says it", within_s=30
    )
    assert other.start("cpu").running
    assert user.lease() == lease
    assert user.answers()
    with hub.change() as gpus:
        gpus.driver(mismatch=False)
    wait_until(lambda: "driver" not in notices(onlooker), what="it heals", within_s=90)


def notices(user: User) -> str:
    """The notices on the spawn form, as text."""
    page = user.page("/hub/spawn")
    found = re.findall(r'(?s)<div class="alert[^"]*"[^>]*>(.*?)</div>', page)
    return " ".join(found)


def take_device_nodes_away(container: Container) -> None:
    """Let the kernel refuse them, as after `systemctl daemon-reload`."""
    pid = container.attrs["State"]["Pid"]
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    rows = [line.split(":", 2) for line in lines]
    paths = [path for _, names, path in rows if "devices" in names.split(",")]
    if not paths:
        pytest.skip("only cgroup v1 lets a rule be taken away from outside")
    group = Path(f"/sys/fs/cgroup/devices{paths[0]}")
    rules = (group / "devices.list").read_text().splitlines()
    granted = [rule for rule in rules if rule.startswith("c 195:")]
    assert granted
    for rule in granted:  # only a rule that is there can be taken away
        (group / "devices.deny").write_text(rule)


def test_a_server_that_loses_its_gpu_by_accident_is_told(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The daemon-reload fault: the server goes on, user and admin read what to do."""
    user, other = people("cut-off"), people("untouched")
    (uuid,) = user.start("1-gpu").devices
    other.start("1-gpu")
    take_device_nodes_away(user.container())
    wait_until(
        lambda: "cannot reach its GPU any more" in user.note(),
        what="the user is told",
        within_s=SEEN_WITHIN_S,
    )
    hub.wait_for_log(f"The server of {user.name} lost its GPU: most likely systemctl")
    wait_until(
        lambda: "nvml-lost-inside" in hub.kept("health"),
        what="the evidence is kept",
        within_s=SEEN_WITHIN_S,
    )
    assert user.answers()
    assert hub.finding(uuid) == "healthy"  # the machine's set-up is at fault
    assert not other.note()


def test_a_hung_gpu_holds_up_neither_the_hub_nor_others_servers(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """NVML gives no answer for one GPU: it is left out, the others are leased."""
    user, other = people("working"), people("coming")
    user.start("1-gpu")
    leasable = [uuid for uuid in hub.gpus.uuids if hub.finding(uuid) == "healthy"]
    hung = next(u for u in leasable if u not in user.lease().devices)
    with answering(user):
        with hub.change() as gpus:
            gpus.fault("*", hung, delay_ms=HANG_MS)
        assert other.start("cpu").running
        other.stop()
        hub.wait_for_state(hung, "quarantined", within_s=60)
        assert hung not in other.start("1-gpu").devices
    with hub.change() as gpus:
        gpus.clear_faults()


def test_a_hung_driver_holds_up_only_who_wants_a_gpu(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Nothing of NVML answers: the form says so, CPU servers start, and it heals."""
    user, other = people("working"), people("coming")
    user.start("1-gpu")
    with answering(user):
        with hub.change() as gpus:
            gpus.fault("nvmlInitWithFlags", delay_ms=HANG_MS)
        hub.kill_reader()
        wait_until(
            lambda: "takes long" in notices(other), what="it is said", within_s=60
        )
        assert other.start("cpu").running
        other.stop()
        with pytest.raises(RefusedError, match="choose CPU only"):
            other.start("1-gpu")
        with hub.change() as gpus:
            gpus.clear_faults()
        wait_until(
            lambda: "takes long" not in notices(other), what="it heals", within_s=60
        )
        assert other.start("1-gpu").running
