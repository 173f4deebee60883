"""Reads the machine: driver, toolkit, CDI files, disks, clock. Changes nothing."""

import contextlib
import ctypes
import os
import re
import shutil
import socket
import struct
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from torchroom.doctor.engine import EngineSilent, read_engine
from torchroom.doctor.model import CdiSpec, Disk, Driver, Engine, Gpu, Machine, Route
from torchroom.doctor.versions import parse
from torchroom.uids import GATE, HUB

WITHIN_S = 30.0
NVIDIA, DISPLAY = "0x10de", ("0x0300", "0x0302")  # PCI vendor; VGA and 3D controllers
PASSED_ON = "vfio-pci"  # the driver of devices that virtual machines have
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
CDI_DIRS = ("etc/cdi", "var/run/cdi")
TOOLKIT_CONFIG = "etc/nvidia-container-runtime/config.toml"
ACCEPTS_ENV = "accept-nvidia-visible-devices-envvar-when-unprivileged"
BRIDGE_FILTER = "proc/sys/net/bridge/bridge-nf-call-iptables"
PORT_OPEN, LISTENS = "0947", "0A"  # 2375 and TCP_LISTEN as /proc/net/tcp writes them
UNSYNCHRONISED = 5  # adjtimex(2): TIME_ERROR
TIMEX_BYTES = 512  # more than any struct timex
GETENT_LACKS_SOME = 2  # exit status of getent(1)
NO_PROGRAM, NO_ANSWER = 127, 126
ENGINE_DEFAULT = "/var/lib"  # where Docker will keep images when nobody says otherwise
_QUERY = "--query-gpu=uuid,name,persistence_mode,driver_version,mig.mode.current"
_N_FIELDS = 5
_LISTED = re.compile(r"UUID: ((?:GPU|MIG)-[\w/-]+)")
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
    config = _toolkit_config(root / TOOLKIT_CONFIG)
    return Machine(
        is_container=is_container,
        n_pci_gpus=_count_gpus(root / "sys/bus/pci/devices"),
        is_secure_boot=_is_secure_boot(root / SECURE_BOOT),
        driver=_driver(_module(root), is_container=is_container),
        toolkit=_toolkit(is_container=is_container),
        accepts_env=None if config is None else config.get(ACCEPTS_ENV, True) is True,
        sets_cgroups=None if config is None else _sets_cgroups(config),
        cdi=None if is_container else _cdi(root),
        engine=engine,
        engine_error=engine_error,
        is_engine_open=None if is_container else _is_engine_open(root),
        disks=_disks(env, engine, is_container=is_container),
        is_clock_synchronised=_is_clock_synchronised(),
        filters_bridges=_filters_bridges(root / BRIDGE_FILTER),
        has_vsock=_has_vsock(root / "proc/net/protocols"),
        namesake=None if is_container else _namesake(),
        routes=None if is_container else _routes(root / "proc/net/route"),
    )


def _engine(env: Mapping[str, str]) -> tuple[Engine | None, str]:
    try:
        return read_engine(env), ""
    except EngineSilent as error:
        return None, str(error)


def run(command: Sequence[str], within_s: float = WITHIN_S) -> tuple[int, str]:
    """Return exit status and output of a program, or NO_PROGRAM or NO_ANSWER.

    A program that hangs is killed and left alone: one that waits for a broken GPU
    does not even end then.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return NO_PROGRAM, ""
    except OSError as error:
        return NO_ANSWER, f"{command[0]}: {error.strerror}."
    try:
        out, err = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return NO_ANSWER, f"{command[0]} gave no answer within {within_s:.0f} s."
    return process.returncode, out.strip() or err.strip()


# -- GPUs ----------------------------------------------------------------------------


def _count_gpus(devices: Path) -> int | None:
    if not devices.is_dir():
        return None
    return sum(
        _text(device / "vendor") == NVIDIA
        and _text(device / "class").startswith(DISPLAY)
        and (device / "driver").resolve().name != PASSED_ON
        for device in devices.iterdir()
    )


def _module(root: Path) -> str:
    if (root / "proc/driver/nvidia/version").exists():
        return "nvidia"
    return "nouveau" if (root / "sys/module/nouveau").is_dir() else ""


def _is_secure_boot(variable: Path) -> bool | None:
    try:
        return variable.read_bytes()[4:] == b"\x01"  # after four bytes of attributes
    except FileNotFoundError:
        return False  # started without UEFI
    except OSError:
        return None


def _driver(module: str, *, is_container: bool) -> Driver | None:
    status, said = run(["nvidia-smi", _QUERY, "--format=csv,noheader"])
    if status == NO_PROGRAM:
        return None if is_container else Driver(None, module=module)
    lines = [line.split(", ") for line in said.splitlines()]
    if status or any(len(fields) != _N_FIELDS for fields in lines):
        words = said.splitlines()[0].rstrip(".") if said else f"status {status}"
        return Driver(None, error=f"{words}.", module=module)
    states = {"Enabled": True, "Disabled": False}
    split = {fields[0] for fields in lines if states.get(fields[4])}
    parts = _instances() if split else {}
    gpus = tuple(
        Gpu(
            uuid, name, states.get(mode), parts.get(uuid, ()) if uuid in split else None
        )
        for uuid, name, mode, _, _ in lines
    )
    return Driver(lines[0][3] if lines else None, gpus, module=module)


def _instances() -> dict[str, tuple[str, ...]]:
    """Return the MIG instances of each GPU: nvidia-smi lists them below it."""
    _, said = run(["nvidia-smi", "-L"])
    found: dict[str, tuple[str, ...]] = {}
    gpu = ""
    for uuid in _LISTED.findall(said):
        if uuid.startswith("GPU-"):
            gpu = uuid
        else:
            found[gpu] = (*found.get(gpu, ()), uuid)
    return found


def _toolkit(*, is_container: bool) -> str | None:
    for command in (["nvidia-ctk", "--version"], ["nvidia-container-cli", "-V"]):
        status, said = run(command)
        if status == 0:
            found = parse(said)
            return ".".join(map(str, found)) if found else said[:80]
    return None if is_container else ""


def _toolkit_config(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError:
        return None


def _sets_cgroups(config: Mapping[str, Any]) -> bool:
    section = config.get("nvidia-container-cli")
    return not (isinstance(section, dict) and section.get("no-cgroups") is True)


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


def _namesake() -> str | None:
    # It knows people of a directory as well, not only those in /etc/passwd.
    status, said = run(["getent", "passwd", str(HUB), str(GATE)])
    if status not in {0, GETENT_LACKS_SOME}:
        return None
    return said.partition(":")[0]


def _routes(table: Path) -> tuple[Route, ...] | None:
    rows = [line.split() for line in _text(table).splitlines()[1:]]
    found = []
    for row in rows:
        with contextlib.suppress(ValueError, IndexError, struct.error):
            network = IPv4Network(f"{_address(row[1])}/{_address(row[7])}")
            if network.prefixlen:  # the default route leads to everybody
                found.append(Route(network, row[0]))
    return tuple(found) if rows else None


def _address(word: str) -> str:
    """Return an address as /proc/net/route writes it, in this machine's byte order."""
    return socket.inet_ntoa(struct.pack("=I", int(word, 16)))


def _filters_bridges(setting: Path) -> bool | None:
    said = _text(setting)
    return said == "1" if said else None  # the engine loads what has this setting


def _has_vsock(protocols: Path) -> bool | None:
    said = _text(protocols)
    return "AF_VSOCK" in said if said else None


def _disks(
    env: Mapping[str, str], engine: Engine | None, *, is_container: bool
) -> tuple[Disk, ...]:
    places = {"the hub's data": env.get("TORCHROOM_DATA_DIR", "")}
    if not is_container:
        places["images and homes"] = engine.root_dir if engine else ENGINE_DEFAULT
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
