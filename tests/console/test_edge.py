"""Before a route sees a request it is whole and small; every answer is a safe one."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from torchroom.console import edge
from torchroom.console.edge import BODY_MAX, BodyLimit, SafeAnswers


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(SafeAnswers(BodyLimit(echo)))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as made:
        yield made


async def pieces(n: int, size: int, *, wait: asyncio.Event) -> AsyncIterator[bytes]:
    for _ in range(n):
        yield b"x" * size
        await wait.wait()


@pytest.mark.parametrize("size", [0, 1, BODY_MAX])
async def test_a_body_of_any_allowed_size_arrives_whole(
    client: httpx.AsyncClient, size: int
) -> None:
    """The limit itself is allowed."""
    answer = await client.post("/", content=b"x" * size)
    assert answer.text == str(size)


async def test_a_longer_body_is_refused(client: httpx.AsyncClient) -> None:
    """It says how long it may be."""
    answer = await client.post("/", content=b"x" * (BODY_MAX + 1))
    assert answer.status_code == 413
    assert answer.json() == {
        "code": "too_large",
        "message": "A request may be at most 64 KiB long.",
    }


async def test_a_body_that_hides_its_length_is_refused_too(
    client: httpx.AsyncClient,
) -> None:
    """In pieces, without a Content-Length."""
    go_on = asyncio.Event()
    go_on.set()
    answer = await client.post("/", content=pieces(1000, 1000, wait=go_on))
    assert answer.status_code == 413


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow sender holds a connection for seconds, not for ever."""
    monkeypatch.setattr(edge, "BODY_WITHIN_S", 0.01)
    answer = await client.post("/", content=pieces(2, 1, wait=asyncio.Event()))
    assert answer.status_code == 408
    assert answer.json()["code"] == "too_slow"


async def test_answers_are_not_kept_guessed_or_framed(
    client: httpx.AsyncClient,
) -> None:
    """Refusals as well."""
    for content in (b"", b"x" * (BODY_MAX + 1)):
        headers = (await client.post("/", content=content)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
