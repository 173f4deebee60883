"""What the firewall is told by its environment; wrong values are refused by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

HUB_API_PORT = 8081
CONSOLE_PORT = 8082
PORT_MAX = 65535
INTERNET = "TORCHROOM_INTERNET"
ALLOWED = "TORCHROOM_ALLOW_NETWORKS"
BRIDGE = re.compile(r"tr-([a-z0-9]{1,12})")  # with it an interface's name, 15 at most


class FirewallError(Exception):
    """The firewall cannot be put in place; a sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A private network that servers may reach; with a port, only this TCP port."""

    network: IPv4Network
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The servers' network, and what its servers may reach outside of it.

    Attributes:
        bridge: The network's interface on the host.
        subnet: All addresses of the network.
        hub: The hub's address in it.
        proxy: The proxy's.
        hub_ports: The hub's ports that servers need.
        has_internet: Whether they may reach the public internet.
        allowed: What else they may reach.
    """

    bridge: str
    subnet: IPv4Network
    hub: IPv4Address
    proxy: IPv4Address
    hub_ports: tuple[int, ...]
    has_internet: bool = True
    allowed: tuple[Allowed, ...] = ()

    @property
    def id(self) -> str:
        """What distinguishes this deployment's chains from another one's."""
        return self.bridge.partition("-")[2]


def read(env: Mapping[str, str]) -> Settings:
    """Return the settings.

    Raises:
        FirewallError: A value is missing or cannot be used.
    """
    bridge = env.get("TORCHROOM_BRIDGE", "")
    if not BRIDGE.fullmatch(bridge):
        raise FirewallError(
            f"TORCHROOM_BRIDGE is {bridge!r}; `make up` sets it to tr- and a name."
        )
    subnet = _network("TORCHROOM_SUBNET", env.get("TORCHROOM_SUBNET", ""))
    return Settings(
        bridge=bridge,
        subnet=subnet,
        hub=_address(env, "TORCHROOM_HUB_ADDRESS", subnet),
        proxy=_address(env, "TORCHROOM_PROXY_ADDRESS", subnet),
        hub_ports=(HUB_API_PORT, _console_port(env)),
        has_internet=read_internet(env),
        allowed=read_allowed(env.get(ALLOWED, "")),
    )


def read_internet(env: Mapping[str, str]) -> bool:
    """Return whether servers may reach the internet.

    Raises:
        FirewallError: As `read`.
    """
    value = env.get(INTERNET) or "open"
    if value not in {"open", "none"}:
        raise FirewallError(f"{INTERNET} is {value!r}; it must be open or none.")
    return value == "open"


def read_allowed(text: str) -> tuple[Allowed, ...]:
    """Return what a list like ``10.1.2.3:27000, 10.9.0.0/16`` allows.

    Raises:
        FirewallError: An entry is no IPv4 network, or its port none.
    """
    entries = (part for part in re.split(r"[,\s]+", text) if part)
    return tuple(_allowed(entry) for entry in entries)


def _allowed(entry: str) -> Allowed:
    network, colon, port = entry.partition(":")
    return Allowed(_network(ALLOWED, network), _port(ALLOWED, port) if colon else None)


def _console_port(env: Mapping[str, str]) -> int:
    name = "TORCHROOM_CONSOLE_PORT"
    value = env.get(name)
    return _port(name, value) if value else CONSOLE_PORT


def _port(name: str, value: str) -> int:
    is_number = value.isdecimal() and len(value) <= len(str(PORT_MAX))
    if not is_number or not 1 <= int(value) <= PORT_MAX:
        raise FirewallError(
            f"{name}: {value!r} is no port; a port is a number from 1 to {PORT_MAX}."
        )
    return int(value)


def _network(name: str, value: str) -> IPv4Network:
    try:
        return IPv4Network(value)
    except ValueError as error:
        raise FirewallError(
            f"{name}: {value!r} is no IPv4 network ({error}); write 10.1.2.3 or "
            "10.1.0.0/16."
        ) from error


def _address(env: Mapping[str, str], name: str, subnet: IPv4Network) -> IPv4Address:
    value = env.get(name, "")
    try:
        found = IPv4Address(value)
    except ValueError as error:
        raise FirewallError(f"{name} is {value!r}; `make up` sets it.") from error
    if found not in subnet:
        raise FirewallError(f"{name} is {value}, outside of TORCHROOM_SUBNET {subnet}.")
    return found
