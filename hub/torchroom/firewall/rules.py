"""Which rules there must be, and what the kernel has of them. Pure.

Four chains: OUT for what comes out of the servers' bridge (hub and proxy are on it,
too), IN for what comes into it from elsewhere, HOST for what is meant for the host
itself, NAT for the way out. Built-in chains get one jump to each, in front. A rule that
RETURNs leaves the decision to Docker's own rules and to the host's.

OUT and IN are entered from DOCKER-USER. That chain and the jump to it are Docker's, but
without them, or with a rule before the jump, nothing of ours decides: it must lead, and
both are put back.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from torchroom.firewall.settings import Allowed, Settings

OURS = "TORCHROOM-"
DOCKER = "DOCKER-USER"
REFUSED = "-j REJECT --reject-with icmp-admin-prohibited"
# By direction, too: what a server began while a rule was missing does not go on.
REPLIES = "-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY"

METADATA = (
    "169.254.0.0/16",  # AWS, Azure, Google, OpenStack, Oracle, and all of link-local
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure's host
    "192.0.0.192/32",  # Oracle, older
)
"""Where a cloud tells a machine its secrets. Nothing opens these."""

NOT_PUBLIC = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""What is not the internet, by IANA's registry of special addresses."""


@dataclass(frozen=True, slots=True)
class Jump:
    """One rule in a chain that is not ours; in front of all others, if it must lead.

    One that is not ours is put back, but not taken away with ours.
    """

    chain: str
    match: str
    target: str
    must_lead: bool = True
    is_ours: bool = True

    def __str__(self) -> str:
        """As iptables-save prints it after the chain's name."""
        return f"{self.match} -j {self.target}".lstrip()


@dataclass(frozen=True, slots=True)
class Table:
    """Our part of one of the kernel's tables.

    Attributes:
        family: 4 or 6, of the Internet Protocol.
        name: "filter" or "nat".
        chains: Our chains -> their rules, in order.
        jumps: The rules that lead into them.
    """

    family: int
    name: str
    chains: dict[str, tuple[str, ...]]
    jumps: tuple[Jump, ...]

    @property
    def key(self) -> tuple[int, str]:
        """What distinguishes it."""
        return self.family, self.name


def tables(
    settings: Settings, resolvers: Sequence[IPv4Address], *, has_ipv6: bool
) -> tuple[Table, ...]:
    """Return all that must be in the kernel.

    Args:
        settings: See there.
        resolvers: The name servers that Docker asks for containers. It asks from inside
            the container, so they must be reachable, wherever they are.
        has_ipv6: Whether the host speaks IPv6 at all. The servers' network does not.
    """
    bridge, prefix = settings.bridge, f"{OURS}{settings.id}"
    out, into, host, nat = (f"{prefix}-{x}" for x in ("OUT", "IN", "HOST", "NAT"))
    found = [
        Table(
            4,
            "filter",
            {
                out: tuple(_out(settings, resolvers)),
                into: tuple(_into()),
                host: tuple(_host(settings, resolvers)),
            },
            (
                Jump("FORWARD", "", DOCKER, is_ours=False),
                Jump(DOCKER, f"-i {bridge}", out),
                Jump(DOCKER, f"-o {bridge}", into),
                Jump("INPUT", f"-i {bridge}", host),
            ),
        ),
        Table(
            4,
            "nat",
            {nat: tuple(_nat(settings))},
            # Docker puts its own in front; they are about other networks.
            (Jump("POSTROUTING", "", nat, must_lead=False),),
        ),
    ]
    if has_ipv6:
        ends = (("FORWARD", "-i"), ("FORWARD", "-o"), ("INPUT", "-i"))
        jumps = tuple(Jump(chain, f"{end} {bridge}", out) for chain, end in ends)
        found.append(Table(6, "filter", {out: ("-j DROP",)}, jumps))
    return tuple(found)


def _out(settings: Settings, resolvers: Sequence[IPv4Address]) -> Iterator[str]:
    inside = f"-o {settings.bridge}"
    yield f"{inside} {REPLIES} -j ACCEPT"
    for deployment in (settings.proxy, settings.hub):
        yield f"-s {deployment}/32 {inside} -j ACCEPT"
    for port in settings.hub_ports:
        yield f"-d {settings.hub}/32 {inside} -p tcp -m tcp --dport {port} -j ACCEPT"
    yield f"{inside} {REFUSED}"  # other servers, other ports of the hub, the proxy
    for deployment in (settings.proxy, settings.hub):
        yield f"-s {deployment}/32 -j RETURN"
    yield from _names(settings, resolvers)
    yield from (f"-d {network} {REFUSED}" for network in METADATA)
    yield from (f"{_to(allowed)} -j RETURN" for allowed in settings.allowed)
    if settings.has_internet:
        yield from (f"-d {network} {REFUSED}" for network in NOT_PUBLIC)
    else:
        yield REFUSED


def _into() -> Iterator[str]:
    yield f"{REPLIES} -j RETURN"
    yield "-j DROP"  # who asks at the proxy's published port is the host itself


def _host(settings: Settings, resolvers: Sequence[IPv4Address]) -> Iterator[str]:
    yield f"{REPLIES} -j RETURN"  # what the host itself began
    for deployment in (settings.proxy, settings.hub):
        yield f"-s {deployment}/32 -j RETURN"
    yield from _names(settings, resolvers)
    yield REFUSED


def _names(settings: Settings, resolvers: Iterable[IPv4Address]) -> Iterator[str]:
    if not settings.has_internet:
        return
    for resolver in resolvers:
        for protocol in ("udp", "tcp"):
            yield f"-d {resolver}/32 -p {protocol} -m {protocol} --dport 53 -j RETURN"


def _nat(settings: Settings) -> Iterator[str]:
    outside = f"! -o {settings.bridge}"
    for deployment in (settings.proxy, settings.hub):
        yield f"-s {deployment}/32 {outside} -j MASQUERADE"
    if settings.has_internet:
        yield f"-s {settings.subnet} {outside} -j MASQUERADE"
        return
    for allowed in settings.allowed:
        yield f"-s {settings.subnet} {outside} {_to(allowed)} -j MASQUERADE"


def _to(allowed: Allowed) -> str:
    port = "" if allowed.port is None else f" -p tcp -m tcp --dport {allowed.port}"
    return f"-d {allowed.network}{port}"


# ---------------------------------------------------------------- kernel and back


def placing(table: Table, saved: str) -> str:
    """Return what iptables-restore needs to put a table's rules in place at once.

    Args:
        table: See there.
        saved: What iptables-save printed; jumps that are there already are moved.
    """
    theirs = [jump.target for jump in table.jumps if not jump.is_ours]
    gone = [chain for chain in theirs if not _is_there(table, chain, saved)]
    # Made; ours are emptied if they are there.
    lines = [f":{chain} - [0:0]" for chain in (*gone, *table.chains)]
    lines += [
        f"-A {name} {rule}" for name, rules in table.chains.items() for rule in rules
    ]
    lines += _without(table, table.jumps, saved)
    lines += [f"-I {jump.chain} 1 {jump}" for jump in reversed(table.jumps)]
    return _restore(table, lines)


def removing(table: Table, saved: str) -> str:
    """Return what iptables-restore needs to take a table's rules away."""
    there = [chain for chain in table.chains if _is_there(table, chain, saved)]
    lines = [f":{chain} - [0:0]" for chain in there]
    lines += _without(table, [jump for jump in table.jumps if jump.is_ours], saved)
    lines += [f"-X {chain}" for chain in there]
    return _restore(table, lines)


def placed(table: Table, saved: str) -> tuple[str, ...] | None:
    """Return our chains' rules as the kernel has them, None if one is not reached.

    Each jump must be there once, and before one that must lead only such jumps, of ours
    or of another deployment: what comes first decides.
    """
    rules = _rules(table, saved)
    for jump in table.jumps:
        there = [rule for chain, rule in rules if chain == jump.chain]
        if there.count(str(jump)) != 1:
            return None
        if jump.must_lead and not _leads(str(jump), there):
            return None
    found = tuple(f"{chain} {rule}" for chain, rule in rules if chain in table.chains)
    expected = sum(len(chain) for chain in table.chains.values())
    return found if len(found) == expected else None


def _leads(wanted: str, rules: Sequence[str]) -> bool:
    before = rules[: rules.index(wanted)]
    return all(f"-j {OURS}" in rule for rule in before)


def _without(table: Table, jumps: Iterable[Jump], saved: str) -> list[str]:
    wanted = {(jump.chain, str(jump)) for jump in jumps}
    return [f"-D {c} {rule}" for c, rule in _rules(table, saved) if (c, rule) in wanted]


def _is_there(table: Table, chain: str, saved: str) -> bool:
    return f":{chain} " in _section(table, saved)


def _rules(table: Table, saved: str) -> list[tuple[str, str]]:
    lines = (line for line in _section(table, saved).splitlines() if line[:3] == "-A ")
    split = (line[3:].partition(" ") for line in lines)
    return [(chain, rule) for chain, _, rule in split]


def _section(table: Table, saved: str) -> str:
    """The part of iptables-save's text that is about this table."""
    return saved.partition(f"*{table.name}\n")[2].partition("\nCOMMIT")[0]


def _restore(table: Table, lines: Iterable[str]) -> str:
    return "\n".join([f"*{table.name}", *lines, "COMMIT", ""])
