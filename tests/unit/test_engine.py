"""What the engine adapter asks for and makes of the answers, without an engine."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import docker
import pytest
from docker.errors import APIError
from gpuspawner import engine as engines
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown
from requests import Response

AT = datetime(2026, 3, 2, 8, 0, 0, 123456, tzinfo=UTC)
NANO = int(AT.timestamp()) * 10**9 + 123_456_789


def refused(status: int) -> APIError:
    """What docker-py raises for this answer."""
    response = Response()
    response.status_code = status
    return APIError("no", response=response, explanation="no")


class Client:
    """As much of docker.APIClient as is asked here; a container in one state."""

    def __init__(self) -> None:
        self.status = "running"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.rows: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: dict[str, int] = {}

    def _ask(self, method: str, **kwargs: Any) -> None:
        self.asked.append((method, kwargs))
        if status := self.fails.pop(method, 0):
            raise refused(status)

    def inspect_container(self, name: str) -> dict[str, Any]:
        if self.status == "gone":
            raise refused(404)
        ended = "2026-03-02T08:00:00.123456789Z"
        state = {"Status": self.status, "FinishedAt": ended}
        return {"Id": name, "Name": "/x", "State": state, "Config": {}}

    def stop(self, _name: str, timeout: int) -> None:
        self._ask("stop", timeout=timeout)
        self.status = "exited"

    def remove_container(self, _name: str, **kwargs: Any) -> None:
        self._ask("remove_container", **kwargs)
        self.status = "gone"

    def events(self, **kwargs: Any) -> Iterator[dict[str, Any]]:
        self._ask("events", **kwargs)
        self.gate.wait(30)
        yield from self.rows


def adapter(client: Client) -> DockerEngine:
    return DockerEngine(lambda: cast("docker.APIClient", client))


async def test_a_container_is_stopped_once_and_stays() -> None:
    """It says when it ended; the next call finds it so."""
    client = Client()
    for _ in range(2):
        found = await adapter(client).stop("x", timeout_s=7)
        assert found
        assert found.finished_at == AT
    assert client.asked == [("stop", {"timeout": 7})]


async def test_a_container_that_is_gone_needs_no_stop() -> None:
    client = Client()
    client.status = "gone"
    assert await adapter(client).stop("x") is None
    await adapter(client).remove("x")
    assert client.asked == []


@pytest.mark.parametrize("status", [404, 409])
async def test_a_container_that_somebody_else_stops_is_stopped(status: int) -> None:
    """Two who stop it at once both see its end."""
    client = Client()
    client.fails["stop"] = status

    async def others() -> None:
        await asyncio.sleep(0.05)
        client.status = "exited"

    found, _ = await asyncio.gather(adapter(client).stop("x"), others())
    assert found
    assert found.finished_at == AT


async def test_a_stop_that_is_refused_is_told() -> None:
    client = Client()
    client.fails["stop"] = 400
    with pytest.raises(EngineRefused):
        await adapter(client).stop("x")


async def test_a_container_that_runs_on_is_not_taken_for_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end is not known: nothing is removed."""
    monkeypatch.setattr(engines, "STOPPED_DEADLINE_S", 0.02)
    client = Client()
    client.fails["stop"] = 409
    with pytest.raises(EngineUnknown, match="does not stop"):
        await adapter(client).stop("x")


async def test_a_removal_asks_nobody_to_stop() -> None:
    client = Client()
    await adapter(client).remove("x")
    assert client.asked == [("remove_container", {"force": True, "v": True})]


async def test_the_last_death_counts_and_all_labels_are_asked_for() -> None:
    """To the microsecond, also one of this very second."""
    client = Client()
    client.rows = [{"timeNano": NANO}, {"timeNano": NANO - 10**9}]
    assert await adapter(client).died_at({"a": "1", "b": "2"}) == AT
    ((_, asked),) = client.asked
    assert asked["filters"] == {
        "type": "container",
        "event": "die",
        "label": ["a=1", "b=2"],
    }
    assert asked["since"] == 1
    assert asked["until"] > datetime.now(UTC) + timedelta(seconds=-1)


async def test_an_engine_that_forgot_says_nothing() -> None:
    assert await adapter(Client()).died_at({"a": "1"}) is None


async def test_an_engine_that_tells_no_end_of_its_events_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop does not wait for it for ever."""
    monkeypatch.setattr(engines, "EVENTS_DEADLINE_S", 0.02)
    client = Client()
    client.gate.clear()
    with pytest.raises(EngineUnknown, match="does not tell its events"):
        await adapter(client).died_at({"a": "1"})
    client.gate.set()
