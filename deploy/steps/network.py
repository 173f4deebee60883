"""The users' servers' network: its addresses, and networks of an earlier shape."""

from __future__ import annotations

import hashlib
import os
from ipaddress import IPv4Network
from typing import Any

from toolbox.client import docker, docker_json, try_docker
from toolbox.console import Failure
from torchroom.firewall import settings as firewall

from steps.settings import Settings

SUBNET = "TORCHROOM_SUBNET"
DEFAULT = "10.117.0.0/20"
_LARGEST, _SMALLEST = 16, 24
_PRIVATE = [IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
_TODO = (
    f"give it a private network from /{_LARGEST} to /{_SMALLEST} that is used nowhere"
    f" else, like {DEFAULT}."
)
_OPTION = "com.docker.network.bridge."


def variables(settings: Settings) -> dict[str, str]:
    """The variables for compose: every address of the deployment in this network.

    The hub and the proxy have fixed ones in its first half; servers get theirs from
    the second, so none ever gets the hub's while the hub is away.
    """
    subnet = _subnet()
    try:
        firewall.read_internet(os.environ)
        firewall.read_allowed(os.environ.get(firewall.ALLOWED, ""))
    except firewall.FirewallError as error:
        raise Failure(
            str(error).rstrip("."), "correct it; see .env.example."
        ) from error
    digest = hashlib.sha256(settings.project.encode()).hexdigest()
    _, second = subnet.subnets()
    return {
        SUBNET: str(subnet),
        "TORCHROOM_GATEWAY_ADDRESS": str(subnet[1]),
        "TORCHROOM_HUB_ADDRESS": str(subnet[2]),
        "TORCHROOM_PROXY_ADDRESS": str(subnet[3]),
        "TORCHROOM_SERVERS_RANGE": str(second),
        "TORCHROOM_BRIDGE": f"tr-{digest[:8]}",
    }


def check(settings: Settings, wanted: dict[str, str]) -> None:
    """Refuse to go on with a network that has another shape than is wanted now."""
    for found in _found(settings):
        if not _is_shaped(found, settings.network, wanted):
            raise Failure(
                f"the servers' network {found['Name']} was made by an earlier version"
                " of Torchroom, or with other settings",
                "run `make down`, then `make up`: servers are stopped and the network"
                " is made anew; everything that users saved is kept.",
            )


def remove_left(settings: Settings) -> None:
    """Remove networks of this deployment that compose does not know any more."""
    for found in _found(settings):
        try_docker("network", "rm", found["Id"])


def _found(settings: Settings) -> list[dict[str, Any]]:
    labels = (
        f"label=com.docker.compose.project={settings.project}",
        "label=com.docker.compose.network=servers",
    )
    filters = [word for label in labels for word in ("--filter", label)]
    ids = docker("network", "ls", "--quiet", *filters).split()
    return [docker_json("network", "inspect", one) for one in ids]


def _is_shaped(found: dict[str, Any], name: str, wanted: dict[str, str]) -> bool:
    options = found.get("Options") or {}
    pools = (found.get("IPAM") or {}).get("Config") or [{}]
    return (
        found["Name"] == name
        and options.get(_OPTION + "name") == wanted["TORCHROOM_BRIDGE"]
        and options.get(_OPTION + "enable_icc") == "false"
        and options.get(_OPTION + "enable_ip_masquerade") == "false"
        and pools[0].get("Subnet") == wanted[SUBNET]
        and pools[0].get("IPRange") == wanted["TORCHROOM_SERVERS_RANGE"]
    )


def _subnet() -> IPv4Network:
    value = os.environ.get(SUBNET) or DEFAULT
    try:
        subnet = IPv4Network(value)
    except ValueError as error:
        raise Failure(f"{SUBNET} is {value!r}: {error}", _TODO) from error
    is_private = any(subnet.subnet_of(private) for private in _PRIVATE)
    if not (is_private and _LARGEST <= subnet.prefixlen <= _SMALLEST):
        raise Failure(f"{SUBNET} is {value}", _TODO)
    return subnet
