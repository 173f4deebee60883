"""A real hub, its plugin, the engine and a real steward: idle GPUs come back.

NVML's answers are scripted; everything else is as on a site, only in seconds.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.hub import User, answering, crowd
from testbed.hub_process import HubProcess, MakeHub, own

pytestmark = pytest.mark.docker

ENDS_WITHIN_S = 120

POLICY = """
[default]
idle_minutes = 0.4
warn_minutes = 0.2
grace_minutes = 0
"""
CONFIGURATION = """
import os
from gpuspawner import window
from gpuspawner.spawner import GPUDockerSpawner
from torchroom import roles
from torchroom.steward import service as steward
c.JupyterHub.extra_handlers = window.handlers(GPUDockerSpawner)
c.JupyterHub.custom_scopes = window.SCOPES
c.JupyterHub.services = [
    {
        "name": roles.STEWARD,
        "command": steward.COMMAND,
        "environment": {
            "TORCHROOM_DATA_DIR": os.getcwd(),
            "TORCHROOM_STEWARD_POLICY": os.path.abspath("steward.toml"),
        },
    },
]
c.JupyterHub.load_roles = [
    {
        "name": "steward",
        "scopes": list(roles.OF_STEWARD),
        "services": [roles.STEWARD],
    },
]
"""


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Iterator[HubProcess]:
    """A hub with four GPUs, and a steward who waits seconds."""
    with make_hub(
        "steward",
        port=8130,
        gpus=own(states.simple(4)),
        configuration=CONFIGURATION,
        files={"steward.toml": POLICY},
    ) as running:
        yield running


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with crowd(hub) as make:
        yield make


def kept(hub: HubProcess, query: str, *given: str) -> list[Any]:
    """What the steward's file says."""
    path = hub.root / "steward.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query, given).fetchall()


def actions(hub: HubProcess, user: User) -> list[str]:
    """What the steward did to a user's servers."""
    query = "SELECT action, reason FROM events WHERE user = ? ORDER BY id"
    return [" ".join(row) for row in kept(hub, query, user.name)]


def test_an_idle_gpu_comes_back_and_a_busy_one_is_kept(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The idle one's user was warned, keeps polling in vain, and reads why."""
    idle, busy, small = people("idle"), people("busy"), people("small")
    (uuid,) = busy.start("1-gpu").devices
    with hub.change() as gpus:
        gpus.set_utilisation(uuid, 90)
    idle.start("1-gpu")
    small.start("cpu")
    with answering(busy), answering(small):
        query = "SELECT sentence FROM notices WHERE user = ?"
        wait_until(
            lambda: kept(hub, query, idle.name),
            what="the idle one is warned",
            within_s=ENDS_WITHIN_S,
        )
        assert "has computed nothing for" in kept(hub, query, idle.name)[0][0]
        wait_until(idle.is_idle, what="it is stopped", within_s=ENDS_WITHIN_S)
        wait_until(
            lambda: actions(hub, idle) == ["warned idle", "stopped idle"],
            what="it is noted",
            within_s=30,
        )
        page = idle.page("/hub/spawn")
        assert "its GPU computed nothing for" in page
        assert "start it again when you need it" in page
    assert actions(hub, busy) == actions(hub, small) == []
    with hub.change() as gpus:  # the training has ended
        gpus.set_utilisation(uuid, 0)
    wait_until(busy.is_idle, what="it is stopped", within_s=ENDS_WITHIN_S)
    small.stop()
    assert "Traceback" not in hub.hub_log()


def test_activity_that_is_faked_keeps_no_gpu(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Whatever the hub is told: the GPU computes nothing."""
    user = people("faker")
    user.start("1-gpu")

    def told_and_gone() -> bool:
        path = f"/users/{user.name}/activity"
        body = {"servers": {"": {"last_activity": "2099-01-01T00:00:00Z"}}}
        user.api("POST", path, json=body)
        return user.is_idle()

    wait_until(told_and_gone, what="it is stopped", within_s=ENDS_WITHIN_S)
    assert actions(hub, user) == ["warned idle", "stopped idle"]


def test_a_steward_that_is_killed_is_started_again(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """By the hub; and a hub that is killed leaves no second one."""
    user = people("patient")
    user.start("1-gpu")
    wait_until(
        lambda: actions(hub, user) == ["warned idle"],
        what="it is warned",
        within_s=ENDS_WITHIN_S,
    )
    hub.kill_hub()
    wait_until(user.is_idle, what="it is stopped", within_s=ENDS_WITHIN_S)
    wait_until(
        lambda: actions(hub, user)[-1] == "stopped idle", what="noted", within_s=30
    )
    assert actions(hub, user).count("stopped idle") == 1


def test_in_a_dry_run_it_only_notes(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Nobody hears of it, and nothing is stopped."""
    (hub.root / "steward.toml").write_text(f"{POLICY}dry_run = true\n")
    hub.end()
    hub.begin()
    user = people("watched")
    user.start("1-gpu")
    wait_until(
        lambda: actions(hub, user) == ["warned idle", "stopped idle"],
        what="it is noted",
        within_s=ENDS_WITHIN_S,
    )
    assert user.answers()
    query = "SELECT count(*) FROM events WHERE user = ? AND is_dry_run"
    assert kept(hub, query, user.name) == [(2,)]
    assert kept(hub, "SELECT * FROM notices") == []
    user.stop()
