"""What holds for every request before a route sees it, and for every answer after.

A body is read whole, at most BODY_MAX bytes and for at most BODY_WITHIN_S seconds, so
no route waits for a slow sender or holds much memory. Answers are never kept by a
browser or a proxy, never guessed to be another type, and never shown inside other
pages. FastAPI can limit a body's size too, but not its time, and answers in a shape of
its own.
"""

import asyncio
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchroom.console.answers import problem
from torchroom.console.refusals import TooLarge, TooSlow
from torchroom.ledger.errors import LedgerError

BODY_MAX = 64 * 1024
BODY_WITHIN_S = 15

HEADERS: Sequence[tuple[str, str]] = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
)


class BodyLimit:
    """Refuses bodies that are too long or arrive too slowly."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its whole body, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _whole(Headers(scope=scope), receive)
        except LedgerError as refusal:
            await problem(refusal)(scope, receive, send)
            return
        except TimeoutError:
            late = TooSlow("The request did not arrive in time. Send it again.")
            await problem(late)(scope, receive, send)
            return
        if body is None:
            return
        first: list[Message] = [
            {"type": "http.request", "body": body, "more_body": False}
        ]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, replay, send)


async def _whole(headers: Headers, receive: Receive) -> bytes | None:
    """Return the body, None if the sender went away.

    Raises:
        TooLarge: It is, or says it is, longer than BODY_MAX.
    """
    too_large = TooLarge(f"A request may be at most {BODY_MAX // 1024} KiB long.")
    said = headers.get("content-length", "0")
    if said.isdecimal() and int(said[:20]) > BODY_MAX:
        raise too_large
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if len(body) > BODY_MAX:
            raise too_large
        if not message.get("more_body", False):
            return body


class SafeAnswers:
    """Adds HEADERS to every answer that does not say otherwise itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and add headers to what comes back."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_safely)
