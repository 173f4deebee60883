"""The kernel's tables, through the iptables that the engine itself uses."""

import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from torchroom.firewall.rules import DOCKER, Table, placed, placing, removing
from torchroom.firewall.settings import FirewallError

CALL_TIMEOUT_S = 20
BACKENDS = ("nft", "legacy")
JUMP_OF_DOCKER = f"-A FORWARD -j {DOCKER}"
CHAIN_OF_DOCKER = f":{DOCKER} "
FILTERS_BRIDGES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
IPV6 = Path("/proc/net/if_inet6")
RESOLV_CONF = Path("/etc/resolv.conf")
INTERFACES = Path("/sys/class/net")

NO_CHAIN = (
    "Docker has no chain DOCKER-USER here, so nothing can be opened: it runs without "
    "iptables (dockerd --iptables=false) or with its nftables backend. Let it use "
    "iptables, then restart it."
)
NOT_PERMITTED = (
    "Docker's rules are not in iptables-nft, and looking into iptables-legacy was not "
    "permitted. If `iptables --version` on the host says legacy, set "
    "TORCHROOM_FIREWALL_CAPABILITY=NET_RAW and run make up again; otherwise Docker "
    "runs without iptables, or with its nftables backend: let it use iptables."
)
UNFILTERED = (
    "traffic inside a bridge passes no firewall on this host: run modprobe "
    "br_netfilter and sysctl net.bridge.bridge-nf-call-iptables=1, and make both last."
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """iptables-save and -restore of one backend."""

    backend: str

    def saved(self, family: int) -> str:
        """Return all rules there are.

        Raises:
            FirewallError: iptables failed, or what passes inside a bridge does not
                pass these rules any more (a program set the kernel's switch back).
        """
        _check_bridges()
        return _run([_program(family, self.backend, "save")])

    def place(self, table: Table) -> tuple[str, ...]:
        """Put a table's rules in place, in one step; return how the kernel tells them.

        Raises:
            FirewallError: They could not be put in place.
        """
        self._restore(table, placing(table, self.saved(table.family)))
        found = placed(table, self.saved(table.family))
        if found is None:
            raise FirewallError(
                f"the rules in the table {table.name} do not stay as they were put; "
                "another program changes them."
            )
        return found

    def remove(self, table: Table) -> None:
        """Take a table's rules away.

        Raises:
            FirewallError: iptables failed.
        """
        self._restore(table, removing(table, self.saved(table.family)))

    def _restore(self, table: Table, text: str) -> None:
        program = _program(table.family, self.backend, "restore")
        _run([program, "--noflush"], text)


def of_engine() -> Kernel:
    """Return the kernel's tables in the backend that the engine uses.

    Raises:
        FirewallError: The engine does not filter with iptables, or inside bridges.
    """
    _check_bridges()
    saved: dict[Kernel, str] = {}
    why = NO_CHAIN
    for kernel in map(Kernel, BACKENDS):
        try:
            saved[kernel] = kernel.saved(4)
        except FirewallError:
            why = NOT_PERMITTED
            continue
        if is_of_docker(saved[kernel]):
            return kernel
    for kernel, text in saved.items():
        if is_of_docker(text, is_flushed=True):
            return kernel
    raise FirewallError(why)


def is_of_docker(saved: str, *, is_flushed: bool = False) -> bool:
    """Return whether Docker filters with these rules.

    Args:
        saved: What iptables-save printed.
        is_flushed: Be content with Docker's chain: another program may have flushed
            the jump to it, which we put back.
    """
    lines = saved.splitlines()
    if is_flushed:
        return any(line.startswith(CHAIN_OF_DOCKER) for line in lines)
    return JUMP_OF_DOCKER in lines


def has_ipv6() -> bool:
    """Return whether the host speaks IPv6."""
    return IPV6.exists()


def resolvers(file: Path = RESOLV_CONF) -> list[IPv4Address]:
    """Return the name servers that Docker asks for containers, without the loopback's.

    A container in the host's network gets the very list that Docker uses for others.
    Those on the loopback it asks from the host, so no rule is needed for them.
    """
    rows = (line.split() for line in file.read_text(errors="replace").splitlines())
    named = [row[1] for row in rows if row[:1] == ["nameserver"] and len(row) > 1]
    found = filter(None, map(_ipv4, named))
    return [address for address in found if not address.is_loopback]


def has_ports(bridge: str) -> bool:
    """Return whether any container is attached to a bridge."""
    folder = INTERFACES / bridge / "brif"
    return folder.is_dir() and any(folder.iterdir())


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _check_bridges() -> None:
    if not FILTERS_BRIDGES.exists() or FILTERS_BRIDGES.read_text().strip() != "1":
        raise FirewallError(UNFILTERED)


def _program(family: int, backend: str, what: str) -> str:
    return f"ip{'6' if family == 6 else ''}tables-{backend}-{what}"  # noqa: PLR2004


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            input=text,
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise FirewallError(f"{command[0]}: {said}")
    return done.stdout
