"""The plugin alone on somebody else's hub: the three lines of spawner/README.md."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
import requests
from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment, Lease, User, together

pytestmark = pytest.mark.docker

README = Path(__file__).resolve().parents[2] / "spawner" / "README.md"
PORT, HUB_PORT, PROXY_API_PORT = 8020, 8091, 8092
PASSWORD = "for-this-test-only"
HUB_ID_FILE = "gpuspawner_hub_id"

# What that somebody has in the configuration anyway.
REST = f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{PORT}"
c.JupyterHub.hub_port = {HUB_PORT}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{PASSWORD}"
c.Authenticator.allow_all = True
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{PROXY_API_PORT}"
"""


def shown_lines() -> str:
    """The first Python block of the plugin's README."""
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "spawner/README.md shows no configuration"
    return found[1]


def write_configuration(folder: Path, proxy_image: str, image: str) -> Path:
    """Somebody's jupyterhub_config.py: theirs, and the lines of the README."""
    lines = shown_lines()
    proxy = ["docker", "run", "--rm", "--init", "--network=host"]
    proxy += ["--env=CONFIGPROXY_AUTH_TOKEN", proxy_image]
    lines = re.sub(r'"torchroom/pytorch:[^"]*"', f'"{image}"', lines)
    text = f"{REST}\nc.ConfigurableHTTPProxy.command = {proxy!r}\n\n{lines}"
    path = folder / "jupyterhub_config.py"
    path.write_text(text)
    return path


def answers(url: str) -> bool:
    """Does the hub answer?"""
    try:
        return requests.get(f"{url}/hub/api/", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def plain_hub(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    user_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A JupyterHub process of the host's own, with nothing else of Torchroom."""
    folder = tmp_path_factory.mktemp("plain")
    config = write_configuration(
        folder, os.environ["TORCHROOM_TEST_PROXY_IMAGE"], user_image
    )
    simulation = json.loads((gpu_dir / "simulation.json").read_text())
    log = (folder / "hub.log").open("w")
    bin_dir = Path(sys.executable).parent
    hub = subprocess.Popen(
        [str(bin_dir / "jupyterhub"), "-f", str(config)],
        cwd=folder,
        env=os.environ
        | simulation["environment"]
        | {"PATH": f"{bin_dir}:{os.environ['PATH']}"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{PORT}"
        wait_until(
            lambda: answers(url) or hub.poll() is not None,
            what="the plain hub answers",
            within_s=60,
        )
        assert hub.poll() is None, (folder / "hub.log").read_text()[-4000:]
        deployment = Deployment(
            root=folder,
            engine=engine,
            proxy=EngineProxy(engine_socket, folder / "unused.sock"),
            gpu_dir=gpu_dir,
            state_dir=folder,
            port=PORT,
            project="",
            _login={"user_password": PASSWORD},
        )
        deployment.new_user("first").page("/hub/spawn")  # the hub names itself here
        deployment.project = (folder / HUB_ID_FILE).read_text().strip()
        yield deployment
    finally:
        hub.terminate()
        hub.wait(60)
        log.close()


@pytest.fixture(scope="module")
def two(plain_hub: Deployment) -> list[User]:
    """Two users with a GPU each."""
    users = [plain_hub.new_user("plain") for _ in range(2)]
    failed = [
        result
        for result in together(partial(user.start, "1-gpu") for user in users)
        if not isinstance(result, Lease)
    ]
    assert not failed, failed
    return users


def test_three_lines_are_enough(two: list[User], plain_hub: Deployment) -> None:
    """Two users of a plain hub get one GPU each, not the same, and answers."""
    assert len(re.findall(r"(?m)^c\.", shown_lines())) == 3
    leases = plain_hub.leases()
    assert len(leases) == 2
    assert all(len(lease.devices) == 1 for lease in leases)
    assert all(user.answers() for user in two)


def test_the_containers_see_their_device_only(two: list[User]) -> None:
    """Each container has the device node of its lease and no other."""
    for user in two:
        _, listing = user.execute("sh", "-c", "ls /dev/nvidia[0-9]*")
        assert len(listing.split()) == 1


def test_options_are_checked_here_too(two: list[User], plain_hub: Deployment) -> None:
    """What is not on offer is refused with a sentence."""
    user = plain_hub.new_user("odd")
    reply = user.request_server({"offer": "cpu", "image": "other"})
    assert 400 <= reply.status_code < 500
    assert "Traceback" not in reply.text
    assert not plain_hub.servers(user=user.name)


def test_stopping_returns_the_gpus(two: list[User], plain_hub: Deployment) -> None:
    """After both have stopped, somebody gets all four."""
    for user in two:
        user.stop()
    last = plain_hub.new_user("all")
    assert len(last.start("4-gpu").devices) == 4
    last.stop()
