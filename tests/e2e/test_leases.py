"""Six users, four GPUs: exact devices, kept apart by the kernel, given on in turn."""

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from testbed.engine import wait_until
from testbed.hub import (
    READY_WITHIN_S,
    Deployment,
    Lease,
    SpawnPage,
    User,
    crowd,
    together,
)

pytestmark = pytest.mark.docker

NVIDIA_MAJOR = 195
EPERM, ENXIO = 1, 6

LOOK = """
import json, pynvml
try:
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i)
               for i in range(pynvml.nvmlDeviceGetCount())]
    seen = [pynvml.nvmlDeviceGetUUID(h) for h in handles]
except pynvml.NVMLError as error:
    seen = []
print(json.dumps(seen))
"""

OPEN = """
import os, sys
try:
    os.close(os.open(sys.argv[1], os.O_RDWR))
    print(0)
except OSError as error:
    print(error.errno)
"""


@dataclass
class Rush:
    """What became of six users who came at once.

    Attributes:
        granted: Who has a GPU.
        waiting: Who waits, first in line first, with the spawn page of each.
        other: Somebody who came later and has nothing.
    """

    granted: dict[str, tuple[User, Lease]]
    waiting: list[tuple[User, SpawnPage]]
    other: User


def is_decided(page: SpawnPage) -> bool:
    """Has the user a server, or a place in the queue?"""
    return page.is_ended or bool(page.messages and "in the queue" in page.messages[-1])


def position(page: SpawnPage) -> int:
    """The place in the queue that the page shows."""
    found = re.search(r"You are number (\d+) in the queue", page.messages[-1])
    assert found, page.messages
    return int(found[1])


@pytest.fixture(scope="module")
def rush(deployment: Deployment) -> Iterator[Rush]:
    """Six users ask for one GPU each at the same moment."""
    with crowd(deployment) as people, contextlib.ExitStack() as stack:
        users = [people("rush") for _ in range(6)]
        for user in users:
            user.request_server_in_background({"offer": "1-gpu"})
        pages = {}
        for user in users:
            user.wait_listed()
            pages[user.name] = stack.enter_context(contextlib.closing(user.watch()))
        wait_until(
            lambda: all(map(is_decided, pages.values())),
            what="everybody has a server or a place in the queue",
            within_s=READY_WITHIN_S,
        )
        ready = [u for u in users if pages[u.name].events[-1].get("ready")]
        others = [(u, pages[u.name]) for u in users if u not in ready]
        failed = [page.events[-1] for _, page in others if page.is_ended]
        assert not failed, failed
        yield Rush(
            {user.name: (user, user.lease()) for user in ready},
            sorted(others, key=lambda pair: position(pair[1])),
            people("late"),
        )


def sees(user: User) -> list[str]:
    """The UUIDs that unmodified nvidia-ml-py sees in the user's container."""
    seen: list[str] = json.loads(user.python(LOOK))
    return seen


def test_two_gpus_are_leased_together(people: Callable[[str], User]) -> None:
    """Two GPUs are two distinct devices, both visible inside, no more and no less."""
    user = people("two")
    lease = user.start("2-gpu")
    assert len(set(lease.devices)) == 2
    assert sees(user) == list(lease.devices)


def test_exactly_four_get_distinct_devices(rush: Rush, deployment: Deployment) -> None:
    """Four users lease one device each, no device twice, all four devices."""
    assert len(rush.granted) == 4
    leased = [uuid for _, lease in rush.granted.values() for uuid in lease.devices]
    assert sorted(leased) == sorted(d["uuid"] for d in deployment.devices())
    mine = [lease for lease in deployment.leases() if lease.user in rush.granted]
    assert sorted(uuid for lease in mine for uuid in lease.devices) == sorted(leased)


def test_two_wait_in_line(rush: Rush, deployment: Deployment) -> None:
    """The others read their place and how long it may take, and hold nothing."""
    assert [position(page) for _, page in rush.waiting] == [1, 2]
    for user, page in rush.waiting:
        assert re.search(r"about|cannot be said yet", page.messages[-1])
        assert "Leave the queue" in page.events[-1]["html_message"]
        assert not deployment.servers(user=user.name)


def test_the_form_says_what_is_free_and_how_long_the_queue_is(rush: Rush) -> None:
    """The spawn form shows sizes with memory, and the place one would have now."""
    page = rush.other.page("/hub/spawn")
    for offer in ("cpu", "1-gpu", "2-gpu", "4-gpu"):
        assert f'value="{offer}"' in page
    assert "0 of 4 free now" in page
    assert "You are number 3 in the queue" in page
    assert "GiB" in page
    assert "simulated" in page.lower()


def test_a_cpu_server_need_not_wait(rush: Rush) -> None:
    """Others wait for GPUs; a CPU server starts, and sees none."""
    user = rush.other
    lease = user.start("cpu")
    assert lease.devices == ()
    assert user.answers()
    assert sees(user) == []
    status, listing = user.execute("sh", "-c", "ls /dev | grep -c nvidia")
    assert (status, listing.strip()) == (1, "0")
    environment = user.container().attrs["Config"]["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in environment
    _, told = user.execute("sh", "-c", "cat $GPUSPAWNER_FACTS")
    facts = json.loads(told)
    assert (facts["lease_id"], facts["lease"]) == (lease.id, None)
    user.stop()


def test_each_container_sees_exactly_its_device(rush: Rush) -> None:
    """Inside, nvidia-ml-py sees the leased device and no other."""
    pairs = list(rush.granted.values())
    seen = together(partial(sees, user) for user, _ in pairs)
    assert seen == [list(lease.devices) for _, lease in pairs]


def test_the_kernel_refuses_other_devices(rush: Rush, deployment: Deployment) -> None:
    """Opening another's node is refused even where the node exists; one's own is not.

    The nodes are made from outside with all rights, which is more than the container
    could do itself. Behind a simulated device is no driver: a permitted open ends in
    ENXIO, a refused one in EPERM.
    """
    user, lease = next(iter(rush.granted.values()))
    pid = user.container().attrs["State"]["Pid"]
    for device in deployment.devices():
        path = f"/dev/probe{device['minor']}"
        node = Path(f"/proc/{pid}/root{path}")
        number = os.makedev(NVIDIA_MAJOR, device["minor"])
        os.mknod(node, stat.S_IFCHR | 0o666, number)
        node.chmod(0o666)
        try:
            for who in ("", "0"):
                _, said = user.execute("python3", "-c", OPEN, path, user=who)
                mine = device["uuid"] in lease.devices
                assert int(said) == (ENXIO if mine else EPERM), (device, who)
        finally:
            node.unlink()


def test_root_in_the_container_cannot_make_a_device_node(rush: Rush) -> None:
    """Even root in the container has no right to make device nodes."""
    user, _ = next(iter(rush.granted.values()))
    status, said = user.execute("mknod", "/tmp/node", "c", "195", "0", user="0")
    assert status != 0
    assert "permitted" in said


def test_containers_are_locked_down(rush: Rush) -> None:
    """Init, no new privileges, capabilities dropped, every limit set."""
    user, _ = next(iter(rush.granted.values()))
    host = user.container().attrs["HostConfig"]
    assert host["Init"] is True
    assert any(word.startswith("no-new-privileges") for word in host["SecurityOpt"])
    assert "ALL" in host["CapDrop"]
    assert host["Privileged"] is False
    assert not host["AutoRemove"]
    assert host["Memory"] > 0
    assert host["MemorySwap"] == host["Memory"]
    assert 64 * 2**20 < host["ShmSize"] <= host["Memory"]
    assert 0 < host["PidsLimit"] < 100_000
    assert host["NanoCpus"] > 0 or host["CpuQuota"] > 0
    status, said = user.execute("grep", "CapEff", "/proc/self/status")
    assert status == 0
    assert int(said.split()[1], 16) == 0


def test_labels_describe_the_lease(rush: Rush, deployment: Deployment) -> None:
    """Hub, user, server, lease, UUIDs and host indices are on the container."""
    index_of = {d["uuid"]: str(d["index"]) for d in deployment.devices()}
    for user, lease in rush.granted.values():
        labels = user.container().labels
        assert labels["gpuspawner.hub"] == deployment.project
        assert labels["gpuspawner.user"] == user.name
        assert labels["gpuspawner.server"] == ""
        assert labels["gpuspawner.lease"].startswith("ls_")
        assert labels["gpuspawner.indices"] == ",".join(
            index_of[uuid] for uuid in lease.devices
        )


@pytest.mark.parametrize(
    "name", ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA"]
)
def test_a_users_environment_gives_no_device(
    rush: Rush, deployment: Deployment, name: str
) -> None:
    """Device variables in the options are refused and nothing is created."""
    user = rush.other
    for options in (
        {"offer": "cpu", name: "all"},
        {"offer": "cpu", "environment": {name: "all"}},
        {"offer": "cpu", "env": {name: "all"}},
    ):
        reply = user.request_server(options)
        assert 400 <= reply.status_code < 500, reply.text
        assert not deployment.servers(user=user.name)


def test_what_is_given_back_goes_to_the_first_in_line(
    rush: Rush, deployment: Deployment
) -> None:
    """Exactly the device of the stopped server; who stood behind moves up."""
    user, lease = rush.granted.popitem()[1]
    (first, first_page), (second, second_page) = rush.waiting
    user.stop()
    assert first_page.wait_end()["ready"]
    assert first.lease().devices == lease.devices
    assert sees(first) == list(lease.devices)
    second_page.wait_for("You are number 1 in the queue")
    assert not deployment.servers(user=second.name)
    deployment.leases()  # checks that no device is leased twice
