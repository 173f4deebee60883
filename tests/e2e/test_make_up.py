"""``make up``, again, ``make down``, ``make purge``, on a deployment of its own."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests
from testbed.engine import run, wait_until
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def mine(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A deployment beside the shared one, started here for the first time."""
    with EngineProxy(engine_socket, engine_socket.parent / "up.sock") as proxy:
        deployment = Deployment(
            root=Path(__file__).resolve().parents[2],
            engine=engine,
            proxy=proxy,
            gpu_dir=gpu_dir,
            state_dir=tmp_path_factory.mktemp("up"),
            port=8010,
            project="torchroom-up",
            settings={"TORCHROOM_HOME_POLICY": "delete"},
        )
        deployment.up()
        yield deployment
        deployment.make("down")


@pytest.fixture(scope="module")
def first_output(mine: Deployment) -> str:
    """What the first ``make up`` printed."""
    return mine.last_output


def ids(deployment: Deployment) -> dict[str, str]:
    """Service -> container id and start time."""
    services = {name: deployment.service(name) for name in ("hub", "proxy")}
    return {n: f"{c.id} {c.attrs['State']['StartedAt']}" for n, c in services.items()}


def firewall_chains(deployment: Deployment) -> str:
    """What the names of this deployment's chains begin with."""
    network = deployment.engine.networks.get(f"{deployment.project}_servers")
    bridge = network.attrs["Options"]["com.docker.network.bridge.name"]
    return f"TORCHROOM-{bridge.removeprefix('tr-')}"


def test_up_says_where_and_how_to_log_in(mine: Deployment, first_output: str) -> None:
    """Address, local login with its password, the GPUs found, steps with times."""
    assert mine.url in first_output
    assert mine.login["user_password"] in first_output
    assert mine.login["admin_user"] in first_output
    assert mine.login["admin_password"] in first_output
    assert "simulated" in first_output.lower()
    assert re.search(r"\b4\b", first_output)
    assert len(re.findall(r"\d+(\.\d+)? ?s\b", first_output)) >= 3


def test_the_hub_is_healthy_at_the_end_of_up(mine: Deployment) -> None:
    """When ``make up`` has ended, the hub answers and its health check says so."""
    assert requests.get(f"{mine.url}/hub/health", timeout=5).ok
    wait_until(
        lambda: mine.service("hub").attrs["State"]["Health"]["Status"] == "healthy",
        what="the engine's own health check agrees",
        within_s=15,
    )


def test_only_the_loopback_address_is_bound(mine: Deployment) -> None:
    """Nothing of the deployment listens on an address that others reach."""
    for name in ("hub", "proxy"):
        ports = mine.service(name).attrs["NetworkSettings"]["Ports"] or {}
        bound = [row["HostIp"] for rows in ports.values() for row in rows or []]
        assert set(bound) <= {"127.0.0.1"}, f"{name}: {ports}"


def test_the_doctor_finds_the_deployment_well(mine: Deployment) -> None:
    """On the host as by hand, and inside the hub, where the gate is in between."""
    asked = {"services", "engine", "seccomp", "login", "allow", "tls", "secrets"}
    on_host = levels(mine.make("doctor", accept_failure=True))
    assert {check: on_host[check] for check in asked} == dict.fromkeys(asked, "ok")
    assert on_host["isolation"] == "ok"
    said = mine.service("hub").exec_run(["torchroom", "doctor"]).output
    assert isinstance(said, bytes)
    inside = levels(said.decode())
    assert {check: inside[check] for check in asked - {"services"}} == dict.fromkeys(
        asked - {"services"}, "ok"
    ), said


def levels(said: str) -> dict[str, str]:
    """The doctor's checks and what it makes of them; of several the last."""
    found = re.findall(r"^(ok|warn|FAIL|\?) +([\w-]+) ", said, re.MULTILINE)
    return {check: level for level, check in found}


def test_up_again_changes_nothing(mine: Deployment) -> None:
    """The second ``make up`` keeps every container as it is."""
    before = ids(mine)
    output = mine.up()
    assert ids(mine) == before
    assert mine.url in output
    assert mine.login["user_password"] in output


def test_wrong_passwords_are_refused(mine: Deployment) -> None:
    """Neither an empty password nor a user's password for the admin logs in."""
    for name, password in (
        ("somebody", ""),
        ("somebody", "wrong"),
        (mine.login["admin_user"], mine.login["user_password"]),
    ):
        session = requests.Session()
        session.get(f"{mine.url}/hub/login", timeout=10)
        form = {"username": name, "password": password}
        form["_xsrf"] = session.cookies.get("_xsrf", path="/hub/") or ""
        reply = session.post(f"{mine.url}/hub/login", data=form, timeout=30)
        assert "Invalid username or password" in reply.text, (name, reply.status_code)


def test_down_keeps_homes_and_people_and_purge_asks(mine: Deployment) -> None:
    """After down and up people and homes are the same; purge asks first."""
    student = mine.new_user("keeper")
    student.start("cpu")
    student.execute("sh", "-c", "echo mine > ~/kept.txt")
    student.stop()
    volumes = {volume.name for volume in mine.homes()}
    assert volumes
    chains = firewall_chains(mine)
    assert f":{chains}-OUT " in run("iptables-save")
    mine.make("down")
    assert chains not in run("iptables-save")
    assert not mine.servers()
    with pytest.raises(requests.ConnectionError):
        requests.get(mine.url, timeout=5)
    assert {volume.name for volume in mine.homes()} == volumes

    mine.up()
    student.start("cpu")  # with the token of before
    assert student.execute("cat", "kept.txt") == (0, "mine\n")

    mine.make("purge", answer="no\n", accept_failure=True)
    assert {volume.name for volume in mine.homes()} == volumes
    mine.make("purge", answer="", accept_failure=True)  # no answer is no
    assert {volume.name for volume in mine.homes()} == volumes


def test_a_site_may_delete_homes_with_their_servers(mine: Deployment) -> None:
    """With the policy "delete" a deleted named server takes its own home along."""
    student = mine.new_user("leaver")
    student.start("cpu", server="temporary")
    student.stop("temporary")
    assert mine.homes(user=student.name, server="temporary")
    before = len(mine.homes())
    path = f"/users/{student.name}/servers/temporary"
    reply = student.api("DELETE", path, json={"remove": True})
    assert reply.ok, reply.text
    wait_until(
        lambda: not mine.homes(user=student.name, server="temporary"),
        what="the home of the deleted server is gone",
        within_s=30,
    )
    assert len(mine.homes()) == before - 1


def test_nothing_of_the_machine_is_in_the_state_it_keeps(mine: Deployment) -> None:
    """Secrets on disk are readable by their owner only."""
    for path in mine.state_dir.rglob("*"):
        if path.is_file() and "login" in path.name:
            assert os.stat(path).st_mode & 0o077 == 0, path


def test_purge_deletes_all_of_this_deployment_and_nothing_else(
    mine: Deployment, deployment: Deployment, engine: docker.DockerClient
) -> None:
    """With the project's name typed: no container, home, volume or network is left."""

    def volumes(project: str) -> set[str]:
        return {v.name for v in engine.volumes.list() if v.name.startswith(project)}

    others = volumes(deployment.project)
    assert others
    assert volumes(mine.project)
    mine.make("purge", answer=f"{mine.project}\n")
    assert volumes(mine.project) == set()
    assert not engine.containers.list(all=True, filters={"name": mine.project})
    assert not engine.networks.list(names=[mine.project])
    assert volumes(deployment.project) == others
    assert requests.get(f"{deployment.url}/hub/health", timeout=5).ok
