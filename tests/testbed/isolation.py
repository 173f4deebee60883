"""The table of docs/isolation.md, and how to ask a container what it reaches."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from docker.models.containers import Container

from testbed.hub import execute

INTERNET = "192.31.196.7"  # public by IANA's registry, and nobody's: a sink for DNS
METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16")
LAN = "192.168.77.7"
LICENCES = "10.200.0.7"
LICENCE_PORT = 27000
POSTGRES, ENGINE, OTHER, WEB = 5432, 2375, 8099, 443


@dataclass(frozen=True)
class Case:
    """Something that a student's server may or may not reach.

    Attributes:
        what: As in the documentation.
        targets: Keys of what the test knows the addresses of.
        with_internet: Reached with TORCHROOM_INTERNET=open?
        without: And with none?
        from_: Who reaches it for certain, to prove that it is there: "hub", "bridge" (a
            container on Docker's own bridge), or "" for what must not even exist.
    """

    what: str
    targets: tuple[str, ...]
    with_internet: bool = False
    without: bool = False
    from_: str = "hub"


TABLE = (
    Case("the hub's API", ("hub-name", "hub-api"), True, True),
    Case("the token service", ("console",), True, True),
    Case("any other port of the hub", ("hub-other",)),
    Case("the hub by its other address", ("hub-inner",)),
    Case("another user's server", ("neighbour-name", "neighbour")),
    Case("the proxy in front of the hub", ("proxy-name", "proxy")),
    Case("the proxy's API", ("proxy-api",)),
    Case("the proxy's API by the servers' network", ("proxy-api-near",), from_=""),
    Case("a database beside the hub", ("database",)),
    Case("the host, at every address", ("gateway", "docker0", "host"), from_="bridge"),
    Case("an engine on a TCP port of the host", ("engine",), from_="bridge"),
    Case("another container of the engine", ("stranger",), from_="bridge"),
    Case("a cloud's metadata", METADATA, from_="bridge"),
    Case("private networks", (LAN,), from_="bridge"),
    Case(
        "a private address in `TORCHROOM_ALLOW_NETWORKS`",
        ("licences",),
        True,
        True,
        from_="bridge",
    ),
    Case("another port of that address", ("licences-other",), from_="bridge"),
    Case("the internet", (INTERNET,), with_internet=True, from_="bridge"),
    Case("anything by IPv6", ("ipv6",), from_=""),
)

ANSWERS_UDP = frozenset(
    {"hub-other", "database", "gateway", "docker0", "host", "engine", "stranger"}
    | {"licences", "licences-other", INTERNET, LAN, *METADATA}
)
"""Targets where something answers by UDP, too."""

PROBE = """
import json, socket, sys, threading
def ask(key, address, port, found):
    try:
        infos = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except OSError as error:
        found[key] = f"no such name: {error}"
        return
    family, kind, _, _, where = infos[0]
    with socket.socket(family, kind) as s:
        s.settimeout(4)
        try:
            s.connect(where)
            found[key] = "open"
        except OSError as error:
            found[key] = repr(error)
def udp(key, address, port, found):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(4)
        try:
            s.connect((address, port))
            s.send(b"?")
            s.recv(100)
            found["udp " + key] = "open"
        except OSError as error:
            found["udp " + key] = repr(error)
found = {}
threads = []
for key, (address, port) in json.loads(sys.argv[1]).items():
    threads.append(threading.Thread(target=ask, args=[key, address, port, found]))
    if address[:1].isdigit():
        threads.append(threading.Thread(target=udp, args=[key, address, port, found]))
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(found))
"""

Targets = dict[str, tuple[str, int]]


def reached(container: Container, targets: Targets) -> dict[str, str]:
    """Target -> "open", or the error, as a program in this container sees it."""
    command = ["python3", "-c", PROBE, json.dumps(targets)]
    status, printed = execute(container, command)
    assert status == 0, printed
    answer: dict[str, str] = json.loads(printed.splitlines()[-1])
    return answer


def address(container: Container, network: str) -> str:
    """A container's address in a network, by the end of the network's name."""
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    (found,) = (row for name, row in networks.items() if name.endswith(network))
    return str(found["IPAddress"])


def markdown(table: Iterable[Case] = TABLE) -> list[str]:
    """The table's rows as docs/isolation.md has them."""
    word = {True: "open", False: "closed"}
    return [
        f"| {case.what} | {word[case.with_internet]} | {word[case.without]} |"
        for case in table
    ]
