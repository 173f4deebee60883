"""Students who all click at once, and see their server come up or not."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from classroom.hubs import Hub, Side


@dataclass(frozen=True)
class Start:
    """How one student's start ended.

    Attributes:
        ready_s: Seconds from the click until the hub said ready; None: it never did.
        message: The last thing that the student read.
        seen: What `look` returned the moment the hub said so.
    """

    student: str
    ready_s: float | None
    message: str
    seen: dict[str, float]


@dataclass(frozen=True)
class Class:
    """Students of one hub.

    Attributes:
        look: Called the moment that a student's server is ready.
        within_s: How long a student waits.
    """

    hub: Hub
    side: Side
    look: Callable[[], dict[str, float]]
    within_s: float

    async def start(self, students: Sequence[str]) -> list[Start]:
        """Click for every student at once; returns when all starts have ended."""
        async with aiohttp.ClientSession(
            headers={"Authorization": f"token {self.hub.token}"},
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
        ) as session:
            users = {"usernames": list(students)}
            async with session.post(f"{self.hub.url}/api/users", json=users) as reply:
                reply.raise_for_status()
            clicked = time.monotonic()
            return await asyncio.gather(
                *(self._start(session, student, clicked) for student in students)
            )

    async def _start(
        self, session: aiohttp.ClientSession, student: str, clicked: float
    ) -> Start:
        message = "not ready in time"
        try:
            async with asyncio.timeout(self.within_s):
                ready, message = await self._until_ready(session, student)
                if ready:
                    took = time.monotonic() - clicked
                    return Start(student, took, message, self.look())
        except aiohttp.ClientError as error:
            message = f"the hub broke the connection off: {error!r}"
        except TimeoutError:
            pass
        return Start(student, None, message, {})

    async def _until_ready(
        self, session: aiohttp.ClientSession, student: str
    ) -> tuple[bool, str]:
        """Request the server and follow its progress, as the spawn page does."""
        url = f"{self.hub.url}/api/users/{student}/server"
        body = {"user_options": self.side.options} if self.side.options else {}
        async with session.post(url, json=body) as reply:
            if reply.status == HTTPStatus.CREATED:
                return True, "ready"
            if not reply.ok:
                return False, (await reply.text())[:300]
        async with session.get(f"{url}/progress") as reply:
            async for line in reply.content:
                if not line.startswith(b"data:"):
                    continue
                event: dict[str, Any] = json.loads(line.removeprefix(b"data:"))
                if event.get("ready") or event.get("failed"):
                    return bool(event.get("ready")), str(event.get("message", ""))
        return False, "the progress page ended"
