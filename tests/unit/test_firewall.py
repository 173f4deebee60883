"""The firewall's decisions: its settings, its rules, what it finds and mends."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpuspawner.errors import Refusal
from torchroom.firewall import kernel, presence, rules, settings
from torchroom.firewall.rules import Table
from torchroom.firewall.settings import FirewallError
from torchroom.firewall.watch import Watch
from tornado.web import HTTPError

ENV = {
    "TORCHROOM_BRIDGE": "tr-room",
    "TORCHROOM_SUBNET": "10.117.0.0/20",
    "TORCHROOM_HUB_ADDRESS": "10.117.0.2",
    "TORCHROOM_PROXY_ADDRESS": "10.117.0.3",
}
RESOLVER = IPv4Address("10.0.0.53")
DOCKER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A INPUT -s 10.9.9.9/32 -j ACCEPT
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
"""


def made(env: Mapping[str, str] = {}, *, has_ipv6: bool = False) -> tuple[Table, ...]:
    """The tables for these settings."""
    read = settings.read(ENV | dict(env))
    return rules.tables(read, [RESOLVER], has_ipv6=has_ipv6)


def chain(end: str, env: Mapping[str, str] = {}) -> list[str]:
    """The rules of one chain."""
    chains = {k: v for table in made(env) for k, v in table.chains.items()}
    return list(chains[f"TORCHROOM-room-{end}"])


# ------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("TORCHROOM_BRIDGE", "eth0", "make up"),
        ("TORCHROOM_BRIDGE", "tr-much-too-long-a-name", "make up"),
        ("TORCHROOM_SUBNET", "10.117.0.1/20", "host bits"),
        ("TORCHROOM_SUBNET", "", "no IPv4 network"),
        ("TORCHROOM_HUB_ADDRESS", "10.1.0.2", "outside"),
        ("TORCHROOM_PROXY_ADDRESS", "proxy", "make up"),
        ("TORCHROOM_CONSOLE_PORT", "0", "port"),
        ("TORCHROOM_INTERNET", "closed", "open or none"),
        ("TORCHROOM_ALLOW_NETWORKS", "mirror.example.org", "10.1.2.3"),
        ("TORCHROOM_ALLOW_NETWORKS", "10.1.2.3:", "port"),
        ("TORCHROOM_ALLOW_NETWORKS", "10.1.2.3:65536", "port"),
        ("TORCHROOM_ALLOW_NETWORKS", "fd00::/8", "IPv4"),
    ],
)
def test_wrong_settings_are_refused_by_name(name: str, value: str, word: str) -> None:
    with pytest.raises(FirewallError, match=name) as raised:
        settings.read(ENV | {name: value})
    assert word in str(raised.value)


def test_allowed_networks_are_read_as_people_write_them() -> None:
    found = settings.read_allowed(" 10.1.2.3:27000, 10.9.0.0/16\n192.168.1.1 ")
    assert [(str(each.network), each.port) for each in found] == [
        ("10.1.2.3/32", 27000),
        ("10.9.0.0/16", None),
        ("192.168.1.1/32", None),
    ]
    assert settings.read_allowed("") == ()


# --------------------------------------------------------------------------- rules


def test_servers_get_two_ports_of_the_hub_and_nothing_else_inside() -> None:
    """What is not let through before it ends at the refusal."""
    found = chain("OUT", {"TORCHROOM_CONSOLE_PORT": "9000"})
    last = found.index(f"-o tr-room {rules.REFUSED}")
    inside = [rule for rule in found[:last] if "-s " not in rule]
    assert inside == [
        f"-o tr-room {rules.REPLIES} -j ACCEPT",
        "-d 10.117.0.2/32 -o tr-room -p tcp -m tcp --dport 8081 -j ACCEPT",
        "-d 10.117.0.2/32 -o tr-room -p tcp -m tcp --dport 9000 -j ACCEPT",
    ]


@pytest.mark.parametrize("internet", ["open", "none"])
def test_metadata_is_refused_before_anything_is_allowed(internet: str) -> None:
    """Even when a site allows everything."""
    env = {"TORCHROOM_INTERNET": internet, "TORCHROOM_ALLOW_NETWORKS": "0.0.0.0/0"}
    found = chain("OUT", env)
    allowed = found.index("-d 0.0.0.0/0 -j RETURN")
    refused = {found.index(f"-d {each} {rules.REFUSED}") for each in rules.METADATA}
    assert max(refused) < allowed


def test_private_networks_are_refused_after_those_allowed() -> None:
    found = chain("OUT", {"TORCHROOM_ALLOW_NETWORKS": "10.1.2.3:27000"})
    allowed = found.index("-d 10.1.2.3/32 -p tcp -m tcp --dport 27000 -j RETURN")
    assert allowed < found.index(f"-d 10.0.0.0/8 {rules.REFUSED}")


def test_name_servers_answer_only_where_there_is_an_internet() -> None:
    """Docker asks them from inside the container; they are often private addresses."""
    question = "-d 10.0.0.53/32 -p udp -m udp --dport 53 -j RETURN"
    for end in ("OUT", "HOST"):
        assert question in chain(end)
        assert question not in chain(end, {"TORCHROOM_INTERNET": "none"})


def test_without_internet_all_that_is_left_is_refused_and_finds_no_way_back() -> None:
    env = {"TORCHROOM_INTERNET": "none", "TORCHROOM_ALLOW_NETWORKS": "10.9.0.0/16"}
    assert chain("OUT", env)[-1] == rules.REFUSED
    of_servers = [rule for rule in chain("NAT", env) if "10.117.0.0/20" in rule]
    assert of_servers == ["-s 10.117.0.0/20 ! -o tr-room -d 10.9.0.0/16 -j MASQUERADE"]


def test_the_host_and_whoever_comes_from_elsewhere_end_at_a_refusal() -> None:
    assert chain("HOST")[-1] == rules.REFUSED
    assert chain("IN") == [f"{rules.REPLIES} -j RETURN", "-j DROP"]  # the proxy, too


def test_only_answers_pass_as_answers() -> None:
    """Not the further words of who began: what began while a rule was missing ends."""
    known = [x for end in ("OUT", "IN", "HOST") for x in chain(end) if "--ctstate" in x]
    assert known
    assert all("--ctdir REPLY" in rule for rule in known)


def test_addresses_that_only_documentation_uses_are_no_internet() -> None:
    for network in ("192.0.2", "198.51.100", "203.0.113", "192.88.99"):
        assert f"-d {network}.0/24 {rules.REFUSED}" in chain("OUT")


def test_ipv6_is_closed_where_the_host_has_it() -> None:
    """The servers' network has none; should it get some, it leads nowhere."""
    assert {table.family for table in made()} == {4}
    (six,) = [table for table in made(has_ipv6=True) if table.family == 6]
    assert list(six.chains.values()) == [("-j DROP",)]
    assert {(jump.chain, jump.match) for jump in six.jumps} == {
        ("FORWARD", "-i tr-room"),
        ("FORWARD", "-o tr-room"),
        ("INPUT", "-i tr-room"),
    }


# ----------------------------------------------------------------- kernel and back


def restore(saved: str, text: str) -> str:
    """What iptables-restore --noflush makes of a saved state; a stand-in."""
    name = text.splitlines()[0].removeprefix("*")
    before, begin, rest = saved.partition(f"*{name}\n")
    body, _, after = rest.partition("COMMIT")
    lines = body.splitlines()
    for line in text.splitlines()[1:-1]:
        word, _, rule = line.partition(" ")
        target = rule.split(" ")[0]
        if word in {"-A", "-I"}:
            assert any(x.startswith(f":{target} ") for x in lines), f"no chain {target}"
        if line.startswith(":"):
            lines = [x for x in lines if not x.startswith(f"-A {line[1:].split()[0]} ")]
            if not any(x.startswith(word) for x in lines):
                lines.insert(0, line)
        elif word == "-A":
            lines.append(line)
        elif word == "-I":
            rest_ = rule.removeprefix(f"{target} 1 ")
            at = [i for i, x in enumerate(lines) if x.startswith(f"-A {target} ")]
            lines.insert(at[0] if at else len(lines), f"-A {target} {rest_}")
        elif word == "-D":
            lines.remove(f"-A {rule}")
        elif word == "-X":
            lines = [x for x in lines if not x.startswith(f":{target} ")]
    return f"{before}{begin}" + "".join(f"{x}\n" for x in lines) + f"COMMIT{after}"


@pytest.mark.parametrize("table", made(), ids=lambda table: table.name)
def test_what_was_placed_is_found_and_placing_again_changes_nothing(
    table: Table,
) -> None:
    assert rules.placed(table, DOCKER) is None
    once = restore(DOCKER, rules.placing(table, DOCKER))
    found = rules.placed(table, once)
    assert found is not None
    assert restore(once, rules.placing(table, once)) == once
    removed = restore(once, rules.removing(table, once))
    assert sorted(removed.splitlines()) == sorted(DOCKER.splitlines())


def test_another_programs_rule_in_front_is_noticed() -> None:
    """What comes first decides. Another deployment's jump decides about its own."""
    table = made()[0]
    once = restore(DOCKER, rules.placing(table, DOCKER))
    first = next(line for line in once.splitlines() if line.startswith("-A INPUT"))
    other = once.replace(first, f"-A INPUT -i tr-b -j TORCHROOM-b-HOST\n{first}")
    assert rules.placed(table, other) is not None
    theirs = once.replace(first, f"-A INPUT -j ACCEPT\n{first}")
    assert rules.placed(table, theirs) is None
    mended = restore(theirs, rules.placing(table, theirs))
    assert rules.placed(table, mended) is not None


@pytest.mark.parametrize(
    "forward",
    [
        "",
        "-A FORWARD -j ACCEPT\n-A FORWARD -j DOCKER-USER\n",
        "-A FORWARD -i tr-room -o tr-room -j ACCEPT\n-A FORWARD -j DOCKER-USER\n",
        "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-USER\n",
        "-A FORWARD -j OTHER\n",
    ],
)
def test_docker_leads_into_our_chains_or_nothing_is_in_place(forward: str) -> None:
    """FORWARD flushed, or decided by somebody else before us: put back, in front."""
    table = made()[0]
    once = restore(DOCKER, rules.placing(table, DOCKER))
    changed = once.replace("-A FORWARD -j DOCKER-USER\n", forward)
    assert rules.placed(table, changed) is None
    mended = restore(changed, rules.placing(table, changed))
    assert rules.placed(table, mended) is not None
    in_forward = [x for x in mended.splitlines() if x.startswith("-A FORWARD")]
    assert in_forward[0] == "-A FORWARD -j DOCKER-USER"
    removed = restore(mended, rules.removing(table, mended))
    assert "-A FORWARD -j DOCKER-USER" in removed  # it is Docker's own


def test_where_everything_was_flushed_dockers_chain_is_made_again() -> None:
    """Else the servers that run would be open until somebody restarts Docker."""
    table = made()[0]
    flushed = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    assert rules.placed(table, flushed) is None
    mended = restore(flushed, rules.placing(table, flushed))
    assert rules.placed(table, mended) is not None


def test_dockers_rules_are_known_when_the_jump_to_them_was_flushed() -> None:
    """But those with the jump are taken first: others may be left from earlier."""
    flushed = DOCKER.replace("-A FORWARD -j DOCKER-USER\n", "")
    assert kernel.is_of_docker(DOCKER)
    assert not kernel.is_of_docker(flushed)
    assert kernel.is_of_docker(flushed, is_flushed=True)
    assert not kernel.is_of_docker("*filter\nCOMMIT\n", is_flushed=True)


def test_a_rule_that_is_missing_is_noticed() -> None:
    table = made()[0]
    once = restore(DOCKER, rules.placing(table, DOCKER))
    lines = once.splitlines(keepends=True)
    for line in (x for x in lines if "TORCHROOM" in x and x.startswith("-A")):
        assert rules.placed(table, once.replace(line, "", 1)) is None


def test_name_servers_are_those_that_docker_asks(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# x\nnameserver 10.0.0.53\nnameserver 127.0.0.53\nnameserver fd::1"
    )
    assert kernel.resolvers(file) == [RESOLVER]


@pytest.mark.parametrize(
    "odd", [b"", b"10.0.0", b"10.0.0.053", b"ns.school.edu # \xe9"]
)
def test_a_name_server_that_is_no_address_is_passed_over(
    tmp_path: Path, odd: bytes
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"nameserver %b\nnameserver 10.0.0.53\n" % odd)
    assert kernel.resolvers(file) == [RESOLVER]


# --------------------------------------------------------------------------- watch


@dataclass
class Fake:
    """The kernel's tables, in memory."""

    text: str = DOCKER
    fails: str = ""
    n_placed: int = 0

    def saved(self, family: int) -> str:
        assert family == 4
        if self.fails:
            raise FirewallError(self.fails)
        return self.text

    def place(self, table: Table) -> tuple[str, ...]:
        self.n_placed += 1
        self.text = restore(self.text, rules.placing(table, self.text))
        return rules.placed(table, self.text) or ()

    def remove(self, table: Table) -> None:
        self.text = restore(self.text, rules.removing(table, self.text))


@dataclass
class Scene:
    """A watch over a kernel in memory, and what it said."""

    flag: Path
    kernel: Fake = field(default_factory=Fake)
    said: list[str] = field(default_factory=list)

    def watch(self) -> Watch:
        return Watch(lambda: self.kernel, made(), self.flag, self.said.append)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "in-place")


def test_rules_are_placed_once_and_mended_when_they_are_gone(scene: Scene) -> None:
    watch = scene.watch()
    assert watch.look()
    assert watch.look()
    assert scene.kernel.n_placed == 2  # filter and nat
    assert scene.flag.exists()
    assert scene.said == ["the firewall is in place"]
    scene.kernel.text = DOCKER
    assert watch.look()
    assert scene.kernel.n_placed == 4
    assert "filter" in scene.said[1]
    assert scene.said[-1] == "the firewall is in place"


def test_a_rule_of_ours_that_was_changed_is_mended(scene: Scene) -> None:
    watch = scene.watch()
    watch.look()
    good = scene.kernel.text
    scene.kernel.text = good.replace("--dport 8082 -j ACCEPT", "--dport 22 -j ACCEPT")
    watch.look()
    assert scene.kernel.text == good


def test_a_failure_is_told_once_and_the_flag_goes(scene: Scene) -> None:
    watch = scene.watch()
    watch.look()
    scene.kernel.fails = "it rains"
    assert not watch.look()
    assert not watch.look()
    assert not scene.flag.exists()
    assert scene.said[1:] == ["the firewall is not in place: it rains"]
    scene.kernel.fails = ""
    assert watch.look()
    assert scene.flag.exists()


def test_at_the_end_rules_stay_while_anybody_is_on_the_bridge(scene: Scene) -> None:
    watch = scene.watch()
    watch.look()
    good = scene.kernel.text
    watch.end(is_used=True)
    assert not scene.flag.exists()
    assert scene.kernel.text == good
    watch.end(is_used=False)
    assert sorted(scene.kernel.text.splitlines()) == sorted(DOCKER.splitlines())


# --------------------------------------------------------------------- the hub's side


async def test_no_server_starts_while_the_firewall_is_silent(tmp_path: Path) -> None:
    flag, now = tmp_path / "in-place", [1_000_000.0]
    hook = presence.before_a_server(flag, lambda: now[0])
    spawner = SimpleNamespace()
    with pytest.raises(HTTPError) as raised:
        await hook(spawner)
    assert raised.value.status_code == 503
    flag.touch()
    os.utime(flag, (now[0], now[0]))
    await hook(spawner)
    now[0] += presence.FRESH_S
    with pytest.raises(HTTPError):
        await hook(spawner)
    now[0] -= 3600  # the clock was set back: the file's age says nothing
    with pytest.raises(HTTPError):
        await hook(spawner)


def test_the_flag_is_looked_at_again_before_a_container_is_made(tmp_path: Path) -> None:
    """The queue and a pull are long; the firewall may have gone in the meantime."""
    flag, now = tmp_path / "in-place", [1_000_000.0]
    extra = presence.before_a_container(flag, lambda: now[0])
    flag.touch()
    os.utime(flag, (now[0], now[0]))
    assert extra(SimpleNamespace()) == {}
    now[0] += presence.FRESH_S
    with pytest.raises(Refusal, match="the firewall around them is not in place"):
        extra(SimpleNamespace())


def test_a_hub_without_a_firewall_is_left_alone() -> None:
    assert presence.of_spawner({}) == {}
    found = presence.of_spawner(
        {"TORCHROOM_INTERNET": "none", presence.FLAG: "/run/x/in-place"}
    )
    assert found["extra_host_config"] == {"dns": ["127.0.0.1"]}
    assert callable(found["pre_spawn_hook"])
    assert callable(found["extra_create_kwargs"])
