"""A gate for tests, and what they say to it: raw bytes, as an attacker would."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuspawner import container as c
from torchroom.gate.policy import Policy
from torchroom.gate.relay import Gate

HUB = "lab"
NETWORK = "lab-servers"
POLICY = Policy(HUB, NETWORK)
UUID = "GPU-11111111-2222-3333-4444-555555555555"
NEUTRAL = [f"{key}={value}" for key, value in c.NEUTRAL.items()]
SAYS_WITHIN_S = 20.0

Json = dict[str, Any]


def labels(name: str, devices: str = "", **changed: str) -> dict[str, str]:
    """A server's labels, as the plugin writes them."""
    return {
        "gpuspawner.hub": HUB,
        "gpuspawner.container": name,
        "gpuspawner.user": "ann",
        "gpuspawner.server": "",
        "gpuspawner.lease": "ls_1",
        "gpuspawner.devices": devices,
        "gpuspawner.slots": devices,
        "gpuspawner.indices": "0" if devices else "",
    } | changed


def host_config(**changed: Any) -> Json:
    """A server's limits, as the plugin writes them."""
    return {
        "Memory": 2**28,
        "MemorySwap": 2**28,
        "ShmSize": 2**20,
        "NetworkMode": NETWORK,
        "RestartPolicy": {"Name": "no"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Binds": ["lab-home-ann:/home/jovyan:rw"],
        "Links": [],
        "PidsLimit": 256,
        "Init": True,
        "NanoCpus": 10**9,
        "Mounts": [],
    } | changed


def server(name: str = "lab-ann", **host: Any) -> Json:
    """What the plugin asks the engine to make."""
    return {
        "Image": "school/image:1",
        "Cmd": ["sleep", "600"],
        "Env": ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL, "A=b"],
        "ExposedPorts": {"8888/tcp": {}},
        "Volumes": {"/home/jovyan": {}},
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": False,
        "HostConfig": host_config(**host),
        "Labels": labels(name),
    }


def with_gpu(driver: str = "nvidia") -> Json:
    """The same with a GPU."""
    found = server()
    prefix = "nvidia.com/gpu=" if driver == "cdi" else ""
    row: Json = {"Driver": driver, "DeviceIDs": [prefix + UUID]}
    if driver == "nvidia":
        row["Capabilities"] = [["gpu", "compute", "utility"]]
        found["Env"][0] = f"NVIDIA_VISIBLE_DEVICES={UUID}"
    found["HostConfig"]["DeviceRequests"] = [row]
    found["Labels"] = labels("lab-ann", UUID)
    return found


def request(
    method: str, target: str, body: object = None, headers: dict[str, str] | None = None
) -> bytes:
    """A request as a client of the engine writes it."""
    text = b"" if body is None else json.dumps(body).encode()
    given = {"Host": "docker"} | (headers or {})
    if body is not None:
        given |= {"Content-Type": "application/json", "Content-Length": str(len(text))}
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode() + text


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    head: bytes
    body: bytes

    @property
    def message(self) -> str:
        """The sentence of an error."""
        return str(json.loads(self.body)["message"])


def say(path: Path, raw: bytes, *, ends: bool = False) -> Said:
    """Send bytes to a socket and return what comes until it hangs up.

    Args:
        path: The socket.
        raw: What to send.
        ends: Say that nothing more comes.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SAYS_WITHIN_S)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(raw)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                got += data
    head, _, body = got.partition(b"\r\n\r\n")
    return Said(int(head.split(b" ", 2)[1]) if head else 0, head, body)


@contextlib.contextmanager
def background() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """An event loop in a thread; call what is given with coroutines."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@contextlib.contextmanager
def gate(engine: Path, path: Path, policy: Policy = POLICY) -> Iterator[None]:
    """A gate in a thread of its own, before an engine's socket."""

    async def close() -> None:
        listening.close()
        await made.end()

    with background() as call:
        made = Gate(str(engine), policy)
        listening = call(made.listen(str(path)))
        try:
            yield
        finally:
            call(close())


@dataclass
class FakeEngine:
    """An engine of a few containers that keeps every byte it is sent."""

    path: Path
    heard: list[bytes] = field(default_factory=list)
    """Each connection's bytes, the gate's own questions among them."""
    containers: dict[str, Json] = field(default_factory=dict)
    volumes: dict[str, Json] = field(default_factory=dict)
    executions: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    """What it says to anything else."""
    keeps_open: bool = False
    """Does it wait for more after its answer?"""

    def add(self, ref: str, name: str, **changed: str) -> str:
        """Make a container; returns its id."""
        made = (ref * 64)[:64]
        row = {
            "Id": made,
            "Name": f"/{name}",
            "State": {"Status": "running", "Pid": 7, "Health": {"Log": ["secret"]}},
            "Created": "2026-01-01T00:00:00Z",
            "Config": {
                "Labels": labels(name) | {"other": "secret"} | changed,
                "Env": ["PASSWORD=secret"],
            },
            "HostConfig": {"DeviceRequests": [{"DeviceIDs": [UUID]}], "Binds": ["/x"]},
        }
        self.containers[made] = self.containers[name] = row
        return made

    def add_volume(self, name: str, hub: str = HUB, **changed: object) -> None:
        """Make a volume."""
        row = {"Name": name, "Driver": "local", "Labels": {"gpuspawner.hub": hub}}
        self.volumes[name] = row | {"Options": None} | changed

    @property
    def told(self) -> list[bytes]:
        """What it was asked beside the gate's own questions."""
        heard = (raw for raw in self.heard if raw)  # some hang up before a word
        return [raw for raw in heard if b" HTTP/1.0\r\n" not in raw]

    def _find(self, target: str) -> object:
        parts = target.partition("?")[0].removeprefix("/v1.41").split("/")
        match parts[1:]:
            case ["containers", "json"]:
                rows = {row["Id"]: row for row in self.containers.values()}
                return [
                    {
                        "Id": row["Id"],
                        "Names": [row["Name"]],
                        "Labels": row["Config"]["Labels"],
                        "Command": "secret",
                        "State": "running",
                    }
                    for row in rows.values()
                ]
            case ["containers", ref, "json"]:
                return self.containers.get(ref)
            case ["volumes", name]:
                return self.volumes.get(name)
            case ["exec", ref, "json"]:
                owner = self.executions.get(ref)
                return owner and {"ID": ref, "ContainerID": owner}
        return None

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection."""
        raw = b""
        number = len(self.heard)
        self.heard.append(raw)
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            self.heard[number] = raw
            if b" HTTP/1.0\r\n" in raw:
                found = self._find(raw.split(b" ")[1].decode())
                status = b"200 OK" if found else b"404 Not Found"
                text = json.dumps(found or {"message": "No such thing"}).encode()
                writer.write(b"HTTP/1.0 " + status + b"\r\n\r\n" + text)
                return
            length = 0
            for line in raw.split(b"\r\n"):
                if line.lower().startswith(b"content-length: "):
                    length = int(line.split()[1])
            self.heard[number] += await reader.readexactly(length)
            writer.write(self.answer)
            await writer.drain()
            while (self.keeps_open or b"chunked" in raw) and (
                data := await reader.read(65536)
            ):
                self.heard[number] += data
                if self.heard[number].endswith(b"\r\n0\r\n\r\n"):
                    return
        finally:
            writer.close()


@contextlib.contextmanager
def fake_engine(path: Path) -> Iterator[FakeEngine]:
    """A running fake engine."""

    async def close() -> None:
        listening.close()

    with background() as call:
        engine = FakeEngine(path)
        listening = call(asyncio.start_unix_server(engine.serve, str(path)))
        try:
            yield engine
        finally:
            call(close())
