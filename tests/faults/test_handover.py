"""A GPU goes to the next server only when nothing of the last one is left on it."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.gpu.state import GIB
from testbed.hub import RefusedError, User, crowd
from testbed.hub_process import HubProcess, MakeHub, own, waiting

pytestmark = pytest.mark.docker

CLEAN_WITHIN_S = 3
STARTED_WITHIN_S = 60

SAVES = """
import time
open("begun", "w").close()
try:
    while True:
        pass
except KeyboardInterrupt:
    open("saved", "w").write("all of it")
"""
IGNORES = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
open("begun", "w").close()
while True:
    pass
"""


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Iterator[HubProcess]:
    """A hub with two GPUs that quarantines after seconds, not after a minute."""
    with make_hub(
        "handover",
        port=8040,
        gpus=own(states.simple(2)),
        configuration=f"c.GPUDockerSpawner.clean_within = {CLEAN_WITHIN_S}",
    ) as running:
        yield running


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with crowd(hub) as make:
        yield make


@pytest.fixture
def forgiven(hub: HubProcess) -> Iterator[None]:
    """Afterwards nothing is known against any GPU."""
    yield
    hub.forget_faults()


@pytest.fixture
def leftover(forgiven: None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that no server's end ends."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_is_left_keeps_the_gpu_from_the_next_until_it_is_gone(
    hub: HubProcess,
    leftover: subprocess.Popen[bytes],
    people: Callable[[str], User],
) -> None:
    """The slot waits, is quarantined as unclean, heals by itself, and is leased."""
    user, following = people("leaving"), people("following")
    lease = user.start("2-gpu")
    uuid = lease.devices[0]
    with hub.change() as gpus:
        gpus.process(uuid, leftover.pid, GIB, live=True)
    user.stop()
    with waiting(following, "2-gpu") as start:
        wait_until(lambda: hub.is_queued(following), what="it waits", within_s=30)
        hub.wait_for_state(uuid, "quarantined")
        assert f"still used by process {leftover.pid}" in hub.kept("health")
        assert hub.finding(lease.devices[1]) == "healthy"
        assert not start.done()
        leftover.kill()
        leftover.wait()
        assert set(start.result(STARTED_WITHIN_S).devices) == set(lease.devices)
    assert hub.finding(uuid) == "healthy"


def test_memory_that_is_not_given_back_keeps_the_gpu_from_the_next(
    hub: HubProcess, forgiven: None, people: Callable[[str], User]
) -> None:
    """Far more memory is used than when idle, though NVML tells no process."""
    user, following = people("leaking"), people("following")
    lease = user.start("2-gpu")
    uuid = lease.devices[1]
    with hub.change() as gpus:
        gpus.change(uuid, used=10 * GIB)
    user.stop()
    with waiting(following, "2-gpu") as start:
        hub.wait_for_state(uuid, "quarantined")
        assert "used by no known program" in hub.kept("health")
        assert not start.done()
        with hub.change() as gpus:
            gpus.change(uuid, used=0)
        start.result(STARTED_WITHIN_S)


def test_a_hub_killed_in_the_middle_of_a_hand_over_looks_again(
    hub: HubProcess,
    leftover: subprocess.Popen[bytes],
    people: Callable[[str], User],
) -> None:
    """The GPU is not leased by the new hub either, and heals for it, too."""
    user, following = people("leaving"), people("following")
    lease = user.start("2-gpu")
    uuid = lease.devices[0]
    with hub.change() as gpus:
        gpus.process(uuid, leftover.pid, GIB, live=True)
    user.stop()
    hub.kill_hub()  # while the slot waits
    following.page("/hub/spawn")  # the new hub looks when somebody comes
    hub.wait_for_state(uuid, "quarantined")
    hub.kill_hub()  # while it is quarantined
    with pytest.raises(RefusedError, match="out of service"):
        following.start("2-gpu")
    leftover.kill()
    leftover.wait()
    hub.wait_for_state(uuid, "healthy")
    assert following.start("2-gpu").running


def begin(user: User, code: str) -> contextlib.AbstractContextManager[object]:
    """Run a cell that does not end by itself; it is under way when this returns."""
    pool = ThreadPoolExecutor(1)
    pool.submit(user.run_in_kernel, user.start_kernel(), code)
    begun = ["test", "-e", "/home/jovyan/begun"]
    wait_until(lambda: user.execute(*begun)[0] == 0, what="the cell runs", within_s=30)
    return pool


def test_a_kernel_is_interrupted_and_may_save_before_its_server_ends(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """A long loop gets KeyboardInterrupt; what it writes then is in the home."""
    user = people("saving")
    user.start("1-gpu")
    with begin(user, SAVES):
        user.stop()
    user.start("cpu")
    assert user.execute("cat", "/home/jovyan/saved") == (0, "all of it")


def test_a_kernel_that_ignores_everything_is_ended_all_the_same(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Its server is gone in time, and its GPU can be leased again."""
    user, following = people("deaf"), people("following")
    user.start("2-gpu")
    with begin(user, IGNORES):
        user.stop()
    assert len(following.start("2-gpu").devices) == 2
