"""The Docker engine: found, or installed and started where that is possible."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from toolbox import machine
from toolbox.client import (
    DEFAULT_SOCKET,
    building_client,
    candidates,
    docker,
    engine_answers,
    forget_clients,
    socket_path,
    try_docker,
)
from toolbox.command import attempt
from toolbox.console import Failure, say
from toolbox.places import state_dir
from torchroom.doctor.engine import EngineSilent, read_engine
from torchroom.doctor.machine_checks import check_engine
from torchroom.doctor.model import Level, Machine

_INSTALL = ("docker.io", "iptables")
_SECONDS_TO_START = 40


def ensure() -> str:
    """Make sure an engine answers and images can be built; return its version."""
    if not candidates() or not engine_answers():
        _get_one()
    try:
        building_client()
    except Failure:
        if not machine.can_install():
            raise
        machine.install("docker-buildx")
        forget_clients()
        building_client()
    _refuse_unfit()
    return docker("version", "--format", "{{.Server.Version}}")


def _refuse_unfit() -> None:
    """Fail if the doctor says that servers cannot run on this engine."""
    try:
        found = Machine(engine=read_engine(os.environ))
    except EngineSilent as error:
        found = Machine(engine_error=str(error))
    finding = check_engine(found)
    if finding.level is Level.FAIL:
        raise Failure(finding.says.rstrip("."), finding.fix)


def _get_one() -> None:
    if candidates() and "permission denied" in try_docker("version").err.lower():
        raise Failure(
            "this user may not talk to the Docker engine",
            "run this as root, or join the group `docker` and log in again.",
        )
    if str(socket_path()) not in {DEFAULT_SOCKET, "/run/docker.sock"}:
        raise Failure(
            f"no engine answers at {socket_path()} (DOCKER_HOST)",
            "start that engine, or unset DOCKER_HOST.",
        )
    if not shutil.which("dockerd"):
        if not machine.can_install():
            raise Failure(
                "no Docker engine runs on this machine",
                "install and start one, as root: apt-get install docker.io (Debian,"
                " Ubuntu), or follow https://docs.docker.com/engine/install/",
            )
        machine.install(*_INSTALL)
        forget_clients()
    if not engine_answers():
        start()


def start(path_first: str = "") -> None:
    """Start the engine, by the service manager or as a process of its own."""
    if os.geteuid() != 0:
        raise Failure(
            "the Docker engine does not run", "start it: sudo systemctl start docker"
        )
    if Path("/run/systemd/system").is_dir() and not path_first:
        attempt(["systemctl", "start", "docker"], timeout=60)
    else:
        _spawn(path_first)
    deadline = time.monotonic() + _SECONDS_TO_START
    while not engine_answers():
        if time.monotonic() > deadline:
            raise Failure(
                f"the Docker engine did not come up within {_SECONDS_TO_START} s",
                f"see {_log()} (or `journalctl -u docker`).",
            )
        time.sleep(0.5)


def _spawn(path_first: str) -> None:
    say("    starting dockerd (no service manager runs here)")
    state_dir().mkdir(parents=True, exist_ok=True)
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = ":".join(p for p in (path_first, os.environ.get("PATH", ""), usual) if p)
    with _log().open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    _pid_file().write_text(f"{process.pid}\n", encoding="utf-8")


def restart(path_first: str) -> None:
    """Restart the engine that `make up` started, with a folder first on its PATH."""
    pid = ours()
    if not pid:
        raise Failure("the engine was not started by `make up`", "restart it yourself.")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _SECONDS_TO_START
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with suppress(ChildProcessError):  # only a child when it was started just now
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.2)
    start(path_first)


def ours() -> int:
    """The process of an engine that `make up` started and that still runs, or 0."""
    with suppress(OSError, ValueError):
        pid = int(_pid_file().read_text(encoding="utf-8"))
        if pid == serving_process():
            return pid
    return 0


def serving_process() -> int:
    """The process that listens on the engine's socket, as the kernel tells it, or 0."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path()))
        size = struct.calcsize("3i")
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", peer)[0])
    return 0


def finds(program: str) -> bool | None:
    """Whether the engine has a program on its PATH; None when that cannot be known."""
    try:
        raw = Path(f"/proc/{serving_process()}/environ").read_bytes()
    except OSError:
        return None
    settings = dict(s.split("=", 1) for s in raw.decode().split("\0") if "=" in s)
    return shutil.which(program, path=settings.get("PATH", os.defpath)) is not None


def _log() -> Path:
    return state_dir() / "dockerd.log"


def _pid_file() -> Path:
    return state_dir() / "dockerd.pid"
