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
        if attempt([path, "--version"], timeout=20).ok:
            return path
    raise Failure(
        "there is no Docker client on this machine",
        "install one: apt-get install docker.io (Debian, Ubuntu).",
    )


def can_build(path: str) -> bool:
    """Whether this client can build with BuildKit."""
    if attempt([path, "buildx", "version"], timeout=20).ok:
        return True
    found = re.search(r"version (\d+)\.", attempt([path, "--version"], timeout=20).out)
    return found is not None and int(found[1]) <= _LAST_WITH_BUILDKIT_INSIDE


@functools.cache
def building_client() -> str:
    """The client for builds."""
    for path in candidates():
        if can_build(path):
            return path
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
        raise Failure(f"`docker {args[0]}`: {result.last_words}", _advice(result))
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


def _advice(result: Result) -> str:
    text = result.err.lower()
    if "cannot connect" in text or "is the docker daemon running" in text:
        return "start the engine (`make up` does it on Debian and Ubuntu)."
    if "permission denied" in text:
        return "run this as root or as a member of the group `docker`."
    if "no space left" in text:
        return "free some disk space: `docker system df` shows who holds it."
    return ""
