"""Connections that ask nothing do not shut the console for those that ask."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from testbed.console import ConsoleProcess
from torchroom.console import connections
from torchroom.console.__main__ import CONNECTIONS_MAX
from torchroom.console.connections import PromptProtocol

ASK = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
WITHIN_S = 30


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Where a server answers that takes fewer than three connections."""
    server = uvicorn.Server(
        uvicorn.Config(
            PlainTextResponse("here"),
            http=PromptProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            limit_concurrency=3,
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve([listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await running


@contextlib.asynccontextmanager
async def opened(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes the connection before long."""
    async with asyncio.timeout(WITHIN_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        return True


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The whole of one answer."""
    async with asyncio.timeout(WITHIN_S):
        return await reader.readuntil(b"here")


@pytest.mark.parametrize("sent", [b"", b"G", ASK[:-2], ASK + b"G", ASK + ASK[:-2]])
async def test_a_connection_that_does_not_ask_is_closed(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at first, nor after an answer, nor with headers that never end."""
    monkeypatch.setattr(connections, "HEADERS_WITHIN_S", 0.5)  # longer than a pause
    async with opened(port) as (reader, writer):
        if sent.startswith(ASK):
            writer.write(ASK)
            await answer(reader)
            sent = sent.removeprefix(ASK)
        writer.write(sent)
        assert await is_closed(reader)


async def test_a_connection_that_asks_is_served_again_and_again(port: int) -> None:
    """Headers may come in pieces, and several requests at once."""
    async with opened(port) as (reader, writer):
        for piece in (ASK[:5], ASK[5:], ASK + ASK):
            writer.write(piece)
            await writer.drain()
        for _ in range(3):
            assert b"200 OK" in await answer(reader)


async def test_the_longest_waiting_gives_way_to_one_that_asks(port: int) -> None:
    """Nobody's idle connections shut the others out, not even until a timer ends."""
    async with contextlib.AsyncExitStack() as idle:
        waiting = [await idle.enter_async_context(opened(port)) for _ in range(10)]
        waiting[-1][1].write(ASK[:5])
        async with opened(port) as (reader, writer):
            writer.write(ASK)
            assert b"200 OK" in await answer(reader)
        assert await is_closed(waiting[0][0])


def test_idle_connections_do_not_shut_the_console(console: ConsoleProcess) -> None:
    """Of one notebook, say: more of them than the console takes."""
    with ExitStack() as idle:
        for _ in range(CONNECTIONS_MAX + 20):
            idle.enter_context(socket.create_connection(("127.0.0.1", console.port)))
        assert console.ask("GET", "/health").status_code == 200
