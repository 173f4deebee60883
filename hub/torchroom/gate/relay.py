"""Serves the gate's socket: reads a request, has it judged, hands it to the engine.

One request per connection. What the hub sends after its request is never passed on,
unless the engine turned the connection into a stream. Answers go back byte by byte, as
they come; only what is told of containers is read, to shorten what is others'.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from torchroom.gate import bodies, messages, rules, streams
from torchroom.gate.asking import NOT_FOUND, OK, Answer, Engine, Told
from torchroom.gate.errors import GateError, Malformed, Refused, Unanswered
from torchroom.gate.messages import Head
from torchroom.gate.policy import Policy
from torchroom.gate.rules import Body, Judged, Kind
from torchroom.gate.streams import Connection

log = logging.getLogger("torchroom.gate")

HEAD_WITHIN_S = 10
BODY_WITHIN_S = 30
BODY_MAX = 2**20  # of JSON; a server's is about 4 KiB
SWALLOW_MAX = 64 * 2**20
SWALLOW_WITHIN_S = 5
N_CONNECTIONS = 256  # at once; the hub has some 40 threads for the engine
BACKLOG = 512
SWITCHING = 101
TOO_LARGE, TOO_LONG = 413, 431


class Gate:
    """The gate in front of one engine.

    Args:
        engine: The path of its socket.
        policy: What is let through.
    """

    def __init__(self, engine: str, policy: Policy) -> None:
        self._policy = policy
        self._engine = Engine(engine, policy)
        self._turns = asyncio.Semaphore(N_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, path: str) -> asyncio.Server:
        """Listen at a path where nothing is.

        Raises:
            OSError: It cannot be made there.
        """
        return await asyncio.start_unix_server(
            self._accept, path, limit=messages.HEAD_MAX, backlog=BACKLOG
        )

    async def end(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        hub = Connection(reader, writer)
        try:
            async with self._turns:
                await self._serve(hub)
        except (ConnectionError, TimeoutError):
            pass  # it hung up, or never said anything
        finally:
            hub.close()

    async def _serve(self, hub: Connection) -> None:
        head, target = None, "?"
        try:
            async with asyncio.timeout(HEAD_WITHIN_S):
                raw = await _read_head(hub)
            if not raw:
                return
            head = messages.parse(raw)
            target = f"{head.method} {head.target.partition('?')[0][:200]}"
            await self._judge(hub, head)
        except Told as told:
            await self._tell(hub, head, told.answer)
        except Unanswered as error:
            log.warning("%s: %s", target, error)
            text = f"The gate cannot ask the engine: {error}."
            await self._tell(hub, head, Answer(error.status, messages.said(text)))
        except GateError as error:
            log.warning("refused %s: %s", target, error)
            text = f"The gate in front of the engine refuses this: {error}."
            await self._tell(hub, head, Answer(error.status, messages.said(text)))
            hub.writer.write_eof()
            await streams.swallow(hub, SWALLOW_MAX, SWALLOW_WITHIN_S)

    async def _tell(self, hub: Connection, head: Head | None, answer: Answer) -> None:
        with_body = head is None or head.method != "HEAD"
        await hub.send(messages.answer(answer.status, answer.raw, with_body=with_body))

    async def _judge(self, hub: Connection, head: Head) -> None:
        judged = rules.judge(self._policy, head)
        body = b""
        if judged.route.body is Body.JSON:
            found = messages.read_json(await _read_body(hub, head.length or 0))
            volumes = rules.check_body(self._policy, judged, found)
            # Written anew: the engine reads what was judged, not what was sent.
            body = json.dumps(found).encode()
            for name in volumes:
                await self._mountable(judged.version, name)
        ref, version = judged.ref, judged.version
        match judged.route.kind:
            case Kind.LIST:
                await _first(self._list(hub, judged), _left(hub))
                return
            case Kind.INSPECT:
                await _first(self._inspect(hub, judged), _left(hub))
                return
            case Kind.CONTAINER:
                ref = await self._engine.container(version, ref)
            case Kind.START:
                server = await self._engine.inspected(version, ref)
                bodies.starts(server)
                ref = str(server["Id"])
            case Kind.EXECUTION:
                ref = await self._engine.execution(version, ref)
            case Kind.VOLUME:
                volume = await self._engine.volume(version, ref)
                if head.method == "GET":
                    await self._tell(hub, head, volume)
                    return
            case Kind.PASS | Kind.CREATE:
                pass
        await self._forward(hub, head, judged, judged.target(ref), body)

    async def _mountable(self, version: str, name: str) -> None:
        """Return if a volume of this name is there and ours.

        Raises:
            Refused: It is not.
            Told: The engine does not say.
        """
        try:
            await self._engine.volume(version, name)
        except Told as told:
            if told.answer.status != NOT_FOUND:
                raise
            raise Refused(f"there is no home {name} to mount") from told

    async def _list(self, hub: Connection, judged: Judged) -> None:
        answer = await self._engine.ask(judged.target())
        if answer.status == OK:
            rows = [
                row if self._owns_row(row) else bodies.told_row(row)
                for row in answer.json()
            ]
            answer = Answer(OK, json.dumps(rows).encode())
        await self._tell(hub, None, answer)

    def _owns_row(self, row: dict[str, object]) -> bool:
        names = row.get("Names")
        name = str(names[0]) if isinstance(names, list) and names else ""
        return self._policy.owns(row.get("Labels"), name.removeprefix("/"))

    async def _inspect(self, hub: Connection, judged: Judged) -> None:
        answer = await self._engine.ask(judged.target())
        if answer.status == OK:
            found = answer.json()
            if not self._engine.is_ours(found):
                answer = Answer(OK, json.dumps(bodies.told(found)).encode())
        await self._tell(hub, None, answer)

    async def _forward(
        self, hub: Connection, head: Head, judged: Judged, target: str, body: bytes
    ) -> None:
        is_tar = judged.route.body is Body.TAR
        length = head.length if is_tar else len(body)
        try:
            engine = await streams.connect(self._engine.socket)
        except OSError as error:
            raise Unanswered(f"the engine does not answer: {error}") from error
        try:
            await engine.send(messages.request(head, target, length) + body)
            if head.upgrades:
                await _stream(hub, engine)
                return
            await _first(
                streams.pump(engine, hub),
                _send_tar(hub, engine, length) if is_tar else _left(hub),
            )
        finally:
            engine.close()


async def _read_head(hub: Connection) -> bytes:
    """Return everything up to and with the empty line, b"" if nothing came."""
    try:
        return await hub.reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Malformed("the request's head is too long", TOO_LONG) from None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Malformed("the request's head broke off") from None
        return b""


async def _read_body(hub: Connection, length: int) -> bytes:
    if length > BODY_MAX:
        raise Malformed("the request's body is too long", TOO_LARGE)
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await hub.reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise Malformed("the request's body broke off") from None


async def _first(
    work: Coroutine[Any, Any, None], end: Coroutine[Any, Any, None]
) -> None:
    """Do the work until it is done, or until the other thing has come to its end."""
    tasks = [asyncio.ensure_future(one) for one in (work, end)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(hub: Connection) -> None:
    """Return when the hub hangs up.

    Raises:
        Malformed: It says something else instead: a second request.
    """
    if await hub.reader.read(1):
        raise Malformed("more bytes came than the request has")


async def _send_tar(hub: Connection, engine: Connection, length: int | None) -> None:
    """Pass a body on as it comes, then wait until the hub hangs up."""
    try:
        if length is None:
            await streams.send_chunks(hub, engine)
        else:
            await streams.send_length(hub, engine, length)
    except ConnectionError:  # the engine heard enough; its answer says why
        while await hub.reader.read(streams.CHUNK):
            pass
        return
    await _left(hub)


async def _stream(hub: Connection, engine: Connection) -> None:
    """Pass on what the engine says, and what the hub says if the engine switched."""
    try:
        head = await engine.reader.readuntil(b"\r\n\r\n")
        status = messages.status_of(head)
    except (
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
        ValueError,
    ) as error:
        raise Unanswered("the engine's answer broke off") from error
    await hub.send(head)
    if status != SWITCHING:
        engine.writer.write_eof()  # it would wait for another request
        await _first(streams.pump(engine, hub), _left(hub))
        return
    speaking = asyncio.create_task(_speak(hub, engine))
    try:
        await streams.pump(engine, hub)
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)


async def _speak(hub: Connection, engine: Connection) -> None:
    with suppress(ConnectionError):
        await streams.pump(hub, engine)
        engine.writer.write_eof()
