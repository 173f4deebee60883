"""The engine adapter on a real engine: what it reads, and what its errors mean."""

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import docker
import pytest
from gpuspawner import homes, seeding
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown
from gpuspawner.model import Owner
from gpuspawner.seeding import MANIFEST
from gpuspawner.seeding import Owner as FileOwner
from testbed.engine_proxy import EngineProxy

pytestmark = pytest.mark.docker

HOME = "/home/jovyan"
STUDENT = FileOwner(1000, 1000)


def adapter(socket: Path, timeout: int = 60) -> DockerEngine:
    return DockerEngine(
        lambda: docker.APIClient(base_url=f"unix://{socket}", timeout=timeout)
    )


@pytest.fixture
def real(engine_socket: Path) -> DockerEngine:
    """The adapter under test."""
    return adapter(engine_socket)


@pytest.fixture
async def server(real: DockerEngine, user_image: str) -> AsyncIterator[str]:
    """A created container with a home volume, as the spawner makes one."""
    name = "torchroom-adapter-test"
    await real.remove(name)
    await homes.ensure_volume(
        real, name, "adapter-test", Owner("ann", ""), is_known=False
    )
    host = real.client.create_host_config(
        binds={name: {"bind": HOME, "mode": "rw"}},
        mem_limit=128 * 2**20,
        memswap_limit=128 * 2**20,
        init=True,
        network_mode="none",
    )
    await real.call(
        "create_container",
        user_image,
        name=name,
        command=["sleep", "600"],
        volumes=[HOME],
        host_config=host,
    )
    yield name
    await real.remove(name)
    await real.call("remove_volume", name)


async def test_a_container_is_read_back_with_its_state(
    real: DockerEngine, server: str
) -> None:
    """Created, running, ended: each with what it needs to be told apart."""
    created = await real.inspect(server)
    assert created
    assert not created.is_running
    assert created.started_at is None
    await real.call("start", server)
    running = await real.inspect(server)
    assert running
    assert running.is_running
    assert running.id in {found.id for found in await real.list()}
    await real.call("kill", server)
    await real.call("wait", server)
    ended = await real.inspect(server)
    assert ended
    assert (ended.status, ended.exit_code) == ("exited", 137)
    assert ended.finished_at
    assert ended.started_at
    assert ended.finished_at > ended.started_at


async def test_a_stopped_container_says_when_it_ended_and_stays(
    real: DockerEngine, server: str
) -> None:
    """Its end is read before it is removed; stopping it again changes nothing."""
    await real.call("start", server)
    stopped = await real.stop(server, timeout_s=0)
    assert stopped
    assert not stopped.is_running
    assert stopped.finished_at
    assert await real.stop(server, timeout_s=0) == stopped
    assert await real.stop("no-such-container") is None


async def test_the_engine_remembers_when_a_removed_container_ended(
    real: DockerEngine, user_image: str
) -> None:
    """To the second or two, found by its labels; of others it says nothing."""
    labels = {"adapter-test.lease": f"ls_{time.time_ns()}", "adapter-test": "x"}
    made = await real.call(
        "create_container", user_image, command=["sleep", "600"], labels=labels
    )
    assert await real.died_at(labels) is None
    await real.call("start", made["Id"])
    stopped = await real.stop(made["Id"], timeout_s=0)
    assert stopped
    assert stopped.finished_at
    await real.remove(made["Id"])
    died_at = await real.died_at(labels)
    assert died_at
    assert abs(died_at - stopped.finished_at) < timedelta(seconds=2)
    assert await real.died_at({**labels, "adapter-test": "y"}) is None


async def test_only_a_404_means_gone(real: DockerEngine) -> None:
    """Removing what is not there is no error, and reading it says None."""
    assert await real.inspect("no-such-container") is None
    await real.remove("no-such-container")


async def test_an_engine_that_fails_hangs_or_is_absent_is_unknown(
    engine_socket: Path, tmp_path: Path
) -> None:
    """None of these ever reads as a stopped or missing container."""
    with EngineProxy(engine_socket, tmp_path / "engine.sock") as proxy:
        slow = adapter(tmp_path / "engine.sock", timeout=2)
        assert await slow.inspect("nobody") is None
        proxy.fail("GET", r"/containers/.*/json", status=500)
        with pytest.raises(EngineUnknown):
            await slow.inspect("nobody")
        proxy.clear()
        proxy.hang("GET", r"/containers/.*/json")
        with pytest.raises(EngineUnknown):
            await slow.inspect("nobody")
        proxy.clear()
    with pytest.raises(EngineUnknown):
        await adapter(tmp_path / "absent.sock").inspect("nobody")


async def test_a_check_inside_returns_its_exit_status(
    real: DockerEngine, server: str
) -> None:
    """The spawner compares devices with the lease through it."""
    await real.call("start", server)
    assert await real.run_check(server, ["sh", "-c", "exit 0"]) == 0
    assert await real.run_check(server, ["sh", "-c", "exit 3"]) == 3


async def test_a_memory_kill_inside_a_running_container_is_seen(
    real: DockerEngine, server: str
) -> None:
    """The kernel ends one process; the server goes on and the hub can tell."""
    before = datetime.now(UTC) - timedelta(seconds=5)
    await real.call("start", server)
    hog = ["python3", "-c", "x = bytearray(10**9)"]
    assert await real.run_check(server, hog) == 137
    found = await real.inspect(server)
    assert found
    assert found.is_running
    async with asyncio.timeout(20):
        while not await real.n_oom_since(server, before):  # noqa: ASYNC110 - no news
            await asyncio.sleep(0.2)


async def test_an_image_nobody_has_is_refused_with_a_sentence(
    real: DockerEngine,
) -> None:
    """A pull that cannot work fails; it never hangs."""
    with pytest.raises((EngineRefused, EngineUnknown)):
        async for _ in real.pull("127.0.0.1:1/nobody/nothing:never"):
            pass


async def test_a_home_is_seeded_and_edits_survive_new_versions(
    real: DockerEngine, server: str
) -> None:
    """On a real volume: the untouched is updated, an edit gets a copy beside it."""
    v1 = {"welcome.ipynb": b"one", "examples/a b.py": b"one"}
    v2 = {"welcome.ipynb": b"two!", "examples/a b.py": b"two!"}
    await homes.seed(real, server, HOME, v1, STUDENT)
    assert await real.read_file(server, f"{HOME}/examples/a b.py", 1000) == b"one"
    mine = seeding.archive({"examples/a b.py": b"mine"}, STUDENT, 1e9)
    await real.put(server, HOME, mine)
    await homes.seed(real, server, HOME, v2, STUDENT)
    assert await real.read_file(server, f"{HOME}/welcome.ipynb", 1000) == b"two!"
    assert await real.read_file(server, f"{HOME}/examples/a b.py", 1000) == b"mine"
    new = f"{HOME}/examples/a b (new version).py"
    assert await real.read_file(server, new, 1000) == b"two!"
    assert (await homes.seed(real, server, HOME, v2, STUDENT)).writes == {}


async def test_an_edit_that_keeps_the_size_is_still_an_edit(
    real: DockerEngine, server: str
) -> None:
    """Content decides."""
    await homes.seed(real, server, HOME, {"a.py": b"one"}, STUDENT)
    await real.put(server, HOME, seeding.archive({"a.py": b"eno"}, STUDENT, 1e9))
    await homes.seed(real, server, HOME, {"a.py": b"two"}, STUDENT)
    assert await real.read_file(server, f"{HOME}/a.py", 1000) == b"eno"


async def test_a_huge_or_odd_file_in_a_home_is_never_read_whole(
    real: DockerEngine, server: str
) -> None:
    """A manifest of 100 GB, or a folder in its place, costs the hub nothing."""
    await real.call("start", server)
    huge = f"mkdir -p {HOME}/.gpuspawner && truncate -s 100G {HOME}/{MANIFEST}"
    assert await real.run_check(server, ["sh", "-c", huge]) == 0
    assert await real.read_file(server, f"{HOME}/{MANIFEST}", 1000) is None
    assert await real.read_file(server, "/usr/lib", 1000) is None
    await homes.seed(real, server, HOME, {"a.py": b"one"}, STUDENT)
    assert await real.read_file(server, f"{HOME}/a.py", 1000) == b"one"


async def test_a_student_who_made_examples_a_file_or_link_keeps_it(
    real: DockerEngine, server: str
) -> None:
    """Nothing is written through it, and nothing fails."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        link = tarfile.TarInfo("examples")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        tar.addfile(link)
    await real.put(server, HOME, packed.getvalue())
    await homes.seed(real, server, HOME, {"examples/a.py": b"one"}, STUDENT)
    assert await real.read_file(server, "/tmp/a.py", 1000) is None


async def test_another_users_volume_is_never_taken_as_a_home(
    real: DockerEngine, server: str
) -> None:
    """Names may collide; labels decide."""
    eve = Owner("eve", "")
    with pytest.raises(homes.HomeConflict, match="not this user's home"):
        await homes.ensure_volume(real, server, "adapter-test", eve, is_known=False)
    # Ann was renamed to Eve: the hub knows that this is her home.
    await homes.ensure_volume(real, server, "adapter-test", eve, is_known=True)
    with pytest.raises(homes.HomeConflict):
        await homes.ensure_volume(real, server, "other-hub", eve, is_known=True)
    with pytest.raises(homes.HomeConflict):
        await homes.delete_volume(real, server, "other-hub")
