"""Containers with simulated GPUs on a real engine.

The engine, runc and the kernel's device control are real; only the driver is not. A
granted device without a driver behind it says ENXIO when opened, a refused one EPERM.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError
from docker.types import DeviceRequest
from testbed.gpu.state import Gpu, GpuState, edit

pytestmark = pytest.mark.docker

VISIBLE = """
import json
try:
    import pynvml as n
    n.nvmlInit()
    gpus = map(n.nvmlDeviceGetHandleByIndex, range(n.nvmlDeviceGetCount()))
    print(json.dumps([[n.nvmlDeviceGetUUID(g), n.nvmlDeviceGetName(g)] for g in gpus]))
except n.NVMLError as error:
    print(json.dumps(type(error).__name__))
"""
# Run as root: makes the missing nodes, and tells how opening each one ends.
OPEN = """
import errno, json, os, stat
answers = {}
for minor in %r:
    path = f"/dev/nvidia{minor}"
    if not os.path.exists(path):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(195, minor))
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        answers[minor] = errno.errorcode[error.errno]
print(json.dumps(answers))
"""
Run = Callable[..., Any]


@pytest.fixture
def gpus(gpu_dir: Path) -> GpuState:
    """The machine's simulated GPUs."""
    return GpuState.load(gpu_dir / "state")


@pytest.fixture
def run(engine: docker.DockerClient, user_image: str) -> Run:
    """Run Python in a container with these GPUs; gives what it prints as JSON."""

    def start(code: str, *uuids: str, **options: Any) -> Any:
        if uuids:
            options["device_requests"] = [
                DeviceRequest(device_ids=list(uuids), capabilities=[["gpu"]])
            ]
        output = engine.containers.run(
            user_image,
            ["-c", code],
            entrypoint="python3",
            network_mode="none",
            remove=True,
            **options,
        )
        return json.loads(output)

    return start


@pytest.fixture
def lost_gpu(gpu_dir: Path) -> Iterator[str]:
    """A GPU that is lost. One of its own: a hub of this run may be using the others."""
    gone = Gpu(
        uuid=f"GPU-{uuid.uuid4()}", name="NVIDIA T4 (simulated)", minor=99, lost=1
    )
    with edit(gpu_dir / "state") as state:
        state.gpus.append(gone)
    yield gone.uuid
    with edit(gpu_dir / "state") as state:
        state.gpus = [gpu for gpu in state.gpus if gpu.uuid != gone.uuid]


@pytest.mark.parametrize("user", ["0:0", "1000:100"])
def test_a_container_sees_exactly_what_it_asked_for(
    user: str, gpus: GpuState, run: Run
) -> None:
    """By UUID, as root and as a user; index 0 is the first that it has."""
    wanted = gpus.gpus[1]
    assert run(VISIBLE, wanted.uuid, user=user) == [[wanted.uuid, wanted.name]]
    two = [gpus.uuids[0], gpus.uuids[2]]
    assert [seen for seen, _ in run(VISIBLE, *two, user=user)] == two


def test_the_kernel_refuses_every_other_device(gpus: GpuState, run: Run) -> None:
    """Making the node is allowed to root in a container, opening it is not."""
    one, other = gpus.gpus[1].minor, gpus.gpus[0].minor
    answers = run(OPEN % [one, other], gpus.uuids[1], user="0:0")
    assert answers == {str(one): "ENXIO", str(other): "EPERM"}


def test_a_made_up_node_shows_no_gpu(gpus: GpuState, run: Run) -> None:
    """NVML in the container sees what the kernel grants, whatever lies in /dev."""
    minor = gpus.gpus[0].minor
    make = (
        f"import os; os.mknod('/dev/nvidia{minor}', 0o20666, os.makedev(195, {minor}))"
    )
    code = make + VISIBLE
    assert [seen for seen, _ in run(code, gpus.uuids[1], user="0:0")] == [gpus.uuids[1]]


def test_an_environment_variable_gives_no_gpu(gpus: GpuState, run: Run) -> None:
    """Images and users set NVIDIA_VISIBLE_DEVICES; only a request counts."""
    everything = {"NVIDIA_VISIBLE_DEVICES": "all"}
    none = run(VISIBLE, environment=everything)
    assert none == "NVMLError_LibraryNotFound"
    one = run(VISIBLE, gpus.uuids[0], environment=everything)
    assert [seen for seen, _ in one] == [gpus.uuids[0]]
    minor = gpus.gpus[0].minor
    refused = run(OPEN % [minor], environment=everything, user="0:0")
    assert refused == {str(minor): "EPERM"}


def test_a_lost_gpu_refuses_the_start(lost_gpu: str, run: Run) -> None:
    """The engine says which GPU and why; nothing runs."""
    with pytest.raises((APIError, ContainerError), match=f"gpu is lost: {lost_gpu}"):
        run(VISIBLE, lost_gpu)


def test_an_unknown_gpu_refuses_the_start(run: Run) -> None:
    """A UUID that no longer exists is not replaced by another GPU."""
    gone = f"GPU-{uuid.uuid4()}"
    with pytest.raises((APIError, ContainerError), match=f"{gone}: unknown device"):
        run(VISIBLE, gone)


def test_grants_survive_restart_and_update(
    gpus: GpuState, engine: docker.DockerClient, user_image: str
) -> None:
    """Restarting a container or changing its limits takes no GPU away."""
    container = engine.containers.run(
        user_image,
        ["-c", "import signal; signal.pause()"],
        entrypoint="python3",
        network_mode="none",
        mem_limit="256m",
        device_requests=[
            DeviceRequest(device_ids=[gpus.uuids[1]], capabilities=[["gpu"]])
        ],
        detach=True,
    )

    def seen() -> list[str]:
        output: Any = container.exec_run(["python3", "-c", VISIBLE]).output
        return [first for first, _ in json.loads(output)]

    try:
        assert seen() == [gpus.uuids[1]]
        container.update(mem_limit="300m", memswap_limit="600m")
        assert seen() == [gpus.uuids[1]]
        container.restart(timeout=0)
        assert seen() == [gpus.uuids[1]]
    finally:
        container.remove(force=True)
