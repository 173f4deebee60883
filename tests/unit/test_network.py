"""The addresses that `make up` gives, and networks that it refuses to go on with."""

import ipaddress
import os
from pathlib import Path

import pytest
from steps import network, settings
from toolbox.console import Failure
from torchroom.firewall import settings as firewall

NOWHERE = Path("/nonexistent")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in os.environ if name.startswith("TORCHROOM_")]
    for name in [*names, "COMPOSE_PROJECT_NAME"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def variables(**env: str) -> dict[str, str]:
    """What compose gets with these settings."""
    os.environ |= env
    return network.variables(settings.read(NOWHERE))


@pytest.mark.parametrize("subnet", ["", "10.9.0.0/16", "192.168.40.0/24"])
def test_every_address_has_its_place(subnet: str) -> None:
    """The deployment's are outside of what servers get; the firewall takes them all."""
    made = variables(TORCHROOM_SUBNET=subnet)
    whole = ipaddress.ip_network(made["TORCHROOM_SUBNET"])
    servers = ipaddress.ip_network(made["TORCHROOM_SERVERS_RANGE"])
    assert servers.num_addresses == whole.num_addresses // 2
    names = ("GATEWAY", "HUB", "PROXY")
    fixed = [ipaddress.ip_address(made[f"TORCHROOM_{n}_ADDRESS"]) for n in names]
    assert len(set(fixed)) == len(names)
    assert all(each in whole and each not in servers for each in fixed)
    assert firewall.read(made).subnet == whole


def test_deployments_have_bridges_of_their_own() -> None:
    first = variables()["TORCHROOM_BRIDGE"]
    second = variables(COMPOSE_PROJECT_NAME="another")["TORCHROOM_BRIDGE"]
    assert first != second
    assert max(len(first), len(second)) <= 15  # an interface's name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCHROOM_SUBNET", "10.9.0.1/16"),
        ("TORCHROOM_SUBNET", "10.0.0.0/8"),
        ("TORCHROOM_SUBNET", "10.9.0.0/25"),
        ("TORCHROOM_SUBNET", "8.8.0.0/16"),
        ("TORCHROOM_SUBNET", "169.254.0.0/16"),
        ("TORCHROOM_SUBNET", "127.9.0.0/16"),
        ("TORCHROOM_SUBNET", "fd00::/64"),
        ("TORCHROOM_INTERNET", "perhaps"),
        ("TORCHROOM_ALLOW_NETWORKS", "mirror.example.org"),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Failure, match=name) as raised:
        variables(**{name: value})
    assert raised.value.todo
