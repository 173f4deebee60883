"""What a student's server reaches, asked from inside, and what it may do there."""

import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import docker
import pytest
import requests
from docker.models.containers import Container
from testbed import isolation
from testbed.engine import run, wait_until
from testbed.hub import Deployment, RefusedError, User, crowd, execute, together
from testbed.isolation import ANSWERS_UDP, TABLE, Case, Targets, address, reached
from testbed.outside import NEAR, SERVE, entering, outside, serving

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (isolation.INTERNET, *isolation.METADATA, isolation.LAN, isolation.LICENCES)
PORTS = (isolation.WEB, isolation.LICENCE_PORT)
ALLOWED = f"{isolation.LICENCES}:{isolation.LICENCE_PORT}"
MENDED_WITHIN_S = 15
FORWARD = ("iptables", "-w", "-I", "FORWARD", "1")
CLOSED = ("neighbour", "stranger", "database", *isolation.METADATA)
BLANK = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""


@dataclass
class Room:
    """Two students, and everything around them that must be out of their reach."""

    deployment: Deployment
    student: User
    neighbour: User
    database: Container
    stranger: Container
    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def targets(self) -> Targets:
        """Where everything is."""
        hub = self.deployment.service("hub")
        proxy = self.deployment.service("proxy")
        neighbour = self.neighbour.container()
        hub_near, proxy_near = address(hub, "_servers"), address(proxy, "_servers")
        gateway = str(ipaddress.ip_network(self.deployment.subnet)[1])
        database = address(self.database, "_default")
        return {
            "hub-name": ("hub", 8081),
            "hub-api": (hub_near, 8081),
            "console": (hub_near, 8082),
            "hub-other": (hub_near, isolation.OTHER),
            "hub-inner": (address(hub, "_default"), 8081),
            "neighbour-name": (str(neighbour.name), 8888),
            "neighbour": (address(neighbour, "_servers"), 8888),
            "proxy-name": ("proxy", 8000),
            "proxy": (proxy_near, 8000),
            "proxy-api": (address(proxy, "_default"), 8001),
            "proxy-api-near": (proxy_near, 8001),
            "database": (database, isolation.POSTGRES),
            "gateway": (gateway, isolation.POSTGRES),
            "docker0": ("172.17.0.1", isolation.POSTGRES),
            "host": (NEAR, isolation.POSTGRES),
            "engine": ("172.17.0.1", isolation.ENGINE),
            "stranger": (address(self.stranger, "bridge"), isolation.POSTGRES),
            **{address_: (address_, isolation.WEB) for address_ in OUTSIDE},
            "licences": (isolation.LICENCES, isolation.LICENCE_PORT),
            "licences-other": (isolation.LICENCES, isolation.WEB),
            "ipv6": ("fd00:ec2::254", 80),
        }

    def ask(self, *, internet: str) -> dict[str, str]:
        """What the student reaches now; asked once per policy."""
        if internet not in self.seen:
            self.seen[internet] = reached(self.student.container(), self.targets)
        return self.seen[internet]

    def up(self, **settings: str) -> None:
        """`make up` with other settings; the rest of the run wants the first ones."""
        self.deployment.settings = settings
        self.deployment.up()


@pytest.fixture(scope="module")
def room(deployment: Deployment, engine: docker.DockerClient) -> Iterator[Room]:
    """Everything in place: the shared deployment, its surroundings, an outside."""
    before = dict(deployment.settings)
    image = str(deployment.service("hub").attrs["Config"]["Image"])
    made: list[Container] = []

    def serve(network: str) -> Container:
        """A container that answers on PostgreSQL's port."""
        made.append(
            engine.containers.run(
                image,
                ["python3", "-c", SERVE, str(isolation.POSTGRES)],
                network=network,
                detach=True,
                environment={"PYTHONUNBUFFERED": "1"},
            )
        )
        container = made[-1]
        wait_until(lambda: b"ready" in container.logs(), what="it serves", within_s=20)
        container.reload()
        return container

    with (
        outside(OUTSIDE, PORTS),
        serving([isolation.POSTGRES, isolation.ENGINE]),
        crowd(deployment) as people,
    ):
        try:
            deployment.settings |= {"TORCHROOM_ALLOW_NETWORKS": ALLOWED}
            deployment.up()
            room = Room(
                deployment,
                people("student"),
                people("neighbour"),
                serve(f"{deployment.project}_default"),
                serve("bridge"),
            )
            together([room.student.start, room.neighbour.start])
            more = ["python", "-c", SERVE, str(isolation.OTHER)]
            deployment.service("hub").exec_run(more, detach=True)
            yield room
        finally:
            for container in made:
                container.remove(force=True)
            deployment.settings = before
            deployment.up()


@pytest.mark.parametrize("case", [x for x in TABLE if x.from_], ids=lambda x: x.what)
def test_everything_is_really_there(room: Room, case: Case) -> None:
    """Whoever may reach it does: what a student does not reach is not just absent."""
    asker = {"hub": room.deployment.service("hub"), "bridge": room.stranger}[case.from_]
    if f"from {case.from_}" not in room.seen:
        room.seen[f"from {case.from_}"] = reached(asker, room.targets)
    answers = room.seen[f"from {case.from_}"]
    assert {answers[target] for target in case.targets} == {"open"}, answers
    by_udp = [f"udp {target}" for target in ANSWERS_UDP.intersection(case.targets)]
    assert {answers[target] for target in by_udp} <= {"open"}, answers


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.what)
def test_what_a_server_reaches(room: Room, case: Case) -> None:
    """With the internet open: as the table says, by TCP and by UDP."""
    answers = room.ask(internet="open")
    check(case, answers, is_open=case.with_internet)


def check(case: Case, answers: dict[str, str], *, is_open: bool) -> None:
    """Every target of the case is open, or closed."""
    for target in case.targets:
        assert (answers[target] == "open") is is_open, f"{target}: {answers[target]}"
        if not is_open:
            assert answers.get(f"udp {target}") != "open", target


def test_udp_reaches_the_internet_and_nothing_else(room: Room) -> None:
    """The hub's two ports and the licence server's are for TCP."""
    answers = room.ask(internet="open")
    by_udp = {key for key in answers if key.startswith("udp ")}
    reaches = {key for key in by_udp if answers[key] == "open"}
    assert len(by_udp) >= len(ANSWERS_UDP)
    assert reaches == {f"udp {isolation.INTERNET}"}


PING = """
import socket, struct, sys
for host in sys.argv[1:]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.settimeout(4)
        try:
            s.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1), (host, 0))
            s.recv(100)
            print("answers")
        except OSError as error:
            print(error)
"""


def test_a_ping_reaches_the_internet_and_nothing_else(room: Room) -> None:
    """What is closed is closed for every protocol."""
    names = ("hub-api", "proxy", "neighbour", "database", "gateway", "stranger")
    hosts = [room.targets[name][0] for name in names] + [isolation.LAN]
    ping = ["python3", "-c", PING, *hosts, isolation.INTERNET]
    _, printed = room.student.execute(*ping)
    *closed, internet = printed.splitlines()
    assert internet == "answers"
    assert len(closed) == len(hosts)
    assert "answers" not in closed


def test_names_of_the_outside_resolve_only_what_they_must(room: Room) -> None:
    """The proxy's API has no name here; the hub has one."""
    code = "import socket; print(socket.gethostbyname('{}'))"
    assert room.student.python(code.format("hub")).strip() == room.targets["hub-api"][0]
    status, _ = room.student.execute("python3", "-c", code.format("proxy-api"))
    assert status != 0


def test_addresses_of_servers_are_never_the_deployments(room: Room) -> None:
    """Hub and proxy have fixed addresses outside of what servers are given."""
    subnet = ipaddress.ip_network(room.deployment.subnet)
    _, second = subnet.subnets()
    for user in (room.student, room.neighbour):
        own = ipaddress.ip_address(address(user.container(), "_servers"))
        assert own in second
    for service, place in (("hub", 2), ("proxy", 3)):
        container = room.deployment.service(service)
        assert address(container, "_servers") == str(subnet[place])


CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
    print("open")
except OSError as error:
    print(repr(error))
"""


@pytest.mark.parametrize("target", ["proxy", "hub-api", "neighbour"])
def test_nobody_outside_gets_in_by_a_route_over_the_host(
    room: Room, target: str
) -> None:
    """Not even at the proxy: its port is published for this machine only."""
    where, port = room.targets[target]
    ask = [sys.executable, "-c", CONNECT, where, str(port)]
    assert run(*ask).strip() == "open"  # from the host itself
    run(*entering(), "ip", "route", "replace", f"{where}/32", "via", NEAR)
    assert run(*entering(), *ask).strip() != "open"


SHOUT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    try:
        s.sendto(sys.argv[2].encode(), (sys.argv[1], 9999))
    except OSError as error:
        print(error)
"""
HEAR = """
import pathlib, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 9999))
pathlib.Path("/tmp/heard").write_text("listening ")
while True:
    with open("/tmp/heard", "a") as file:
        file.write(s.recv(100).decode() + " ")
"""


def test_nobody_hears_a_server_shout(room: Room) -> None:
    """A broadcast stays in its own container; one of the hub's arrives."""
    everybody = str(ipaddress.ip_network(room.deployment.subnet)[-1])
    neighbour = room.neighbour.container()
    neighbour.exec_run(["python3", "-c", HEAR], detach=True)

    def heard() -> str:
        return execute(neighbour, ["cat", "/tmp/heard"])[1]

    wait_until(lambda: heard() == "listening ", what="somebody listens", within_s=20)
    room.student.execute("python3", "-c", SHOUT, everybody, "student")
    shout = ["python", "-c", SHOUT, everybody, "hub"]
    execute(room.deployment.service("hub"), shout)
    wait_until(lambda: "hub" in heard(), what="the hub is heard", within_s=20)
    assert "student" not in heard()


HARDENED = r"""
import ctypes, json, os, pathlib, socket
def fails(work):
    try:
        work()
    except OSError as error:
        return error.strerror
    return ""
libc = ctypes.CDLL(None, use_errno=True)
def system(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def spoof():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: any address may be bound
    s.bind(("{hub}", 0))
    s.sendto(b"?", ("{neighbour}", 8888))
rows = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(row.split(":\t", 1) for row in rows if ":\t" in row)
print(json.dumps({{
    "uid": os.getuid(),
    "status": {{key: status[key] for key in
               ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapBnd", "CapAmb")}},
    "fails": {{
        "raw socket": fails(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        "packets": fails(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)),
        "the hub's address": fails(spoof),
        "user namespace": fails(lambda: system("unshare", 0x10000000)),
        "network namespace": fails(lambda: system("unshare", 0x40000000)),
        "mount": fails(lambda: system("mount", b"x", b"/tmp", b"tmpfs", 0, None)),
        "kernel settings": fails(lambda: open("/proc/sys/kernel/hostname", "w")),
        "IPv6": fails(
            lambda: open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w")),
        "become root": fails(lambda: os.setuid(0)),
    }},
    "kcore": len(open("/proc/kcore", "rb").read(16)) if os.access(
        "/proc/kcore", os.R_OK) else 0,
    "there": [path for path in ("/var/run/docker.sock", "/run/docker.sock",
              "/run/torchroom-engine", "/srv/torchroom") if os.path.exists(path)],
}}))
"""


def test_a_server_has_no_rights_to_spare(room: Room) -> None:
    """Not root, no capability, seccomp on; no way to take another's address."""
    targets = room.targets
    code = HARDENED.format(hub=targets["hub-api"][0], neighbour=targets["neighbour"][0])
    found = json.loads(room.student.python(code))
    assert found["uid"] >= 1000
    status = found["status"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    caps = [value for key, value in status.items() if key.startswith("Cap")]
    assert {int(value, 16) for value in caps} == {0}
    assert all(found["fails"].values()), found["fails"]
    assert found["kcore"] == 0
    assert found["there"] == []


def test_the_engine_agrees(room: Room) -> None:
    """Its own account of the container: nothing shared, nothing lifted."""
    attrs = room.student.container().attrs
    host = attrs["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["NetworkMode"] == f"{room.deployment.project}_servers"
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(host["MaskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(host["ReadonlyPaths"])
    assert not {host["PidMode"], host["UTSMode"], host["UsernsMode"]} - {""}
    assert host["IpcMode"] in {"private", "shareable"}
    assert [row["Type"] for row in attrs["Mounts"]] == ["volume"]
    assert set(attrs["NetworkSettings"]["Networks"]) == {host["NetworkMode"]}


def jumps(deployment: Deployment) -> list[list[str]]:
    """The firewall's rules in Docker's and the host's own chains."""
    bridge = deployment.engine.networks.get(f"{deployment.project}_servers")
    name = bridge.attrs["Options"]["com.docker.network.bridge.name"]
    target = f"TORCHROOM-{name.removeprefix('tr-')}-"
    found = []
    for program, table, chain in (
        ("iptables", "filter", "DOCKER-USER"),
        ("iptables", "filter", "INPUT"),
        ("iptables", "nat", "POSTROUTING"),
        ("ip6tables", "filter", "FORWARD"),
        ("ip6tables", "filter", "INPUT"),
    ):
        rules = run(program, "-w", "-t", table, "-S", chain).splitlines()
        ours = [rule for rule in rules if rule.startswith("-A ") and target in rule]
        found += [[program, "-w", "-t", table, *rule.split()] for rule in ours]
    return found


def tear_down(deployment: Deployment) -> None:
    """Take the firewall's rules out, as a program that renews the host's rules may."""
    for rule in jumps(deployment):
        run(*["-D" if word == "-A" else word for word in rule])


def test_rules_that_were_flushed_come_back(room: Room) -> None:
    """Within seconds, and the students' servers go on."""
    before = jumps(room.deployment)
    assert len(before) >= 4
    tear_down(room.deployment)
    wait_until(
        lambda: jumps(room.deployment) == before,
        what="the rules are back",
        within_s=MENDED_WITHIN_S,
    )
    assert room.student.answers()
    firewall = room.deployment.service("firewall")
    assert b"were not as they were put: mended" in firewall.logs()


def in_front() -> str:
    """What decides first about what is forwarded."""
    found = run("iptables", "-w", "-S", "FORWARD").splitlines()
    return next((rule for rule in found if rule.startswith("-A ")), "")


HOLD = """
import os, pathlib, socket, sys
told, go = pathlib.Path(sys.argv[1]), sys.argv[2]
os.mkfifo(go)
with socket.create_connection((sys.argv[3], int(sys.argv[4])), timeout=4) as held:
    told.write_text("connected")
    open(go).read()
    try:
        held.sendall(b"GET /api HTTP/1.0\\r\\n\\r\\n")
        told.write_text("answered" if held.recv(100) else "ended")
    except OSError as error:
        told.write_text(repr(error))
"""


def hold(asker: Container, target: tuple[str, int]) -> Callable[[], str]:
    """Connect now; what is returned asks over it later and says what came back."""
    told, go = f"/tmp/{uuid4().hex}", f"/tmp/{uuid4().hex}"
    where = [target[0], str(target[1])]
    asker.exec_run(["python3", "-c", HOLD, told, go, *where], detach=True)

    def said() -> str:
        return execute(asker, ["sh", "-c", f"cat {told} || true"])[1]

    def ask() -> str:
        execute(asker, ["sh", "-c", f": >{go}"])
        wait_until(
            lambda: said() not in {"", "connected"}, what="an answer", within_s=20
        )
        return said()

    wait_until(lambda: said() == "connected", what="a connection", within_s=20)
    return ask


@pytest.mark.parametrize("before", ["-j ACCEPT", ""])
def test_what_passes_before_dockers_chain_is_noticed(room: Room, before: str) -> None:
    """A rule put in front, or FORWARD flushed: else servers would reach each other.

    What they began meanwhile does not go on.
    """
    saved = run("iptables-save", "-t", "filter")
    policy = run("iptables", "-w", "-S", "FORWARD").splitlines()[0].split()[-1]
    firewall = room.deployment.service("firewall")
    firewall.stop()  # so that it is certain what it finds
    try:
        if before:
            run(*FORWARD, *before.split())
        else:
            run("iptables", "-w", "-F", "FORWARD")
            run("iptables", "-w", "-P", "FORWARD", "ACCEPT")
        hurt = reached(room.student.container(), room.targets)
        assert hurt["neighbour"] == "open"  # it matters
        wrong = hold(room.student.container(), room.targets["neighbour"])
        right = hold(room.deployment.service("hub"), room.targets["neighbour"])
        firewall.start()
        wait_until(
            lambda: in_front() == "-A FORWARD -j DOCKER-USER",
            what="Docker's chain leads again",
            within_s=MENDED_WITHIN_S,
        )
        assert right() == "answered"
        assert wrong() != "answered"
        answers = reached(room.student.container(), room.targets)
        assert "open" not in {answers[target] for target in CLOSED}
        assert answers["hub-api"] == "open"
    finally:
        firewall.start()
        run("iptables", "-w", "-P", "FORWARD", policy)
        wanted = [x for x in saved.splitlines() if x.startswith("-A FORWARD ")]
        run("iptables", "-w", "-F", "FORWARD")
        for rule in wanted:
            run("iptables", "-w", *rule.split())


def test_a_running_firewall_keeps_dockers_chain_in_front(room: Room) -> None:
    """Not only when it starts."""
    run(*FORWARD, "-i", "lo", "-j", "ACCEPT")
    try:
        wait_until(
            lambda: in_front() == "-A FORWARD -j DOCKER-USER",
            what="Docker's chain leads again",
            within_s=MENDED_WITHIN_S,
        )
    finally:
        run("iptables", "-w", "-D", "FORWARD", "-i", "lo", "-j", "ACCEPT")


def test_where_dockers_own_rules_are_gone_ours_decide(room: Room) -> None:
    """As after `nft flush ruleset`, until somebody restarts Docker."""
    before = jumps(room.deployment)
    saved = run("iptables-save", "-t", "filter")
    subprocess.run(["iptables-restore"], input=BLANK, text=True, check=True)
    try:
        wait_until(
            lambda: in_front() == "-A FORWARD -j DOCKER-USER",
            what="Docker's chain leads again",
            within_s=MENDED_WITHIN_S,
        )
        assert jumps(room.deployment) == before
        answers = reached(room.student.container(), room.targets)
        assert "open" not in {answers[target] for target in CLOSED}
        assert answers["hub-api"] == "open"
    finally:
        subprocess.run(["iptables-restore"], input=saved, text=True, check=True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("%ff", 400),
        ("constructor", 302),  # like any other: to the hub
        ("__proto__/x", 302),
        ("user/constructor/", 302),
    ],
)
def test_an_odd_path_is_no_fault_of_the_proxys(
    room: Room, path: str, status: int
) -> None:
    """Its log shows no stack trace of it, whatever others have left there."""
    url = f"{room.deployment.url}/{path}"
    proxy = room.deployment.service("proxy")
    before = len(proxy.logs())
    found = requests.get(url, timeout=20, allow_redirects=False)
    assert found.status_code == status
    assert b"Error:" not in proxy.logs()[before:]


def test_a_kernel_that_filters_no_bridges_is_noticed(room: Room) -> None:
    """Another program may turn it off at any time: then nobody starts a server."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    firewall = room.deployment.service("firewall")
    flag = ["test", "-e", "/run/torchroom-firewall/in-place"]
    try:
        switch.write_text("0\n")
        wait_until(
            lambda: b"br_netfilter" in firewall.logs(tail=1),
            what="the firewall says so",
            within_s=MENDED_WITHIN_S,
        )
        assert execute(firewall, flag)[0] != 0
    finally:
        switch.write_text("1\n")
    wait_until(
        lambda: execute(firewall, flag)[0] == 0,
        what="the firewall is in place again",
        within_s=MENDED_WITHIN_S,
    )


def test_a_dead_firewall_leaves_nothing_open(room: Room) -> None:
    """Its rules outlive it. Without them nothing passes; nobody starts a server."""
    deployment, student = room.deployment, room.student
    hub, firewall = deployment.service("hub"), deployment.service("firewall")
    firewall.stop()
    assert student.answers()
    assert reached(student.container(), room.targets)["neighbour"] != "open"
    tear_down(deployment)
    # A new connection: those that were open before go on.
    assert reached(hub, room.targets)["neighbour"] != "open"
    answers = reached(student.container(), room.targets)
    closed = {
        target
        for target, answer in answers.items()
        if answer != "open" and target in room.targets
    }
    # Docker's own rules are left. The host itself is not behind them.
    assert set(room.targets) - closed <= {"gateway", "docker0", "host", "engine"}
    late = deployment.new_user("late")
    with pytest.raises(RefusedError, match="the firewall around them is not in place"):
        late.start()
    assert not deployment.servers(user=late.name)
    firewall.start()
    wait_until(
        lambda: reached(hub, room.targets)["neighbour"] == "open",
        what="the rules are back",
        within_s=MENDED_WITHIN_S,
    )
    assert reached(student.container(), room.targets)["gateway"] != "open"


@pytest.fixture(scope="module")
def without_internet(room: Room) -> Room:
    """The same room after `make up` with TORCHROOM_INTERNET=none; servers run on."""
    none = {"TORCHROOM_INTERNET": "none", "TORCHROOM_ALLOW_NETWORKS": ALLOWED}
    room.up(**none)
    more = ["python", "-c", SERVE, str(isolation.OTHER)]
    room.deployment.service("hub").exec_run(more, detach=True)
    wait_until(
        lambda: reached(room.neighbour.container(), room.targets)["console"] == "open",
        what="the new hub's token service listens",
        within_s=60,
    )
    return room


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.what)
def test_what_a_server_reaches_without_internet(
    without_internet: Room, case: Case
) -> None:
    """As the table says, for servers that were already running, too."""
    answers = without_internet.ask(internet="none")
    check(case, answers, is_open=case.without)


def test_without_internet_no_question_for_names_leaves(without_internet: Room) -> None:
    """A new server's name server asks nobody; the hub's name is still known."""
    user = without_internet.student
    user.stop()
    user.start()
    assert user.container().attrs["HostConfig"]["Dns"] == ["127.0.0.1"]
    code = "import socket; print(socket.gethostbyname('hub'))"
    assert user.python(code).strip() == without_internet.targets["hub-api"][0]


def test_the_hub_was_made_anew_and_kept_its_address(without_internet: Room) -> None:
    """Its servers find it where it was."""
    test_addresses_of_servers_are_never_the_deployments(without_internet)
    assert without_internet.student.answers()
    assert without_internet.neighbour.answers()


def test_the_documented_table_is_this_one() -> None:
    """docs/isolation.md says what is tested here, row by row, and nothing else."""
    text = (ROOT / "docs" / "isolation.md").read_text()
    table = text[text.index("| from inside a server |") :].partition("\n\n")[0]
    assert table.splitlines()[2:] == isolation.markdown()


def test_the_firewall_has_two_capabilities_and_no_socket(room: Room) -> None:
    """It could do much in the host's network, so it gets nothing besides."""
    firewall = room.deployment.service("firewall")
    host = firewall.attrs["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    added = {name.removeprefix("CAP_") for name in host["CapAdd"]}
    assert added == {"NET_ADMIN", "NET_BIND_SERVICE"}
    assert host["ReadonlyRootfs"] is True
    assert [row["Destination"] for row in firewall.attrs["Mounts"]] == [
        "/run/torchroom-firewall"
    ]
    _, status = execute(firewall, ["cat", "/proc/1/status"])
    assert "NoNewPrivs:\t1" in status
