"""The deployment's TLS proxy as compose runs it, something behind it, and clients."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import docker
import yaml
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from docker.models.containers import Container

from testbed.engine import wait_until

ROOT = Path(__file__).resolve().parents[2]
LISTENS_WITHIN_S = 30
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


def service() -> dict[str, Any]:
    """What docker-compose.yml says about the TLS proxy."""
    text = (ROOT / "docker-compose.yml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["services"]["tls"]
    return found


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a line of docker-compose.yml, as compose does."""
    return _VARIABLE.sub(lambda m: variables.get(m[1]) or m[2] or "", text)


@contextlib.contextmanager
def tls_proxy(
    engine: docker.DockerClient,
    variables: Mapping[str, str],
    *,
    upstream: str,
    network_mode: str = "bridge",
    files: Mapping[Path, str] = {},
    environment: Mapping[str, str] = {},
    data: str = "",
) -> Iterator[Container]:
    """The image with the settings of compose; ended and removed afterwards.

    Args:
        engine: The run's own.
        variables: What `make up` gives to compose.
        upstream: What stands for the hub's proxy: host and port.
        network_mode: "host" to listen on the run's loopback, 8080 and 8443.
        files: Further files here -> where they are there.
        environment: Further variables.
        data: A volume for the certificates; "" for none.
    """
    said = service()
    told = {n: filled(v, variables) for n, v in said["environment"].items()}
    told |= {"TLS_UPSTREAM": upstream, **environment}
    mounts = {
        filled(v["source"], variables): {"bind": v["target"], "mode": "ro"}
        for v in said["volumes"]
        if isinstance(v, dict)
    }
    mounts = {k: v for k, v in mounts.items() if k != "/dev/null"}
    mounts |= {str(k): {"bind": v, "mode": "ro"} for k, v in files.items()}
    if data:
        mounts[data] = {"bind": "/data", "mode": "rw"}
    container = engine.containers.run(
        os.environ["TORCHROOM_TEST_TLS_IMAGE"],
        [filled(word, variables) for word in said["command"]],
        environment=told,
        user=filled(said["user"], variables),
        volumes=mounts,
        read_only=said["read_only"],
        cap_drop=said["cap_drop"],
        security_opt=said["security_opt"],
        tmpfs=dict.fromkeys(said["tmpfs"], ""),
        network_mode=network_mode,
        detach=True,
    )
    try:
        wait_until(
            lambda: listens(address_of(container), 8443) or has_ended(container),
            what="the TLS proxy listens",
            within_s=LISTENS_WITHIN_S,
        )
        assert not has_ended(container), container.logs().decode()
        yield container
    finally:
        container.remove(force=True)


def has_ended(container: Container) -> bool:
    """Does it not run any more?"""
    container.reload()
    return bool(container.status == "exited")


def address_of(container: Container) -> str:
    """Where it is reached from the run's network."""
    container.reload()
    if container.attrs["HostConfig"]["NetworkMode"] == "host":
        return "127.0.0.1"
    networks = container.attrs["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def listens(host: str, port: int) -> bool:
    """Does somebody accept connections there?"""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 5):
        return True
    return False


# ------------------------------------------------------------------- clients


class Names(AbstractResolver):
    """Leads every name to one address, and the two usual ports to the proxy's."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Answer as DNS would."""
        assert family in {socket.AF_INET, socket.AF_UNSPEC}
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port={80: 8080, 443: 8443}.get(port, port),
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


def client(address: str, authority: Path, **more: Any) -> aiohttp.ClientSession:
    """A browser's HTTP without a browser: cookies, and the one authority trusted."""
    context = ssl.create_default_context(cafile=authority)
    connector = aiohttp.TCPConnector(
        resolver=Names(address), ssl=context, use_dns_cache=False
    )
    return aiohttp.ClientSession(connector=connector, **more)


# -------------------------------------------------- what stands behind the proxy


class Behind:
    """Answers with what reached it: ``with Behind(host, port) as behind``."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._go_on = threading.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Behind":
        """Begin to answer."""
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._go_on.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def go_on(self) -> None:
        """Let the stream of events have its second one."""
        self._go_on.set()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=0)
        app.router.add_get("/events", self._events)
        app.router.add_get("/socket", self._socket)
        app.router.add_get("/sly", self._sly)
        app.router.add_route("*", "/{tail:.*}", self._echo)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, self.host, self.port)
        self._loop.run_until_complete(site.start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _echo(self, request: web.Request) -> web.Response:
        n_bytes = 0
        async for chunk in request.content.iter_any():
            n_bytes += len(chunk)
        headers = {name.lower(): value for name, value in request.headers.items()}
        return web.json_response(
            {"headers": headers, "n_bytes": n_bytes, "path": request.path_qs}
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: first\n\n")
        await asyncio.to_thread(self._go_on.wait, 30)
        await answer.write(b"data: second\n\n")
        return answer

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(f"{message.data} {request.headers['X-Scheme']}")
        return answer

    async def _sly(self, _request: web.Request) -> web.Response:
        """What a user's server might say to browsers about the whole host."""
        return web.Response(
            headers={
                "Strict-Transport-Security": "max-age=0",
                "Server": "what is it to you",
                "Service-Worker-Allowed": "/",
                "Clear-Site-Data": '"*"',
                "NEL": '{"report_to": "eve", "max_age": 31536000}',
                "Report-To": '{"group": "eve", "max_age": 31536000, "endpoints": []}',
                "X-Mine": "kept",
            }
        )
