"""What a start is doing, for as many pages as want to watch it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Progress:
    """Events so far, and a way to wait for the next."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def say(self, percent: int, message: str) -> None:
        """Add an event; it replaces an equal one right before it."""
        event = {"progress": percent, "message": message}
        if self._events[-1:] != [event]:
            self._events.append(event)
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every event from the first on; JupyterHub ends the iteration."""
        n = 0
        while True:
            news = self._news
            while n < len(self._events):
                yield self._events[n]
                n += 1
            await news.wait()
