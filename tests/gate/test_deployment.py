"""Torchroom as ``make up`` starts it: what a hub that was taken over can do."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment, RefusedError, User, execute
from torchroom import uids

pytestmark = pytest.mark.docker

# What the hub's container runs here stands for what an attacker in it would.
ASK = """
import http.client, json, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/torchroom-engine/docker.sock")
method, target, body = sys.argv[1:]
connection = Connection("docker")
connection.request(method, target, None if body == "null" else body)
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""
# Ways to another process of the same machine, for a hub that sees them all.
REACH = """
import ctypes, os, sys
pid = sys.argv[1]
print(os.getuid(), os.path.exists(f"/proc/{pid}"))
for name in ("root", "cwd", "fd", "environ", "mem"):
    try:
        path = f"/proc/{pid}/{name}"
        os.listdir(path) if name in ("root", "cwd", "fd") else open(path, "rb").read(1)
        print("reached", name)
    except OSError as error:
        print("refused", name, error.errno)
try:
    os.kill(int(pid), 0)
    print("reached by signals")
except OSError as error:
    print("refused signals", error.errno)
libc = ctypes.CDLL(None, use_errno=True)
print("ptrace", libc.ptrace(16, int(pid), 0, 0))
"""
# What the plugin reads of a process, with the plugin's own code.
IDENTIFY = """
import sys
from gpuspawner.processes import Processes
print(repr(Processes().identify(int(sys.argv[1]))))
"""


def inside(deployment: Deployment, *command: str) -> str:
    """Run a command in the hub's container, as the hub's user."""
    return execute(deployment.service("hub"), command)[1]


def ask(deployment: Deployment, method: str, target: str, body: object) -> str:
    """Ask the gate as the hub does; return what it says, with the status before."""
    said = inside(
        deployment, "python3", "-c", ASK, method, target, json.dumps(body)
    ).strip()
    status, text = json.loads(said)
    return f"{status} {text}"


def test_the_hub_has_no_way_around_the_gate(deployment: Deployment) -> None:
    """No socket of the engine, no group of it, no hold on the gate's process."""
    hub, gate = deployment.service("hub"), deployment.service("engine-gate")
    assert "docker.sock" not in json.dumps(hub.attrs["HostConfig"]["Binds"])
    assert inside(deployment, "ls", "/run/torchroom-engine").split() == ["docker.sock"]
    assert "No such file" in inside(deployment, "ls", "/var/run/docker.sock")
    assert not hub.attrs["HostConfig"]["GroupAdd"]
    seen = reach(deployment, gate.attrs["State"]["Pid"])
    assert is_out_of_reach(seen), seen
    assert "Read-only" in inside(deployment, "rm", "/run/torchroom-engine/docker.sock")


def test_the_gate_has_no_rights_but_the_socket(deployment: Deployment) -> None:
    """Nobody reaches it over a network, and it can do nothing else."""
    attrs = deployment.service("engine-gate").attrs
    host = attrs["HostConfig"]
    assert (host["NetworkMode"], host["Privileged"]) == ("none", False)
    assert (host["CapDrop"], host["ReadonlyRootfs"]) == (["ALL"], True)
    assert host["PidMode"] == ""
    assert attrs["Config"]["User"] == f"{uids.GATE}:{uids.HUB}"
    mounted = {mount["Destination"] for mount in attrs["Mounts"]}
    assert mounted == {"/var/run/docker.sock", "/run/torchroom-engine"}


def test_no_server_gets_a_socket(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """Neither the engine's nor the gate's."""
    user = people("curious")
    user.start("cpu")
    mounts = user.container().attrs["Mounts"]
    assert [mount["Type"] for mount in mounts] == ["volume"]
    assert mounts[0]["Name"].startswith(f"{deployment.project}-home-")
    find = "find / -xdev -type s -name '*.sock' 2>/dev/null; exit 0"
    assert "docker" not in user.execute("sh", "-c", find)[1]


@pytest.mark.parametrize("user", [0, 1000, 1001, uids.GATE])
def test_the_hub_gets_at_nobodys_processes(deployment: Deployment, user: int) -> None:
    """It sees whose they are, as it must, and that is all: with AppArmor or without."""
    with process_of(user) as pid:
        assert is_out_of_reach(reach(deployment, pid))
        assert f"uid={user}," in inside(deployment, "python3", "-c", IDENTIFY, str(pid))


def test_the_hub_gets_at_no_process_of_another_container(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """Users' servers and the proxy share a user number, which is not the hub's."""
    user = people("watched")
    user.start("cpu")
    services = [deployment.service(name) for name in ("proxy", "firewall")]
    for container in (user.container(), *services):
        pid = container.attrs["State"]["Pid"]
        assert is_out_of_reach(reach(deployment, pid)), container.name


def test_only_a_person_with_the_hubs_number_would_be_in_its_reach(
    deployment: Deployment,
) -> None:
    """The doctor warns of such a person, who nobody but AppArmor would keep from it."""
    with process_of(uids.HUB) as pid:
        assert ("reached root" in reach(deployment, pid)) is not has_apparmor()


@contextlib.contextmanager
def process_of(user: int) -> Iterator[int]:
    """A process of a user of the host; its PID."""
    command = ["sleep", "600"]
    process = subprocess.Popen(command, user=user, group=user, extra_groups=[])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(10)


def reach(deployment: Deployment, pid: int) -> str:
    """Try all ways from the hub to a process of the host; return what came of each."""
    return inside(deployment, "python3", "-c", REACH, str(pid))


def is_out_of_reach(seen: str) -> bool:
    """Whether the hub saw that a process is there, and had no way to it."""
    is_there = seen.startswith(f"{uids.HUB} True")
    return is_there and "reached" not in seen and "ptrace -1" in seen


def has_apparmor() -> bool:
    """Whether the kernel confines containers to Docker's profile."""
    switch = Path("/sys/module/apparmor/parameters/enabled")
    return switch.exists() and switch.read_text().strip() == "Y"


def test_a_hub_that_was_taken_over_gets_no_more_from_the_engine(
    deployment: Deployment, engine: docker.DockerClient, people: Callable[[str], User]
) -> None:
    """From inside its container: a way out, a look at the gate, the hub's own data."""
    user = people("victim")
    user.start("cpu")
    made = user.container().attrs
    name = f"{deployment.project}-evil"
    labels = made["Config"]["Labels"].items()  # the image's own ones are among them
    own = {key: value for key, value in labels if key.startswith("gpuspawner.")}
    create = f"/v1.41/containers/create?name={name}"
    body = {
        "Image": made["Config"]["Image"],
        "Cmd": ["true"],
        "Env": [row for row in made["Config"]["Env"] if row.startswith("NVIDIA_")],
        "Labels": own | {"gpuspawner.container": name, "gpuspawner.lease": "ls_evil"},
        "HostConfig": {
            key: made["HostConfig"][key]
            for key in (
                "Memory", "MemorySwap", "PidsLimit", "NanoCpus", "NetworkMode",
                "CapDrop", "SecurityOpt",
            )
        },
    }  # fmt: skip
    host = body["HostConfig"]
    said = ask(deployment, "POST", create, body)  # this much it can do
    assert said.startswith("201"), said
    gone = ask(deployment, "DELETE", f"/v1.41/containers/{name}?force=1&v=1", None)
    assert gone.startswith(("204", "404")), gone
    data = f"{deployment.project}_data"
    for changed in (
        {"Privileged": True},
        {"Binds": ["/:/host"]},
        {"Binds": [f"{data}:/data"]},
        {"PidMode": "host"},
        {"NetworkMode": f"{deployment.project}_default"},
    ):
        said = ask(deployment, "POST", create, body | {"HostConfig": host | changed})
        assert said.startswith("403"), said
        assert not engine.containers.list(all=True, filters={"name": name})
    for service in ("hub", "proxy", "engine-gate"):
        at = f"/v1.41/containers/{deployment.service(service).id}"
        assert ask(deployment, "POST", f"{at}/exec", {"Cmd": ["sh"]}).startswith("403")
        looked = ask(deployment, "GET", f"{at}/json", None)
        assert looked.startswith("200")
        assert "CONFIGPROXY_AUTH_TOKEN" not in looked


def test_without_the_gate_servers_go_on_and_none_starts(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """The hub knows nothing of the engine then, and says so; afterwards it works."""
    user, other = people("steady"), people("late")
    user.start("1-gpu")
    gate = deployment.service("engine-gate")
    gate.stop(timeout=5)
    said_before = len(gate.logs())
    try:
        assert user.answers()
        with pytest.raises(RefusedError) as refused:
            other.start("cpu")
        assert len(refused.value.message.split()) > 4
        assert "Traceback" not in refused.value.message
        assert user.listed()[""]["ready"]
    finally:
        gate.start()
    wait_until(
        lambda: b"stands at" in gate.logs()[said_before:],
        what="the gate is back",
        within_s=20,
    )
    assert user.answers()
    assert other.start("cpu").running


def test_up_says_why_the_gate_does_not_start(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path: Path,
) -> None:
    """The hub would wait for the engine for ever."""
    with EngineProxy(engine_socket, engine_socket.parent / "caps.sock") as proxy:
        mine = Deployment(
            root=Path(__file__).resolve().parents[2],
            engine=engine,
            proxy=proxy,
            gpu_dir=gpu_dir,
            state_dir=tmp_path,
            port=8090,
            project="torchroom-caps",
            settings={"TORCHROOM_GATE_CAPS": "SYS_ADMIN"},
        )
        try:
            said = mine.make("up", accept_failure=True)
        finally:
            mine.make("down")
    assert "the gate in front of the engine does not run" in said
    assert "SYS_ADMIN is not for servers" in said
