"""The hubs that are compared, each as a process beside the run's own engine.

Stock is DockerSpawner with JupyterHub's defaults. Ours is the deployment's own
jupyterhub_config.py behind the deployment's gate; only addresses differ, since its hub
runs in a container. Ungated is the same with the engine's own socket.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import requests

from classroom.gates import gate

ROOT = Path(__file__).resolve().parents[2]
PORT, HUB_PORT, PROXY_API_PORT = 8030, 8031, 8032
NETWORK = "torchroom-bench"
HUB_ID = "torchroom-bench"
UP_WITHIN_S = 60
END_WITHIN_S = 20

ADDRESSES = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://{gateway}:{hub_port}"
c.JupyterHub.hub_connect_url = "http://{gateway}:{hub_port}"
c.ConfigurableHTTPProxy.should_start = True
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api_port}"
c.ConfigurableHTTPProxy.command = {proxy!r}
c.JupyterHub.services = [{{"name": "class", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "class", "services": ["class"],
    "scopes": ["admin:users", "admin:servers", "read:hub"],
}}]
"""
STOCK = """
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = {image!r}
"""
OURS = """
load_subconfig({config!r})
"""


@dataclass(frozen=True)
class Side:
    """One of the hubs that are compared.

    Attributes:
        name: "stock", "ours" or "ungated".
        network: The engine's network that its servers are in.
        options: What a student's click sends with the request.
        is_gated: A gate stands between it and the engine.
    """

    name: str
    image: str
    configuration: str
    network: str
    options: dict[str, Any]
    is_gated: bool = False

    def container_name(self, student: str) -> str:
        """What the student's container is called."""
        return f"{'jupyter' if self.name == 'stock' else HUB_ID}-{student}"


def sides(stock_image: str, our_image: str) -> tuple[Side, ...]:
    """All hubs, stock first."""
    config = OURS.format(config=str(ROOT / "jupyterhub_config.py"))
    ungated = Side("ungated", our_image, config, NETWORK, {"offer": "cpu"})
    return (
        Side("stock", stock_image, STOCK.format(image=stock_image), "bridge", {}),
        replace(ungated, name="ours", is_gated=True),
        ungated,
    )


@dataclass(frozen=True)
class Hub:
    """A hub that runs."""

    url: str
    token: str
    log: Path


@contextlib.contextmanager
def running(side: Side, engine: docker.DockerClient, folder: Path) -> Iterator[Hub]:
    """Start a fresh hub with its proxy; afterwards nothing of it is left.

    Raises:
        RuntimeError: It did not come up; the text is the end of its log.
    """
    folder.mkdir(parents=True)
    token = secrets.token_hex(16)
    network = engine.networks.get(side.network)
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    # Not by way of the gate, which lets no such container pass.
    host = os.environ["DOCKER_HOST"]
    proxy = ["docker", f"--host={host}", "run", "--rm", "--init", "--network=host"]
    proxy += ["--env=CONFIGPROXY_AUTH_TOKEN", os.environ["TORCHROOM_BENCH_PROXY_IMAGE"]]
    addresses = ADDRESSES.format(
        port=PORT,
        hub_port=HUB_PORT,
        proxy_api_port=PROXY_API_PORT,
        gateway=gateway,
        proxy=proxy,
        token=token,
    )
    config = folder / "jupyterhub_config.py"
    config.write_text(side.configuration + addresses, encoding="utf-8")
    hub = Hub(f"http://127.0.0.1:{PORT}/hub", token, folder / "hub.log")
    bin_dir = Path(sys.executable).parent
    with contextlib.ExitStack() as stack:
        environment = os.environ | _environment(side, folder)
        if side.is_gated:
            socket = host.removeprefix("unix://")
            before = gate(socket, folder, hub_id=HUB_ID, network=side.network)
            environment["DOCKER_HOST"] = stack.enter_context(before).host
        with hub.log.open("w") as log:
            process = subprocess.Popen(
                [str(bin_dir / "jupyterhub"), "-f", str(config)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_up(hub, process)
            yield hub
        finally:
            process.send_signal(signal.SIGKILL)  # it must not begin to stop servers
            process.wait(END_WITHIN_S)
            clean(engine)


def _environment(side: Side, folder: Path) -> dict[str, str]:
    gpus = Path(os.environ["TORCHROOM_TEST_GPU_DIR"]) / "simulation.json"
    simulated: dict[str, str] = json.loads(gpus.read_text())["environment"]
    return simulated | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TORCHROOM_DATA_DIR": str(folder),
        "TORCHROOM_USER_IMAGE": side.image,
        "TORCHROOM_NETWORK": side.network,
        "TORCHROOM_HUB_ID": HUB_ID,
        "TORCHROOM_WELCOME_DIR": str(ROOT / "welcome"),
    }


def _wait_up(hub: Hub, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{hub.url}/api/", timeout=5).ok:
                return
        time.sleep(0.2)
    tail = hub.log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"the hub did not come up; the end of its log:\n{tail}")


def clean(engine: docker.DockerClient) -> None:
    """Remove every container and volume of the run's own engine."""
    for container in engine.containers.list(all=True, ignore_removed=True):
        with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
            container.remove(force=True, v=True)
    for volume in engine.volumes.list():
        with contextlib.suppress(docker.errors.NotFound):
            volume.remove(force=True)
