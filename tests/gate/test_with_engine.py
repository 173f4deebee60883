"""The plugin's adapter and an attacker, behind a gate before a real engine."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from docker.models.networks import Network
from gate.behind import HUB, NETWORK, Said, gate, labels, request, say, server
from gpuspawner import homes, seeding
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown
from gpuspawner.model import Owner
from testbed.engine_proxy import EngineProxy

pytestmark = pytest.mark.docker

HOME = "/home/jovyan"
VOLUME = f"{HUB}-home-ann"
NAME = f"{HUB}-ann"
STUDENT = seeding.Owner(1000, 1000)


@pytest.fixture(scope="module")
def network(engine: docker.DockerClient) -> Iterator[Network]:
    """The network that servers join."""
    made = engine.networks.create(NETWORK)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def seen(
    engine_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProxy]:
    """What stands between the gate and the engine, and sees what is asked."""
    path = tmp_path_factory.mktemp("engine") / "engine.sock"
    with EngineProxy(engine_socket, path) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def door(
    seen: EngineProxy, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The gate's socket."""
    path = tmp_path_factory.mktemp("gate") / "gate.sock"
    with gate(seen.path, path):
        yield path


@pytest.fixture
def behind(door: Path) -> DockerEngine:
    """The plugin's adapter, which knows nothing of the gate."""
    return DockerEngine(
        lambda: docker.APIClient(base_url=f"unix://{door}", version="auto", timeout=60)
    )


async def create(behind: DockerEngine, image: str, **host: Any) -> str:
    """Ask for a container as the plugin does."""
    body = server(NAME, **host) | {"Image": image}
    config: dict[str, Any] = {key: body[key] for key in ("Image", "Cmd", "Env")}
    config |= {"Labels": body["Labels"], "HostConfig": body["HostConfig"]}
    made = await behind.call("create_container_from_config", config, NAME)
    return str(made["Id"])


@pytest.fixture
async def mine(behind: DockerEngine, user_image: str) -> AsyncIterator[str]:
    """A created server with its home."""
    await behind.remove(NAME)
    await homes.ensure_volume(behind, VOLUME, HUB, Owner("ann", ""), is_known=False)
    yield await create(behind, user_image)
    await behind.remove(NAME)
    await homes.delete_volume(behind, VOLUME, HUB)


@pytest.fixture
def other(engine: docker.DockerClient, user_image: str) -> Iterator[Container]:
    """Somebody else's container on the same engine."""
    made = engine.containers.run(
        user_image,
        ["sleep", "600"],
        detach=True,
        init=True,
        environment={"PASSWORD": "secret"},
        labels={"note": "secret"},
    )
    yield made
    made.remove(force=True, v=True)


# --------------------------------------------------------------- what servers need


async def test_a_server_lives_behind_the_gate(
    behind: DockerEngine, mine: str, user_image: str
) -> None:
    """Home, files, start, checks, reading, events, stop, removal."""
    assert await behind.has_image(user_image)
    assert (await behind.facts())["n_cpus"] >= 1
    began = datetime.now(UTC) - timedelta(seconds=2)
    files = {"a.py": b"one", "more/b.bin": bytes(range(256)) * 40_000}
    await homes.seed(behind, mine, HOME, files, STUDENT)
    await behind.call("start", mine)
    found = await behind.inspect(NAME)
    assert found
    assert (found.id, found.is_running) == (mine, True)
    assert found.pid > 1
    assert mine in {row.id for row in await behind.list()}
    assert await behind.read_file(mine, f"{HOME}/a.py", 100) == b"one"
    large = await behind.read_file(mine, f"{HOME}/more/b.bin", 2**24)
    assert large == files["more/b.bin"]
    assert await behind.stat(NAME, f"{HOME}/absent") is None
    assert await behind.run_check(mine, ["sh", "-c", "exit 3"]) == 3
    assert await behind.n_oom_since(mine, began) == 0
    stopped = await behind.stop(mine, timeout_s=0)
    assert stopped
    assert stopped.finished_at
    assert await behind.died_at(labels(NAME)) is not None
    await behind.remove(mine)
    assert await behind.inspect(mine) is None


async def test_a_command_talks_through_the_gate(
    behind: DockerEngine, mine: str
) -> None:
    """Output as it comes, and input into an upgraded connection."""
    await behind.call("start", mine)
    made = await behind.call("exec_create", mine, ["sh", "-c", "echo out"], user="0")
    assert await behind.call("exec_start", made["Id"]) == b"out\n"
    made = await behind.call("exec_create", mine, ["head", "-n1"], stdin=True, tty=True)
    stream = await behind.call("exec_start", made["Id"], tty=True, socket=True)
    try:
        stream._sock.settimeout(20)
        stream._sock.sendall(b"hello\n")
        got = b""
        while data := stream._sock.recv(100):
            got += data
    finally:
        stream.close()
    assert got.count(b"hello") == 2  # the terminal's echo, and the answer


async def test_a_pull_that_cannot_work_says_so(behind: DockerEngine) -> None:
    """The gate passes the request on, and the engine's words back."""
    with pytest.raises((EngineRefused, EngineUnknown)) as failed:
        async for _ in behind.pull("127.0.0.1:1/nobody/nothing:never"):
            pass
    assert "gate" not in str(failed.value)


async def test_others_containers_are_seen_and_not_read(
    behind: DockerEngine, door: Path, other: Container
) -> None:
    """The plugin must know who holds a GPU; it learns nothing else."""
    found = await behind.inspect(str(other.name))
    assert found
    assert found.is_running
    assert found.id in {row.id for row in await behind.list()}
    for target in (f"/containers/{other.id}/json", "/containers/json?all=1"):
        assert b"secret" not in say(door, request("GET", target)).body


async def test_a_refusal_is_told_in_the_gates_words(
    behind: DockerEngine, mine: str, user_image: str
) -> None:
    """The plugin shows what the engine says."""
    with pytest.raises(EngineRefused, match=r"HostConfig\.Privileged") as refused:
        await create(behind, user_image, Privileged=True)
    assert refused.value.status == 403


# --------------------------------------------------------------------- attacks


def asks(seen: EngineProxy, mark: int) -> list[str]:
    """What the engine heard since, beside questions whose something is."""
    found = [f"{r.method} {r.target}" for r in seen.since(mark)]
    return [ask for ask in found if not ask.startswith("GET ")]


def attack(door: Path, seen: EngineProxy, raw: bytes) -> Said:
    """Say something that must be refused without the engine's doing anything."""
    mark = len(seen.requests)
    said = say(door, raw)
    assert said.status in {400, 403}, said
    assert asks(seen, mark) == []
    return said


def creating(body: dict[str, Any], name: str = NAME) -> bytes:
    return request("POST", f"/v1.41/containers/create?name={name}", body)


@pytest.mark.parametrize(
    "changed",
    [
        {"Privileged": True},
        {"Binds": ["/:/host"]},
        {"Binds": [f"{VOLUME}:{HOME}", "/var/run/docker.sock:/s"]},
        {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
        {"PidMode": "host"},
        {"NetworkMode": "host"},
        {"CapAdd": ["SYS_ADMIN"]},
        {"SecurityOpt": ["no-new-privileges", "apparmor=unconfined"]},
        {"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg"}]},
        {"DeviceRequests": [{"Driver": "nvidia", "Count": -1}]},
        {"MaskedPaths": []},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_no_container_gets_the_machine(
    door: Path,
    seen: EngineProxy,
    engine: docker.DockerClient,
    user_image: str,
    changed: dict[str, Any],
) -> None:
    """It is refused, and is not there."""
    name = f"{HUB}-evil"
    body = server(name, **changed) | {"Image": user_image}
    attack(door, seen, creating(body, name))
    attack(door, seen, creating(body | {"HostConfig": {}, "hostconfig": changed}, name))
    assert not engine.containers.list(all=True, filters={"name": name})


async def test_a_volume_is_never_a_way_to_the_host(
    door: Path, seen: EngineProxy, engine: docker.DockerClient, mine: str
) -> None:
    """Neither one made with options, nor one that somebody else made so."""
    options = {"type": "none", "o": "bind", "device": "/etc"}
    evil = f"{HUB}-home-evil"
    labelled = {"gpuspawner.hub": HUB}
    body = {"Name": evil, "Labels": labelled, "DriverOpts": options}
    attack(door, seen, request("POST", "/v1.41/volumes/create", body))
    made = engine.volumes.create(evil, driver_opts=options, labels=labelled)
    try:
        evil_server = server(f"{HUB}-evil", Binds=[f"{evil}:/host"])
        attack(door, seen, creating(evil_server, f"{HUB}-evil"))
    finally:
        made.remove()


async def test_others_containers_are_left_alone(
    door: Path, seen: EngineProxy, other: Container
) -> None:
    """No command, file, stop or removal, by name, id and part of the id."""
    for ref in (str(other.name), str(other.id), str(other.id)[:12]):
        at = f"/v1.41/containers/{ref}"
        attack(door, seen, request("POST", f"{at}/exec", {"Cmd": ["sh"]}))
        attack(door, seen, request("POST", f"{at}/stop?t=0"))
        attack(door, seen, request("DELETE", f"{at}?force=1"))
        attack(door, seen, request("GET", f"{at}/archive?path=%2Fetc"))
        put = request("PUT", f"{at}/archive?path=%2F", headers={"Content-Length": "3"})
        attack(door, seen, put + b"tar")
    other.reload()
    assert other.status == "running"


async def test_a_command_somebody_else_prepared_is_not_started(
    door: Path, seen: EngineProxy, engine: docker.DockerClient, other: Container
) -> None:
    """A command's id says whose it is only to who asks."""
    made = engine.api.exec_create(str(other.id), ["touch", "/evil"])["Id"]
    attack(door, seen, request("POST", f"/exec/{made}/start", {"Detach": True}))
    assert other.exec_run(["test", "-e", "/evil"]).exit_code == 1


async def test_requests_do_not_hide_in_one_another(
    door: Path, seen: EngineProxy, mine: str, other: Container
) -> None:
    """After a request, in its body, and after an upgrade that was none."""
    evil = request("POST", f"/v1.41/containers/{other.id}/stop?t=0")
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
    chunked = {"Transfer-Encoding": "chunked"}
    put = f"/v1.41/containers/{mine}/archive?path=%2F"
    mark = len(seen.requests)
    for raw in (
        request("GET", "/_ping") + evil,
        request("POST", f"/v1.41/containers/{mine}/start") + evil,
        request("PUT", put, headers=chunked) + b"0\r\n\r\n" + evil,
        request("PUT", put, headers=chunked | {"Content-Length": "5"})
        + b"0\r\n\r\n"
        + evil,
        request("PUT", put, headers={"Content-Length": "0"}) + evil,
        request("POST", f"/v1.41/exec/{'0' * 64}/start", {}, upgrade) + evil,
        request("GET", "/info", headers=upgrade) + evil,
    ):
        say(door, raw)
    assert not [ask for ask in asks(seen, mark) if str(other.id) in ask]
    other.reload()
    assert other.status == "running"


@pytest.mark.parametrize(
    "target",
    [
        "/v1.41/../containers/json",
        "/v1.41/containers/../info",
        "/v1.41/%2e%2e/info",
        "//info",
        "/v1.41//containers/json",
        "http://docker/info",
        "/v1.24/info",
        "/images/json",
        "/info?a=b",
        "/v1.41/containers/x%2Fexport",
    ],
)
async def test_paths_have_one_form(door: Path, seen: EngineProxy, target: str) -> None:
    """The engine never hears of any other."""
    mark = len(seen.requests)
    assert say(door, request("GET", target)).status in {400, 403}
    assert seen.since(mark) == []


async def test_headers_have_one_form(door: Path, seen: EngineProxy, mine: str) -> None:
    """However they are written, the engine gets the gate's own."""
    target = f"/v1.41/containers/{mine}/archive?path=%2F"
    for head in (
        "tRANSFER-eNCODING: chunked\r\nCONTENT-length: 5",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: identity",
        "Content-Length: 5\r\nContent-length: 6",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding : chunked",
        "X: y\r\n Transfer-Encoding: chunked",
    ):
        raw = f"PUT {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n".encode()
        assert attack(door, seen, raw).status == 400


async def test_nothing_else_of_the_engine_answers(
    door: Path, seen: EngineProxy, mine: str
) -> None:
    """Not even about what is ours."""
    for method, target in (
        ("POST", "/v1.41/build"),
        ("POST", f"/v1.41/commit?container={mine}"),
        ("POST", f"/v1.41/containers/{mine}/update"),
        ("POST", f"/v1.41/containers/{mine}/rename?name={HUB}-b"),
        ("POST", f"/v1.41/containers/{mine}/attach?stream=1"),
        ("POST", "/v1.41/images/load"),
        ("POST", "/v1.41/networks/create"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/volumes/prune"),
        ("POST", "/v1.41/swarm/init"),
        ("POST", "/v1.41/plugins/pull?remote=x"),
    ):
        said = attack(door, seen, request(method, target))
        assert json.loads(said.body)["message"]
