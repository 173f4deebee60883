"""The fault proxy itself, in front of the real engine."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError
from testbed.engine_proxy import EngineProxy

pytestmark = pytest.mark.docker

IMAGE = "torchroom-test-empty:1"


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> str:
    """An image with nothing in it: enough to create containers, not to run them."""
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    name, tag = IMAGE.split(":")
    engine.api.import_image_from_data(empty.getvalue(), repository=name, tag=tag)
    return IMAGE


@pytest.fixture
def proxy(engine_socket: Path, tmp_path: Path) -> Iterator[EngineProxy]:
    """A proxy of this test's own."""
    with EngineProxy(engine_socket, tmp_path / "engine.sock") as proxy:
        yield proxy


@pytest.fixture
def client(proxy: EngineProxy) -> docker.DockerClient:
    """A client that believes the proxy is the engine."""
    return docker.DockerClient(base_url=f"unix://{proxy.path}", timeout=20)


@pytest.fixture
def container(client: docker.DockerClient, image: str) -> Iterator[str]:
    """A created, not started container."""
    made = client.api.create_container(image, command=["/none"])["Id"]
    yield made
    client.api.remove_container(made, force=True)


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Do something at the same time."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_passes_archives_through(client: docker.DockerClient, container: str) -> None:
    """An archive of several megabytes goes in and comes out unchanged."""
    content = bytes(range(256)) * 20_000
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    assert client.api.put_archive(container, "/", archive.getvalue())
    stream, _ = client.api.get_archive(container, "/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        back = tar.extractfile("file")
        assert back is not None
        assert back.read() == content


def test_streams_events(client: docker.DockerClient, container: str) -> None:
    """A stream without an end delivers what happens while it is open."""
    events = client.events(decode=True, filters={"container": container})
    client.api.rename(container, f"{container[:12]}-renamed")
    assert next(iter(events))["Action"] == "rename"
    events.close()


def test_records_requests(client: docker.DockerClient, proxy: EngineProxy) -> None:
    """Method and target are recorded without the version of the API."""
    mark = len(proxy.requests)
    client.ping()
    assert [(r.method, r.target) for r in proxy.since(mark)] == [("GET", "/_ping")]


def test_hold_before_keeps_the_engine_unaware(
    client: docker.DockerClient, engine: docker.DockerClient, proxy: EngineProxy
) -> None:
    """Nothing happens in the engine until the held request is released."""
    name = "torchroom-proxy-before"
    with proxy.hold("POST", "/volumes/create") as held:
        thread = in_background(lambda: client.volumes.create(name))
        held.reached()
        assert not engine.volumes.list(filters={"name": name})
    thread.join(10)
    engine.volumes.get(name).remove()


def test_hold_after_keeps_the_client_unaware(
    client: docker.DockerClient, engine: docker.DockerClient, proxy: EngineProxy
) -> None:
    """The engine has done it while the client still waits for the answer."""
    name = "torchroom-proxy-after"
    with proxy.hold("POST", "/volumes/create", when="after") as held:
        thread = in_background(lambda: client.volumes.create(name))
        held.reached()
        engine.volumes.get(name)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()
    engine.volumes.get(name).remove()


def test_held_request_of_a_dead_client_is_dropped(
    engine: docker.DockerClient, proxy: EngineProxy
) -> None:
    """What a killed hub had not sent is not done later in its name."""
    impatient = docker.DockerClient(base_url=f"unix://{proxy.path}", timeout=1)
    name = "torchroom-proxy-dropped"
    with proxy.hold("POST", "/volumes/create") as held:
        with pytest.raises(Exception, match="timed out"):
            impatient.volumes.create(name)
        held.reached()
        impatient.close()
    proxy.clear()
    assert not engine.volumes.list(filters={"name": name})


def test_fails_as_asked_and_only_as_often(
    client: docker.DockerClient, proxy: EngineProxy
) -> None:
    """The client gets the status and the message; afterwards all is well."""
    proxy.fail("GET", "/info", status=503, message="no", times=1)
    with pytest.raises(APIError, match="no") as caught:
        client.info()
    assert caught.value.status_code == 503
    assert client.info()["ServerVersion"]


def test_a_hang_stops_nobody_else(
    client: docker.DockerClient, proxy: EngineProxy
) -> None:
    """While one request has no answer, others are served."""
    with proxy.hang("GET", "/info") as hanging:
        thread = in_background(client.info)
        hanging.reached()
        other = docker.DockerClient(base_url=f"unix://{proxy.path}", timeout=5)
        assert other.ping()
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()
