"""A proxy in front of the engine's socket that tests can hold, fail and hang.

The hub talks to this socket and believes it is the engine. Bytes pass through unread
(streams, archives, hijacked connections); only each request's head is looked at, so a
step of a start or a stop can be stopped for real, without patching the product:

    with proxy.hold("POST", r"/containers/create", when="after") as held:
        user.request_server("1-gpu")
        held.reached()      # the engine made the container, the hub does not know
        hub.kill()

One request is served per connection: the head sent on says ``Connection: close``,
unless the client asks for an upgrade.
"""

import asyncio
import contextlib
import json
import os
import re
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, TypeVar

HEAD_LIMIT = 64 * 1024
CHUNK = 64 * 1024
REACHED_WITHIN_S = 30.0

When = Literal["before", "after"]


@dataclass(frozen=True)
class Request:
    """One request of the hub to the engine."""

    method: str
    target: str
    """Path and query, without the version: ``/containers/create?name=x``."""
    head: bytes = field(repr=False)
    """Everything before the body, as it came."""
    body: str = ""
    """What shall be executed, of a request that is about that; else not read."""

    @property
    def body_bytes(self) -> int:
        """How much of the body is read ahead: only that of small, telling ones."""
        length = re.search(rb"(?im)^content-length: *(\d+)", self.head)
        if not length or not re.fullmatch(r"/containers/[^/]+/exec", self.target):
            return 0
        return min(int(length[1]), HEAD_LIMIT)

    @property
    def upgrades(self) -> bool:
        """Does it want the connection for itself (attach, exec, build sessions)?"""
        return re.search(rb"(?im)^upgrade:", self.head) is not None

    def sent_on(self) -> bytes:
        """The head for the engine: one request per connection."""
        if self.upgrades:
            return self.head
        plain = re.sub(rb"(?im)^connection:.*\r\n", b"", self.head)
        return plain[:-2] + b"Connection: close\r\n\r\n"


def parse(head: bytes) -> Request:
    """The request whose head this is."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    return Request(method, re.sub(r"^/v\d+\.\d+(?=/)", "", target), head)


class Rule:
    """What happens to the requests that match; a context manager that ends it."""

    def __init__(
        self,
        proxy: "EngineProxy",
        method: str,
        target: str,
        times: int | None,
        body: str = "",
    ) -> None:
        self.seen: list[Request] = []
        self._proxy = proxy
        self._method = re.compile(method)
        self._target = re.compile(target)
        self._body = re.compile(body)
        self._times = times
        self._reached = threading.Event()
        self.released = asyncio.Event()

    def takes(self, request: Request) -> bool:
        """Claim the request if it matches and the rule is not used up."""
        used_up = self._times is not None and len(self.seen) >= self._times
        if used_up or self.released.is_set():
            return False
        matches = self._method.fullmatch(request.method) is not None
        matches = matches and self._target.search(request.target) is not None
        matches = matches and self._body.search(request.body) is not None
        if matches:
            self.seen.append(request)
        return matches

    def arrived(self) -> None:
        """A request stands where the rule stops it (called by the proxy)."""
        self._reached.set()

    def reached(self, within_s: float = REACHED_WITHIN_S) -> Request:
        """Wait until a request stands there; returns it."""
        if not self._reached.wait(within_s):
            wanted = f"{self._method.pattern} {self._target.pattern}"
            wanted += f" {self._body.pattern}"
            last = "\n  ".join(str(r) for r in self._proxy.requests[-15:])
            raise TimeoutError(f"no request {wanted} came; the last ones:\n  {last}")
        return self.seen[-1]

    def release(self) -> None:
        """Let what is held go on, and catch nothing more."""
        self._proxy.call(self._release())

    async def _release(self) -> None:
        self.released.set()

    def __enter__(self) -> "Rule":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def act(self, exchange: "Exchange") -> None:
        """Serve the request under this rule."""
        raise NotImplementedError


class Hold(Rule):
    """The request, or its answer, waits until it is released."""

    when: When = "before"

    async def act(self, exchange: "Exchange") -> None:
        """Wait before the engine hears of it, or after it did it."""
        if self.when == "before":
            self.arrived()
            await self.released.wait()
            if exchange.gone.is_set():
                return  # the hub died with the request in its hands
            await exchange.forward()
        else:
            await exchange.forward(before_answer=self._wait)

    async def _wait(self) -> None:
        self.arrived()
        await self.released.wait()


class Fail(Rule):
    """The engine never hears of the request; the answer is an error."""

    status: int = 500
    message: str = "made to fail by a test"

    async def act(self, exchange: "Exchange") -> None:
        """Answer as a broken engine would."""
        self.arrived()
        await exchange.answer(self.status, {"message": self.message})


R = TypeVar("R", bound=Rule)


class Exchange:
    """One connection of the hub: one request and its answer."""

    def __init__(
        self,
        engine: Path,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._engine = engine
        self._request = request
        self._writer = writer
        self._body: asyncio.Queue[bytes] = asyncio.Queue()
        if request.body:
            self._body.put_nowait(request.body.encode("latin-1"))
        self.gone = asyncio.Event()
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take what the client sends until it hangs up, so that we notice that."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                self._body.put_nowait(data)
        self.gone.set()
        self._body.put_nowait(b"")

    async def _send_body(self, upstream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._body.get():
                upstream.write(data)
                await upstream.drain()
            upstream.write_eof()

    async def forward(self, before_answer: Any = None) -> None:
        """Pass the request to the engine and its answer back, byte for byte."""
        reader, upstream = await asyncio.open_unix_connection(str(self._engine))
        upstream.write(self._request.sent_on())
        sending = asyncio.create_task(self._send_body(upstream))
        try:
            data = await reader.read(CHUNK)
            if before_answer is not None:
                await before_answer()
            while data:
                self._writer.write(data)
                await self._writer.drain()
                data = await reader.read(CHUNK)
        finally:
            sending.cancel()
            upstream.close()

    async def answer(self, status: int, body: dict[str, str]) -> None:
        """Answer without the engine."""
        text = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        )
        self._writer.write(head.encode() + text)
        await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._reading.cancel()
        self._writer.close()


class EngineProxy:
    """The proxy; runs in a thread of its own from ``start`` to ``stop``."""

    def __init__(self, engine: Path, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.requests: list[Request] = []
        """Every request so far, in the order of arrival."""
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    # ---- life

    def start(self) -> "EngineProxy":
        """Listen, with the owner and mode of the engine's own socket."""
        self._thread.start()
        self.call(self._listen())
        like = self.engine.stat()
        os.chown(self.path, like.st_uid, like.st_gid)
        self.path.chmod(like.st_mode & 0o777)
        return self

    def stop(self) -> None:
        """Release everything and stop listening."""
        self.clear()
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "EngineProxy":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the proxy's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # ---- what tests do with it

    def hold(
        self,
        method: str,
        target: str,
        *,
        when: When = "before",
        times: int | None = 1,
        body: str = "",
    ) -> Hold:
        """Stop matching requests before the engine hears of them, or their answers."""
        rule = Hold(self, method, target, times, body)
        rule.when = when
        return self._add(rule)

    def hang(self, method: str, target: str) -> Hold:
        """Give matching requests no answer at all until released."""
        return self.hold(method, target, times=None)

    def fail(
        self,
        method: str,
        target: str,
        *,
        status: int = 500,
        message: str = Fail.message,
        times: int | None = None,
        body: str = "",
    ) -> Fail:
        """Answer matching requests with an error."""
        rule = Fail(self, method, target, times, body)
        rule.status, rule.message = status, message
        return self._add(rule)

    def clear(self) -> None:
        """End every rule; what is held goes on."""
        for rule in self._rules:
            rule.release()
        self._rules.clear()

    def since(self, mark: int) -> list[Request]:
        """The requests after the first ``mark`` (``len(proxy.requests)`` then)."""
        return self.requests[mark:]

    # ---- inside

    def _add(self, rule: R) -> R:
        self._rules.append(rule)
        return rule

    async def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._serve, str(self.path), limit=HEAD_LIMIT
        )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            request = parse(await reader.readuntil(b"\r\n\r\n"))
            body = await reader.readexactly(request.body_bytes)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        request = replace(request, body=body.decode("latin-1"))
        self.requests.append(request)
        exchange = Exchange(self.engine, request, reader, writer)
        rule = next((rule for rule in self._rules if rule.takes(request)), None)
        try:
            with contextlib.suppress(ConnectionError):
                await (rule.act(exchange) if rule else exchange.forward())
        finally:
            exchange.close()
