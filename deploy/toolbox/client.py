"""Finding a Docker client: one that talks to the engine, and one that can build.

A machine may have several clients, and the first on PATH may lack buildx, without which
a client from version 23 on cannot build. Clients before that have BuildKit built in.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from toolbox.command import Result, attempt
from toolbox.console import Failure

_LAST_WITH_BUILDKIT_INSIDE = 22
_ELSEWHERE = ("/usr/bin", "/usr/local/bin")
DEFAULT_SOCKET = "/var/run/docker.sock"


def candidates() -> list[str]:
    """Every Docker client that may be here, the preferred one first."""
    folders = [*os.get_exec_path(), *_ELSEWHERE]
    found = [os.environ.get("TORCHROOM_DOCKER", ""), *(f"{d}/docker" for d in folders)]
    usable = [path for path in found if path and os.access(path, os.X_OK)]
    return list(
        {str(Path(path).resolve()): path for path in reversed(usable)}.values()
    )[::-1]


@functools.cache
def client() -> str:
    """The client for everything but builds."""
    for path in candidates():
        if _version(path):
            return path
    if candidates():
        raise Failure(
            f"{candidates()[0]} is Podman, or nothing that is Docker's",
            "remove it (apt-get remove podman-docker); `make up` then installs Docker.",
        )
    raise Failure(
        "there is no Docker client on this machine",
        "install one: apt-get install docker.io (Debian, Ubuntu).",
    )


def can_build(path: str) -> bool:
    """Whether this client can build with BuildKit."""
    version = _version(path)
    if version and attempt([path, "buildx", "version"], timeout=20).ok:
        return True
    return 0 < version <= _LAST_WITH_BUILDKIT_INSIDE


def _version(path: str) -> int:
    """The major version of a Docker client, 0 if it is none."""
    said = attempt([path, "--version"], timeout=20).out
    found = re.match(r"Docker version (\d+)\.", said)
    return int(found[1]) if found else 0


@functools.cache
def building_client() -> str:
    """The client for builds."""
    for path in candidates():
        if can_build(path):
            return path
    client()  # says so if there is none at all
    raise Failure(
        "no Docker client here can build images (BuildKit is missing)",
        "install buildx: apt-get install docker-buildx (Debian 13, Ubuntu) or"
        " docker-buildx-plugin (Docker's packages), or name another client in"
        " TORCHROOM_DOCKER.",
    )


def forget_clients() -> None:
    """Look again: something was installed."""
    client.cache_clear()
    building_client.cache_clear()


def try_docker(*args: str, stdin: str = "", timeout: float | None = 120) -> Result:
    """Run the client and return how it ended."""
    return attempt([client(), *args], stdin=stdin, timeout=timeout)


def docker(*args: str, stdin: str = "", timeout: float | None = 120) -> str:
    """Run the client; a failure is a sentence."""
    result = try_docker(*args, stdin=stdin, timeout=timeout)
    if not result.ok:
        raise Failure(f"`docker {args[0]}`: {result.last_words}", advice(result.err))
    return result.out.strip()


def docker_json(*args: str) -> Any:
    """Run the client with a JSON format and return what it printed."""
    return json.loads(docker(*args, "--format", "{{json .}}"))


def image_exists(name: str) -> bool:
    """Whether the engine has this image."""
    return try_docker("image", "inspect", name).ok


def socket_path() -> Path:
    """The engine's socket, from DOCKER_HOST."""
    host = os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    if not host.startswith("unix://"):
        raise Failure(
            f"DOCKER_HOST is {host}, and the hub needs an engine on this machine",
            "set DOCKER_HOST to a unix:// socket, or unset it.",
        )
    return Path(host.removeprefix("unix://"))


def engine_answers() -> bool:
    """Whether the engine answers at all."""
    return try_docker("version", "--format", "{{.Server.Version}}", timeout=20).ok


def advice(said: str) -> str:
    """What to do about what a client or a build said; nothing if that is not known."""
    text = said.lower()
    if "cannot connect" in text or "is the docker daemon running" in text:
        return "start the engine (`make up` does it on Debian and Ubuntu)."
    if "permission denied" in text:
        return "run this as root or as a member of the group `docker`."
    if "no space left" in text:
        return "free some disk space: `docker system df` shows what the engine holds."
    return ""
