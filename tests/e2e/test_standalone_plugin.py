"""The plugin alone on somebody else's hub: the three lines of spawner/README.md."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
from testbed.hub import Deployment, Lease, User, together
from testbed.plain_hub import plain_hub

pytestmark = pytest.mark.docker

README = Path(__file__).resolve().parents[2] / "spawner" / "README.md"


def shown_lines() -> str:
    """The first Python block of the plugin's README."""
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "spawner/README.md shows no configuration"
    return found[1]


@pytest.fixture(scope="module")
def hub(
    engine: docker.DockerClient,
    gpu_dir: Path,
    user_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """Somebody's hub with the lines of the README and nothing else of Torchroom."""
    lines = re.sub(r'"torchroom/pytorch:[^"]*"', f'"{user_image}"', shown_lines())
    folder = tmp_path_factory.mktemp("plain")
    with plain_hub(folder, lines, engine=engine, gpu_dir=gpu_dir) as started:
        yield started


@pytest.fixture(scope="module")
def two(hub: Deployment) -> list[User]:
    """Two users with a GPU each."""
    users = [hub.new_user("plain") for _ in range(2)]
    failed = [
        result
        for result in together(partial(user.start, "1-gpu") for user in users)
        if not isinstance(result, Lease)
    ]
    assert not failed, failed
    return users


def test_three_lines_are_enough(two: list[User], hub: Deployment) -> None:
    """Two users of a plain hub get one GPU each, not the same, and answers."""
    assert len(re.findall(r"(?m)^c\.", shown_lines())) == 3
    leases = hub.leases()
    assert len(leases) == 2
    assert all(len(lease.devices) == 1 for lease in leases)
    assert all(user.answers() for user in two)


def test_the_containers_see_their_device_only(two: list[User]) -> None:
    """Each container has the device node of its lease and no other."""
    for user in two:
        _, listing = user.execute("sh", "-c", "ls /dev/nvidia[0-9]*")
        assert len(listing.split()) == 1


def test_options_are_checked_here_too(two: list[User], hub: Deployment) -> None:
    """What is not on offer is refused with a sentence."""
    user = hub.new_user("odd")
    reply = user.request_server({"offer": "cpu", "image": "other"})
    assert 400 <= reply.status_code < 500
    assert "Traceback" not in reply.text
    assert not hub.servers(user=user.name)


def test_stopping_returns_the_gpus(two: list[User], hub: Deployment) -> None:
    """After both have stopped, somebody gets all four."""
    for user in two:
        user.stop()
    last = hub.new_user("all")
    assert len(last.start("4-gpu").devices) == 4
    last.stop()
