"""Reads the machine: driver, toolkit, CDI files, disks, clock. Changes nothing."""

import ctypes
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchroom.doctor.engine import EngineSilent, read_engine
from torchroom.doctor.model import CdiSpec, Disk, Driver, Engine, Gpu, Machine
from torchroom.doctor.versions import parse

WITHIN_S = 30.0
NVIDIA, DISPLAY = "0x10de", ("0x0300", "0x0302")  # PCI vendor; VGA and 3D controllers
CDI_DIRS = ("etc/cdi", "var/run/cdi")
TOOLKIT_CONFIG = "etc/nvidia-container-runtime/config.toml"
ACCEPTS_ENV = "accept-nvidia-visible-devices-envvar-when-unprivileged"
UID, HUB_UID = 2, "1000"  # field of passwd(5); the hub's user in its image
BRIDGE_FILTER = "proc/sys/net/bridge/bridge-nf-call-iptables"
PORT_OPEN, LISTENS = "0947", "0A"  # 2375 and TCP_LISTEN as /proc/net/tcp writes them
UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR
TIMEX_BYTES = 512  # more than any struct timex
_QUERY = "--query-gpu=uuid,name,persistence_mode,driver_version"
_N_FIELDS = 4
_DEVICE = re.compile(r'"?\bname"?:\s*"?([\w.:-]+)')
_LIBRARY = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)?)")


def read_machine(
    env: Mapping[str, str], root: Path = Path("/"), *, is_host: bool = False
) -> Machine:
    """Return what can be read here; what cannot is None.

    Args:
        env: Of the deployment.
        root: Where the machine's files are.
        is_host: This is surely no container, whatever it looks like.
    """
    is_container = not is_host and (root / ".dockerenv").exists()
    engine, engine_error = _engine(env)
    return Machine(
        is_container=is_container,
        n_pci_gpus=_count_gpus(root / "sys/bus/pci/devices"),
        driver=_driver(),
        toolkit=_toolkit(is_container=is_container),
        accepts_env=_accepts_env(root / TOOLKIT_CONFIG),
        cdi=None if is_container else _cdi(root),
        has_char_links=None if is_container else any((root / "dev/char").glob("195:*")),
        engine=engine,
        engine_error=engine_error,
        is_engine_open=None if is_container else _is_engine_open(root),
        disks=_disks(env, engine, is_container=is_container),
        is_clock_synchronised=_is_clock_synchronised(),
        filters_bridges=_filters_bridges(root / BRIDGE_FILTER),
        namesake=None if is_container else _namesake(root / "etc/passwd"),
    )


def _engine(env: Mapping[str, str]) -> tuple[Engine | None, str]:
    try:
        return read_engine(env), ""
    except EngineSilent as error:
        return None, str(error)


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Return exit status and output; 127 if there is no such program."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WITHIN_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return 127, ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, str(error)
    return done.returncode, done.stdout.strip() or done.stderr.strip()


# -- GPUs ----------------------------------------------------------------------------


def _count_gpus(devices: Path) -> int | None:
    if not devices.is_dir():
        return None
    return sum(
        _text(device / "vendor") == NVIDIA
        and _text(device / "class").startswith(DISPLAY)
        for device in devices.iterdir()
    )


def _driver() -> Driver:
    status, said = _run(["nvidia-smi", _QUERY, "--format=csv,noheader"])
    if status == 127:  # noqa: PLR2004 - no such program
        return Driver(None)
    lines = [line.split(", ") for line in said.splitlines()]
    if status or any(len(fields) != _N_FIELDS for fields in lines):
        return Driver(None, error=said.splitlines()[0] if said else f"status {status}.")
    states = {"Enabled": True, "Disabled": False}
    gpus = tuple(Gpu(uuid, name, states.get(mode)) for uuid, name, mode, _ in lines)
    return Driver(lines[0][3] if lines else None, gpus)


def _toolkit(*, is_container: bool) -> str | None:
    for command in (["nvidia-ctk", "--version"], ["nvidia-container-cli", "-V"]):
        status, said = _run(command)
        if status == 0:
            found = parse(said)
            return ".".join(map(str, found)) if found else said[:80]
    return None if is_container else ""


def _accepts_env(config: Path) -> bool | None:
    if not config.exists():
        return None
    try:
        found = tomllib.loads(_text(config)).get(ACCEPTS_ENV, True)
    except tomllib.TOMLDecodeError:
        return None
    return found is True


def _cdi(root: Path) -> tuple[CdiSpec, ...]:
    files = [f for name in CDI_DIRS for f in sorted((root / name).glob("*"))]
    found = {file: _text(file) for file in files if file.suffix in {".yaml", ".json"}}
    return tuple(
        CdiSpec(
            str(file),
            frozenset(_DEVICE.findall(text)),
            frozenset(_LIBRARY.findall(text)),
        )
        for file, text in found.items()
        if "nvidia.com/gpu" in text
    )


# -- the rest of the machine ---------------------------------------------------------


def _is_engine_open(root: Path) -> bool | None:
    tables = [_text(root / "proc/net" / name) for name in ("tcp", "tcp6")]
    if not any(tables):
        return None
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[1].endswith(f":{PORT_OPEN}") and row[3] == LISTENS for row in rows)


def _namesake(passwd: Path) -> str | None:
    rows = [line.split(":") for line in _text(passwd).splitlines()]
    names = [row[0] for row in rows if len(row) > UID and row[UID] == HUB_UID]
    return (names[0] if names else "") if rows else None


def _filters_bridges(setting: Path) -> bool | None:
    said = _text(setting)
    return said == "1" if said else None  # the engine loads what has this setting


def _disks(
    env: Mapping[str, str], engine: Engine | None, *, is_container: bool
) -> tuple[Disk, ...]:
    places = {"the hub's data": env.get("TORCHROOM_DATA_DIR", "")}
    if engine and not is_container:
        places["images and homes"] = engine.root_dir
    found = []
    for what, path in places.items():
        try:
            if path:
                found.append(_disk(what, path))
        except OSError:
            continue  # unknown: a container's path, or not to be seen by this user
    return tuple(found)


def _disk(what: str, path: str) -> Disk:
    there = os.statvfs(path)
    usage = shutil.disk_usage(path)
    inodes = there.f_favail if there.f_files else None
    return Disk(what, path, usage.free, usage.total, inodes)


def _is_clock_synchronised() -> bool | None:
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # all zero: only read
    return None if state < 0 else state != UNSYNCHRONISED


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
