"""What the gate is told by its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchroom.gate.policy import Policy
from torchroom.settings import SettingError

HUB_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
ENGINE = "/var/run/docker.sock"
SOCKET = "/run/torchroom-engine/docker.sock"
# Where the kernel, the engine's socket and its data are: who has these has the machine.
CLOSED = re.compile(r"/(proc|sys|dev|run|var/(run|lib/(docker|containerd)))(/.*)?")
ABOVE_THEM = {"/var", "/var/lib"}
# Of those that engines hand out by default, what images that start as root may need.
CAPS = frozenset(
    {
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
        "SETGID", "SETUID",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Where the gate stands, and what it lets through.

    Attributes:
        engine: Path of the engine's socket.
        socket: Path of the gate's own.
        policy: See Policy.
    """

    engine: str
    socket: Path
    policy: Policy


def read(env: Mapping[str, str]) -> GateSettings:
    """Return the settings.

    Raises:
        SettingError: A value is missing or cannot be used.
    """
    hub_id = env.get("TORCHROOM_HUB_ID", "")
    if not HUB_ID.fullmatch(hub_id):
        raise SettingError(f"TORCHROOM_HUB_ID is {hub_id!r}; it is no hub's id.")
    network = env.get("TORCHROOM_NETWORK", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", network) or network in {
        "bridge",
        "default",
        "host",
        "none",
    }:
        raise SettingError(
            f"TORCHROOM_NETWORK is {network!r}; servers need a network of their own."
        )
    return GateSettings(
        engine=env.get("TORCHROOM_GATE_ENGINE") or ENGINE,
        socket=Path(env.get("TORCHROOM_GATE_SOCKET") or SOCKET),
        policy=Policy(
            hub_id=hub_id,
            network=network,
            caps=_caps(env),
            images=tuple(_words(env, "TORCHROOM_GATE_IMAGES")),
            mounts=tuple(_mount(word) for word in _words(env, "TORCHROOM_GATE_MOUNTS")),
        ),
    )


def _words(env: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in env.get(name, "").split(",") if word.strip()]


def _caps(env: Mapping[str, str]) -> frozenset[str]:
    name = "TORCHROOM_GATE_CAPS"
    found = {word.upper().removeprefix("CAP_") for word in _words(env, name)}
    if wrong := sorted(found - CAPS):
        raise SettingError(
            f"{name}: {wrong[0]} is not for servers; these are: "
            f"{', '.join(sorted(CAPS))}."
        )
    return frozenset(found)


def _mount(word: str) -> tuple[str, bool]:
    """Return a source and whether servers may write to it."""
    name = "TORCHROOM_GATE_MOUNTS"
    source, _, mode = word.partition(":")
    if mode not in {"", "ro", "rw"}:
        raise SettingError(f"{name}: {word} must end with :ro or :rw.")
    plain = re.fullmatch(r"/[\w.@ -]+(/[\w.@ -]+)*|[A-Za-z0-9][\w.-]+", source)
    if not plain or {".", ".."} & set(source.split("/")):
        raise SettingError(f"{name}: {source!r} is neither a host folder nor a volume.")
    if source in ABOVE_THEM or CLOSED.fullmatch(source):
        raise SettingError(
            f"{name}: {source} is the machine's own, and no server gets it; put what "
            "servers shall have elsewhere, like /srv/datasets."
        )
    return source, mode == "rw"
