"""Parts of GPUs: who shares one, what keeps them apart, and who has no business there.

The processes, their containers and their ends are real; which GPU memory they hold is
what NVML is scripted to say.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.gpu.state import GIB
from testbed.hub import Lease, RefusedError, User, crowd, together
from testbed.hub_process import HubProcess, MakeHub, own, waiting

pytestmark = pytest.mark.docker

SEEN_WITHIN_S = 30
SHARED, SPLIT = 0, 1
OFFERS = [
    {"name": "cpu", "title": "CPU", "n_gpus": 0, "memory_bytes": GIB, "n_cpus": 1},
    {"name": "share", "title": "Half a GPU", "n_gpus": 1, "gpu_kind": "share",
     "memory_bytes": GIB, "n_cpus": 1},
    {"name": "mig", "title": "An instance", "n_gpus": 1, "gpu_kind": "mig",
     "memory_bytes": GIB, "n_cpus": 1},
]  # fmt: skip
CONFIGURATION = f"""
c.GPUDockerSpawner.shares = {{"{SHARED}": 2}}
c.GPUDockerSpawner.offers = {OFFERS!r}
"""
HOLDS = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
INSTANCES = """
import json, pynvml as n
n.nvmlInit()
found = []
for i in range(n.nvmlDeviceGetCount()):
    gpu = n.nvmlDeviceGetHandleByIndex(i)
    for j in range(n.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            instance = n.nvmlDeviceGetMigDeviceHandleByIndex(gpu, j)
            found.append(n.nvmlDeviceGetUUID(instance))
        except n.NVMLError_NotFound:
            pass
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Iterator[HubProcess]:
    """A hub with a GPU that two share, and one that is split into MIG instances."""
    with make_hub(
        "parts",
        port=8050,
        gpus=own(states.mig()),
        configuration=CONFIGURATION,
    ) as running:
        yield running


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with crowd(hub) as make:
        yield make


def runs(pid: int) -> bool:
    """Is there a process with this PID?"""
    return Path(f"/proc/{pid}").exists()


def test_two_share_a_gpu_and_never_three(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The third waits until one of the two has stopped."""
    uuid = hub.gpus.uuids[SHARED]
    two = [people("sharing") for _ in range(2)]
    third = people("third")
    leases = together(partial(user.start, "share") for user in two)
    assert all(isinstance(lease, Lease) for lease in leases), leases
    assert {lease.devices for lease in leases} == {(uuid,)}
    with waiting(third, "share") as start:
        wait_until(lambda: hub.is_queued(third), what="it waits", within_s=30)
        assert len(hub.servers()) == 2
        assert not start.done()
        two[0].stop()
        assert start.result(60).devices == (uuid,)
    assert len(hub.servers()) == 2


def test_what_keeps_a_share_in_its_memory_is_logged_and_really_there(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """On this machine the framework's cap: every Python of the server places it."""
    user = people("capped")
    lease = user.start("share")
    (line,) = [
        row for row in hub.hub_log().splitlines()
        if "memory cap" in row and lease.id in row
    ]  # fmt: skip
    assert line.endswith("by=framework")
    finders = "import sys; print([type(f).__name__ for f in sys.meta_path])"
    assert "_TorchFinder" in user.python(finders)
    assert "_TorchFinder" in user.run_in_kernel(user.start_kernel(), finders)
    allowed = int(user.python("import os; print(os.environ['GPUSPAWNER_TORCH_BYTES'])"))
    assert 0 < allowed < hub.gpus.gpus[SHARED].mem // 2


@pytest.mark.parametrize("code", [HOLDS, STUBBORN], ids=["obeys", "by force"])
def test_over_its_memory_a_user_is_warned_then_the_largest_program_is_ended(
    hub: HubProcess, people: Callable[[str], User], code: str
) -> None:
    """The smaller program and the server go on, and the note says what happened."""
    user, neighbour = people("greedy"), people("neighbour")
    (uuid,) = user.start("share").devices
    neighbour.start("share")
    large, small = user.run_program(code), user.run_program(f"{HOLDS} # small")
    theirs = neighbour.run_program(HOLDS)
    with hub.change() as gpus:
        gpus.process(uuid, small, 1 * GIB, live=True)
        gpus.process(uuid, large, 60 * GIB, live=True)
        gpus.process(uuid, theirs, 15 * GIB, live=True)
    wait_until(lambda: not runs(large), what="it is ended", within_s=SEEN_WITHIN_S)
    wait_until(
        lambda: "was ended" in user.note(), what="it is said", within_s=SEEN_WITHIN_S
    )
    assert "its share is 40 GiB" in user.note()
    assert runs(small)
    assert runs(theirs)
    assert user.answers()
    assert not neighbour.note()
    assert "Your server uses 61 GiB" in user.note()


def test_a_server_that_stays_over_its_memory_is_stopped_with_the_reason(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Where no program can be ended, and the neighbour does not notice."""
    user, neighbour = people("greedy"), people("neighbour")
    (uuid,) = user.start("share").devices
    neighbour.start("share")
    pid = user.container().attrs["State"]["Pid"]
    with hub.change() as gpus:
        gpus.process(uuid, pid, 60 * GIB, live=True)
    wait_until(user.is_idle, what="the server ends", within_s=SEEN_WITHIN_S)
    assert "Your server was stopped: it used 60 GiB" in user.page("/hub/spawn")
    assert neighbour.answers()


def test_a_container_without_a_lease_on_a_gpu_raises_an_alarm(
    hub: HubProcess,
    people: Callable[[str], User],
    engine: docker.DockerClient,
    user_image: str,
) -> None:
    """Admins read whose it is; the server that has the lease goes on."""
    user = people("rightful")
    (uuid,) = user.start("share").devices
    intruder = engine.containers.run(
        user_image, ["-c", HOLDS], entrypoint="python3", detach=True, init=True
    )
    try:
        intruder.reload()
        with hub.change() as gpus:
            gpus.process(uuid, intruder.attrs["State"]["Pid"], 2 * GIB, live=True)
        hub.wait_for_log("without a lease for it and holds 2 GiB")
        hub.wait_for_log(f"The container {intruder.name} is on GPU 0")
    finally:
        intruder.remove(force=True)
    assert user.answers()


def test_mig_instances_of_one_gpu_are_leased_apart(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Each by its own UUID; each server sees its own instance only."""
    two = [people("instance") for _ in range(2)]
    leases = [user.start("mig") for user in two]
    assert leases[0].devices != leases[1].devices
    for user, lease in zip(two, leases, strict=True):
        assert set(lease.devices) < set(hub.gpus.mig_uuids)
        assert json.loads(user.python(INSTANCES)) == list(lease.devices)


def test_an_engine_that_fails_while_the_cap_is_checked_leaves_no_share_behind(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Nobody gets a share of which the hub does not know what keeps its memory."""
    user = people("uncapped")
    with (
        hub.proxy.fail("POST", r"/exec$", body="_TorchFinder"),
        pytest.raises(RefusedError) as caught,
    ):
        user.start("share")
    assert "Traceback" not in caught.value.message
    wait_until(user.is_idle, what="nothing is left", within_s=45)
    two = [people("after") for _ in range(2)]
    leases = together(partial(one.start, "share") for one in two)
    assert all(isinstance(lease, Lease) for lease in leases), leases


def test_an_image_without_python_leaves_the_cap_to_the_watchdog(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The hub says so; the engine answers as it does for a program not found."""
    user = people("other")
    refusing = hub.proxy.fail("POST", r"/exec$", body="_TorchFinder", status=400)
    with refusing:
        lease = user.start("share")
    rows = hub.hub_log().splitlines()
    (line,) = [row for row in rows if "memory cap lease_id" in row and lease.id in row]
    assert line.endswith("by=watchdog")


def test_a_hub_killed_before_it_knows_the_cap_leaves_no_share_behind(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """The server was never ready: it is removed, and both shares can be leased."""
    user = people("uncapped")
    with hub.proxy.hold("POST", r"/exec$", body="_TorchFinder") as held:
        user.request_server_in_background({"offer": "share"})
        held.reached()
        hub.kill_hub()
    wait_until(user.is_idle, what="nothing is left", within_s=45)
    two = [people("after") for _ in range(2)]
    leases = together(partial(one.start, "share") for one in two)
    assert all(isinstance(lease, Lease) for lease in leases), leases
