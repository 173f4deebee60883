"""Networks of an earlier shape, and images that start as root, on a real engine."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from steps import network, settings
from testbed.gpu.state import simple
from testbed.hub import crowd, execute
from testbed.hub_process import hub_process, own
from toolbox.console import Failure

pytestmark = pytest.mark.docker


@pytest.fixture
def wanted(
    monkeypatch: pytest.MonkeyPatch, engine: docker.DockerClient
) -> Iterator[settings.Settings]:
    """The settings of a deployment that has no more than a network."""
    project = f"old{uuid4().hex[:8]}"
    monkeypatch.setattr(os, "environ", os.environ | {"COMPOSE_PROJECT_NAME": project})
    yield settings.read(Path("/nonexistent"))
    for found in engine.networks.list(names=[project]):
        found.remove()


def test_an_old_network_is_refused_and_removed(
    wanted: settings.Settings, engine: docker.DockerClient
) -> None:
    """`make up` says what to do about it, and `make down` does it."""
    addresses = network.variables(wanted)
    network.check(wanted, addresses)  # none is fine
    labels = {
        "com.docker.compose.project": wanted.project,
        "com.docker.compose.network": "servers",
    }
    engine.networks.create(f"{wanted.project}-servers", labels=labels)
    with pytest.raises(Failure, match="earlier version") as raised:
        network.check(wanted, addresses)
    assert "make down" in raised.value.todo
    network.remove_left(wanted)
    assert not engine.networks.list(names=[wanted.project])
    network.check(wanted, addresses)


@pytest.fixture
def root_image(engine: docker.DockerClient, user_image: str) -> Iterator[str]:
    """The user image, made to start as root."""
    tag = "torchroom-test-root:1"
    container = engine.containers.create(user_image)
    name, _, version = tag.partition(":")
    container.commit(name, version, changes="USER root")
    container.remove()
    yield tag
    engine.images.remove(tag, force=True)


def test_an_image_that_starts_as_root_is_run_as_somebody_else(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path: Path,
    root_image: str,
) -> None:
    """The server answers, its processes are the home owner's, its home can be written.

    A site's own security options are added, and take nothing away.
    """
    site = f"""
c.GPUDockerSpawner.image = "{root_image}"
c.GPUDockerSpawner.extra_host_config = {{
    "security_opt": ["no-new-privileges:false", "label=disable"]
}}
"""
    with (
        hub_process(
            engine,
            engine_socket,
            gpu_dir,
            tmp_path,
            name="rooted",
            port=8070,
            gpus=own(simple(1)),
            configuration=site,
        ) as hub,
        crowd(hub) as people,
    ):
        user = people("rooted")
        user.start()
        assert user.answers()
        container = user.container()
        assert container.attrs["Config"]["User"] == "1000:1000"
        options = container.attrs["HostConfig"]["SecurityOpt"]
        assert options == ["no-new-privileges", "label=disable"]
        command = ["sh", "-c", "id -u && touch ~/mine && stat -c %u ~/mine && pwd"]
        assert execute(container, command) == (0, "1000\n1000\n/home/jovyan\n")
