"""On a real engine: PIDs lead to containers, and the cap is placed in a real image."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from gpuspawner import capping, incontainer
from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.processes import Processes
from gpuspawner.seeding import Owner, archive
from gpuspawner.watchdog import end_command
from testbed.engine import wait_until

pytestmark = pytest.mark.docker

STUDENT = 1000
GIB = 2**30
WITHIN_S = 30.0
PLUGIN = Path(__file__).resolve().parents[2] / "spawner"


@contextmanager
def server(
    engine: docker.DockerClient, image: str, **extra: Any
) -> Iterator[Container]:
    """A container as a server's: no capability, an init, the student's uid."""
    made = engine.containers.create(
        image,
        ["sleep", "600"],
        entrypoint=[],
        user=str(STUDENT),
        init=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        **extra,
    )
    try:
        yield made
    finally:
        made.remove(force=True)


def processes_of(container: Container) -> list[ProcessIdentity]:
    """Everybody in it, from the host's side, as the PIDs of the engine lead there."""
    table = Processes()
    pids = [int(row[1]) for row in container.top(ps_args="-ef")["Processes"]]
    return [found for pid in pids if (found := table.identify(pid))]


def sleeper(container: Container) -> ProcessIdentity:
    """Wait for the program under the container's init."""

    def found() -> ProcessIdentity | None:
        there = processes_of(container)
        return next((each for each in there if each.command == "sleep 600"), None)

    who = wait_until(found, what="the container's program is seen", within_s=WITHIN_S)
    assert who
    return who


def python(container: Container, code: str) -> str:
    """Run code in it and return what it printed."""
    done = container.exec_run(["python3", "-B", "-c", code])
    assert isinstance(done.output, bytes)
    assert done.exit_code == 0, done.output
    return done.output.decode().strip()


@pytest.mark.parametrize("cgroupns", ["private", "host"])
def test_a_host_pid_leads_to_its_container(
    engine: docker.DockerClient, user_image: str, cgroupns: str
) -> None:
    """With its uid and its PID in there, whatever this machine's cgroups are."""
    with server(engine, user_image, cgroupns=cgroupns) as container:
        container.start()
        found = sleeper(container)
        assert found.containers[-1] == container.id
        assert found.uid == STUDENT
        assert 1 < found.inner_pid < found.pid
        container.reload()
        first = Processes().identify(container.attrs["State"]["Pid"])
        assert first
        assert first.inner_pid == 1
        assert Processes().cgroup(found.pid, "0" * 64) is None


def test_a_hub_without_privileges_sees_it_with_the_hosts_pids_only(
    engine: docker.DockerClient, user_image: str
) -> None:
    """As the hub's own container is: `pid: host`, no root, no capability."""
    with server(engine, user_image) as container:
        container.start()
        pid = sleeper(container).pid
        for pid_mode, expected in (("host", container.id), (None, None)):
            with server(
                engine,
                user_image,
                pid_mode=pid_mode,
                read_only=True,
                volumes={str(PLUGIN): {"bind": "/plugin", "mode": "ro"}},
                environment={"PYTHONPATH": "/plugin"},
            ) as hub:
                hub.start()
                code = (
                    "from gpuspawner.processes import Processes; "
                    f"found = Processes().identify({pid}); "
                    "print(found and found.containers[-1])"
                )
                assert python(hub, code) == str(expected)
                # Its own processes have PIDs in a container's own table too.
                mine = "found = Processes().identify(1); print(found and found.pid)"
                own = code.partition("found")[0] + mine
                assert python(hub, own) == str(pid_mode and 1)


def test_a_process_is_ended_from_inside_and_only_the_one_meant(
    engine: docker.DockerClient, user_image: str
) -> None:
    """As its own uid: a root without capabilities may not."""
    with server(engine, user_image) as container:
        container.start()
        meant = sleeper(container)
        other = replace(meant, start_time=meant.start_time + 1)
        uid = str(meant.uid)
        spare = container.exec_run(end_command(other, by_force=True), user=uid)
        assert spare.exit_code == 3
        as_root = container.exec_run(end_command(meant, by_force=True), user="0")
        assert as_root.exit_code not in {0, 3}
        assert meant.is_same_as(Processes().identify(meant.pid))
        ended = container.exec_run(end_command(meant, by_force=False), user=uid)
        assert ended.exit_code == 0
        assert container.wait(timeout=WITHIN_S)["StatusCode"] == 128 + 15
        assert not meant.is_same_as(Processes().identify(meant.pid))


def test_the_image_with_real_torch_gets_the_cap_and_starts_as_ever(
    engine: docker.DockerClient, user_image: str
) -> None:
    """The call waits in torch's own queue; nothing was initialised."""
    image = engine.images.get(user_image)
    theirs = dict(row.split("=", 1) for row in image.attrs["Config"]["Env"])
    env = capping.environment(theirs, 10 * GIB, 40 * GIB)
    with server(engine, user_image, environment=env) as container:
        check = capping.check_framework_cap()
        files = {
            path.lstrip("/"): content
            for path, content in incontainer.memory_cap_files().items()
        }
        container.put_archive("/", archive(files, Owner(0, 0), time.time()))
        container.start()
        assert container.exec_run(check).exit_code == 0
        code = (
            "import torch; queue = [row[0].__module__ for row in "
            "torch.cuda._queued_calls]; print(torch.__version__, torch.ones(2).sum(), "
            "queue.count('sitecustomize'), torch.cuda.is_initialized())"
        )
        version, *rest = python(container, code).split()
        assert rest == ["tensor(2.)", "1", "False"]
        assert int(version.partition(".")[0]) >= 2
        # Nobody in the container may change what is read at every start.
        spoil = f"echo > {incontainer.PYTHON_DIR}/sitecustomize.py"
        assert container.exec_run(["sh", "-c", spoil]).exit_code != 0
    with server(engine, user_image, environment=env) as container:
        container.start()
        assert container.exec_run(check).exit_code == 1
