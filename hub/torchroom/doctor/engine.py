"""Reads the container engine over its unix socket: the only file here that does."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from torchroom.doctor.model import Container, Engine

DEFAULT = "/var/run/docker.sock"
ANSWERS_WITHIN_S = 10.0
CUDA = "org.torchroom.cuda"
ICC = "com.docker.network.bridge.enable_icc"


class EngineSilent(Exception):
    """The engine did not answer; the text says why, with a full stop."""


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWERS_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def read_engine(env: Mapping[str, str]) -> Engine:
    """Return what the engine says of itself and of this deployment's containers.

    Args:
        env: DOCKER_HOST names its socket; COMPOSE_PROJECT_NAME or TORCHROOM_HUB_ID
            the deployment; TORCHROOM_USER_IMAGE the users' image.

    Raises:
        EngineSilent: It did not answer.
    """
    path = _socket(env.get("DOCKER_HOST", ""))
    info = _get(path, "/info")
    if not isinstance(info, dict):
        raise EngineSilent(f"{path}: what answers there is no container engine.")
    devices = info.get("DiscoveredDevices")
    return Engine(
        version=str(info.get("ServerVersion", "")),
        is_podman="Podman" in str(_get(path, "/version")),
        system=str(info.get("OperatingSystem", "")),
        default_runtime=str(info.get("DefaultRuntime", "")),
        runtimes=frozenset(info.get("Runtimes") or {}),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        cdi_devices=None
        if devices is None
        else frozenset(str(device.get("ID", "")) for device in devices),
        root_dir=str(info.get("DockerRootDir", "")),
        security=tuple(map(str, info.get("SecurityOptions") or ())),
        warnings=tuple(map(str, info.get("Warnings") or ())),
        containers=_containers(path, env),
        is_network_closed=_is_network_closed(path, env),
        image_cuda=_image_cuda(path, env.get("TORCHROOM_USER_IMAGE", "")),
    )


def _project(env: Mapping[str, str]) -> str:
    """Return the deployment's name, on the host and in the hub's container."""
    return env.get("COMPOSE_PROJECT_NAME") or env.get("TORCHROOM_HUB_ID") or "torchroom"


def _image_cuda(path: str, image: str) -> str | None:
    try:
        found = _get(path, f"/images/{quote(image, safe='/:@')}/json")
        return str((found["Config"]["Labels"] or {}).get(CUDA, ""))
    except (EngineSilent, KeyError, TypeError):
        return None


def _is_network_closed(path: str, env: Mapping[str, str]) -> bool | None:
    labels = [f"com.docker.compose.project={_project(env)}"]
    labels.append("com.docker.compose.network=servers")
    try:
        found = _get(path, f"/networks?filters={quote(json.dumps({'label': labels}))}")
        options = [network["Options"] or {} for network in found]
    except (EngineSilent, KeyError, TypeError):
        return None
    return all(o.get(ICC) == "false" for o in options) if options else None


def _containers(path: str, env: Mapping[str, str]) -> tuple[Container, ...] | None:
    project = _project(env)
    try:
        services = _list(path, f"com.docker.compose.project={project}")
        servers = _list(path, f"gpuspawner.hub={project}")
        return (
            *(_service(row) for row in services),
            *(_server(path, row) for row in servers if row["State"] == "running"),
        )
    except (EngineSilent, KeyError, TypeError, IndexError):
        return None


def _list(path: str, label: str) -> list[Any]:
    filters = quote(json.dumps({"label": [label]}))
    found = _get(path, f"/containers/json?all=1&filters={filters}")
    return found if isinstance(found, list) else []


def _service(row: Mapping[str, Any]) -> Container:
    status = str(row["Status"])
    known = ("unhealthy", "healthy", "starting")
    return Container(
        name=str(row["Names"][0]).lstrip("/"),
        service=str(row["Labels"]["com.docker.compose.service"]),
        state=str(row["State"]),
        health=next((word for word in known if f"{word})" in status), ""),
    )


def _server(path: str, row: Mapping[str, Any]) -> Container:
    found = _get(path, f"/containers/{row['Id']}/json")
    return Container(
        name=str(row["Names"][0]).lstrip("/"),
        shm_bytes=int(found["HostConfig"]["ShmSize"]),
    )


def _socket(host: str) -> str:
    if not host:
        return DEFAULT
    if not host.startswith("unix://"):
        raise EngineSilent(f"DOCKER_HOST is {host!r}; only unix:// can be looked at.")
    return host.removeprefix("unix://")


def _get(path: str, target: str) -> Any:
    connection = _Unix(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise EngineSilent(f"{target.partition('?')[0]} answers {answer.status}.")
        return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise EngineSilent(f"{path}: {why}.") from error
    finally:
        connection.close()
