"""Talks to the Docker engine: threads, deadlines, errors with a meaning.

An answer of 5xx, a time-out or a broken connection is `EngineUnknown`: containers may
be in any state. Only a 404 means that something is gone.
"""

import asyncio
import io
import re
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, StreamParseError
from docker.utils import parse_repository_tag

from gpuspawner.errors import EngineRefused, EngineUnknown
from gpuspawner.model import Container, DeviceClaim

CALL_TIMEOUT_S = 60
N_CALLS = 32  # at once; Docker serialises what it must
N_PULLS = 4
TAR_OVERHEAD = 64 * 1024  # headers and padding around one file
GONE_DEADLINE_S = 60.0
STOPPED_DEADLINE_S = 10.0  # after the engine said that it stopped
CHECK_DEADLINE_S = 20.0
# Go's os.FileMode, as in the engine's X-Docker-Container-Path-Stat header.
GO_MODE_DIR = 1 << 31
GO_MODE_NOT_REGULAR = GO_MODE_DIR | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 19

NOT_FOUND, CONFLICT, SERVER_ERROR = 404, 409, 500
EVENTS_DEADLINE_S = 20.0
EVER = 1  # events since then; 0 would be none


@dataclass(frozen=True, slots=True)
class PathStat:
    """A path inside a container, links not followed."""

    size: int
    is_dir: bool
    is_file: bool


class DockerEngine:
    """An Engine on docker-py. Calls run in threads of their own; pulls in others.

    Args:
        connect: Makes a docker.APIClient; called once, in a thread of the pool.
    """

    def __init__(self, connect: Callable[[], docker.APIClient]) -> None:
        self._connect = connect
        self._client: docker.APIClient | None = None
        self._calls = ThreadPoolExecutor(N_CALLS, thread_name_prefix="engine")
        self._pulls = ThreadPoolExecutor(N_PULLS, thread_name_prefix="pull")

    @property
    def client(self) -> docker.APIClient:
        """The one client, connected at first use."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a docker-py method in a thread.

        Raises:
            EngineUnknown: The engine did not answer properly.
            EngineRefused: It answered with a 4xx.
        """
        return await self._run(lambda: getattr(self.client, method)(*args, **kwargs))

    async def _run(self, work: Callable[[], Any]) -> Any:
        future = self._calls.submit(_translated, work)
        return await asyncio.wrap_future(future)

    async def list(self) -> list[Container]:
        """See `Engine.list`. Containers that vanish meanwhile are left out.

        One that cannot be inspected is told from its row, and is taken to hold every
        device that its labels do not name: it must not stop the others' reading.
        """
        rows = await self.call("containers", all=True)
        found = await asyncio.gather(*(self._of_row(row) for row in rows))
        return [container for container in found if container]

    async def _of_row(self, row: Mapping[str, Any]) -> Container | None:
        try:
            return await self.inspect(row["Id"])
        except EngineUnknown:
            return Container(
                id=row["Id"],
                name=str((row.get("Names") or [""])[0]).lstrip("/"),
                status=str(row.get("State", "")),
                labels=dict(row.get("Labels") or {}),
                claim=DeviceClaim(takes_all=True),
            )

    async def inspect(self, name: str) -> Container | None:
        """See `Engine.inspect`."""
        try:
            return parse(await self.call("inspect_container", name))
        except EngineRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise EngineUnknown(str(error)) from error

    async def stop(self, name: str, *, timeout_s: int = 10) -> Container | None:
        """See `Engine.stop`. Safe to call twice and at the same time."""
        found = await self.inspect(name)
        if found is None or not found.is_running:
            return found
        try:
            await self.call("stop", found.id, timeout=timeout_s)
        except EngineRefused as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                raise
        deadline = time.monotonic() + STOPPED_DEADLINE_S
        while (stopped := await self.inspect(found.id)) and stopped.is_running:
            if time.monotonic() > deadline:
                raise EngineUnknown(f"container {found.name} does not stop")
            await asyncio.sleep(0.1)
        return stopped

    async def remove(self, name: str) -> None:
        """See `Engine.remove`. Safe to call twice and at the same time."""
        found = await self.inspect(name)
        if found is None:
            return
        try:
            await self.call("remove_container", found.id, force=True, v=True)
        except EngineRefused as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                raise
        deadline = time.monotonic() + GONE_DEADLINE_S
        while await self.inspect(found.id) is not None:
            if time.monotonic() > deadline:
                raise EngineUnknown(f"container {found.name} does not go away")
            await asyncio.sleep(0.1)

    async def run_check(
        self, name: str, command: Sequence[str], *, user: str = "0"
    ) -> int:
        """See `Engine.run_check`."""
        made = await self.call("exec_create", name, list(command), user=user)
        await self.call("exec_start", made["Id"], detach=True)
        deadline = time.monotonic() + CHECK_DEADLINE_S
        while time.monotonic() < deadline:
            seen = await self.call("exec_inspect", made["Id"])
            if not seen["Running"] and seen["ExitCode"] is not None:
                return int(seen["ExitCode"])
            await asyncio.sleep(0.05)
        raise EngineUnknown("a check inside the container did not end")

    async def image_environment(self, image: str) -> dict[str, str]:
        """Return the variables that an image brings, {} if it is not there."""
        rows = (await self._image(image)).get("Env") or []
        return {key: value for key, _, value in (row.partition("=") for row in rows)}

    async def image_user(self, image: str) -> str:
        """Return whom an image starts as, "" if it does not say or is not there."""
        return str((await self._image(image)).get("User") or "")

    async def _image(self, image: str) -> dict[str, Any]:
        try:
            found = await self.call("inspect_image", image)
        except EngineRefused as error:
            if error.status == NOT_FOUND:
                return {}
            raise
        return dict(found.get("Config") or {})

    async def has_image(self, image: str) -> bool:
        """Return whether the image is on the engine."""
        try:
            await self.call("inspect_image", image)
        except EngineRefused as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    async def pull(self, image: str) -> AsyncIterator[str]:
        """See `Engine.pull`. Has its own threads: a slow pull blocks nobody else."""
        if await self.has_image(image):
            return
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def work() -> None:
            try:
                for line in _translated(lambda: _pull(self.client, image)):
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            finally:
                loop.call_soon_threadsafe(lines.put_nowait, None)

        future = asyncio.wrap_future(self._pulls.submit(_translated, work))
        while (line := await lines.get()) is not None:
            yield line
        await future

    async def facts(self) -> Mapping[str, Any]:
        """See `Engine.facts`."""
        info = await self.call("info")
        discovered = info.get("DiscoveredDevices") or []
        return {
            "memory_bytes": int(info["MemTotal"]),
            "n_cpus": int(info["NCPU"]),
            "cdi_devices": {row.get("ID") for row in discovered},
        }

    async def stat(self, name: str, path: str) -> PathStat | None:
        """Return a path's kind and size inside a container, None if it is not there."""
        try:
            found, raw = await self.call("get_archive", name, path)
        except EngineRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise
        found.close()
        mode = int(raw["mode"])
        return PathStat(
            size=int(raw["size"]),
            is_dir=bool(mode & GO_MODE_DIR),
            is_file=not mode & GO_MODE_NOT_REGULAR,
        )

    async def read_file(self, name: str, path: str, max_bytes: int) -> bytes | None:
        """Return a regular file's content; None if there is none or it is larger.

        The path lies in a student's home and may be anything: no more than the limit
        is ever read.
        """

        def work() -> bytes | None:
            chunks, raw = self.client.get_archive(name, path)
            with closing(chunks):
                if int(raw["mode"]) & GO_MODE_NOT_REGULAR or raw["size"] > max_bytes:
                    return None
                packed = b""
                for chunk in chunks:
                    packed += chunk
                    if len(packed) > max_bytes + TAR_OVERHEAD:
                        return None
            return _only_file(packed)

        try:
            content: bytes | None = await self._run(work)
        except EngineRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return content

    async def put(self, name: str, folder: str, packed: bytes) -> None:
        """Unpack a tar into a folder of a container, running or not."""
        await self.call("put_archive", name, folder, packed)

    async def n_oom_since(self, name: str, since: datetime) -> int:
        """Return how often the kernel ended a process in it for memory since then.

        Times are whole seconds: an event of the current second is counted by the next
        call, so calls whose `since` is the time of the one before miss none.
        """

        def work() -> int:
            events = self.client.events(
                since=since,
                until=datetime.now(UTC),
                filters={"event": "oom", "container": name},
                decode=True,
            )
            return sum(1 for _ in events)

        return int(await self._run(work))

    async def died_at(self, labels: Mapping[str, str]) -> datetime | None:
        """See `Engine.died_at`. Engines remember only their last few hundred events."""
        filters = {
            "type": "container",
            "event": "die",
            "label": [f"{key}={value}" for key, value in labels.items()],
        }

        def work() -> datetime | None:
            # In whole seconds: up to now would leave this second out. So the engine
            # answers after a second at most.
            until = datetime.now(UTC) + timedelta(seconds=1)
            events = self.client.events(
                since=EVER, until=until, filters=filters, decode=True
            )
            return max((event_time(event) for event in events), default=None)

        try:
            async with asyncio.timeout(EVENTS_DEADLINE_S):  # docker-py sets none here
                found: datetime | None = await self._run(work)
        except TimeoutError as error:
            raise EngineUnknown("the engine does not tell its events") from error
        return found


# What docker-py lets through when an answer breaks off or cannot be read.
BROKEN = (
    DockerException,
    StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
)


def _translated(work: Callable[[], Any]) -> Any:
    """Run blocking work; say what its errors mean."""
    try:
        return work()
    except APIError as error:
        said = str(error.explanation or error)
        status = error.status_code or SERVER_ERROR
        if status < SERVER_ERROR:
            raise EngineRefused(said, status) from error
        raise EngineUnknown(said) from error
    except BROKEN as error:
        raise EngineUnknown(f"the engine does not answer: {error}") from error


def _only_file(packed: bytes) -> bytes | None:
    """Return the content of a tar's first member if it is a regular file."""
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.isfile() else None
            return file.read() if file else None
    except tarfile.TarError:
        return None


def _pull(client: docker.APIClient, image: str) -> Iterator[str]:
    repository, tag = parse_repository_tag(image)
    layers: dict[str, tuple[int, int]] = {}
    shown = -1
    for row in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
        if "error" in row:
            raise EngineRefused(str(row["error"]), NOT_FOUND)
        detail = row.get("progressDetail") or {}
        if row.get("status") == "Downloading" and detail.get("total"):
            layers[row["id"]] = (detail["current"], detail["total"])
        total = sum(size for _, size in layers.values())
        percent = (
            sum(done for done, _ in layers.values()) * 100 // total if total else 0
        )
        if percent // 5 > shown:
            shown = percent // 5
            yield f"Downloading the image: {percent} % of {total / 2**30:.1f} GiB"


def parse(raw: Mapping[str, Any]) -> Container:
    """Return a container from the engine's inspect answer."""
    state, host = raw["State"], raw.get("HostConfig") or {}
    return Container(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        status=state["Status"],
        labels=dict(raw["Config"].get("Labels") or {}),
        claim=_claim(host.get("DeviceRequests") or []),
        exit_code=int(state.get("ExitCode") or 0),
        is_oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")),
        pid=int(state.get("Pid") or 0),
    )


def _claim(requests_: Sequence[Mapping[str, Any]]) -> DeviceClaim:
    ids = [str(i) for row in requests_ for i in (row.get("DeviceIDs") or [])]
    return DeviceClaim(
        tuple(ids), takes_all=any(int(row.get("Count") or 0) for row in requests_)
    )


def event_time(event: Mapping[str, Any]) -> datetime:
    """Return when an event was, to the microsecond."""
    microseconds = int(event["timeNano"]) // 1000
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def _time(text: str | None) -> datetime | None:
    """Return Docker's RFC 3339 time; its zero time means never."""
    if not text or text.startswith("0001-"):
        return None
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00")
    return datetime.fromisoformat(trimmed).astimezone(UTC)
