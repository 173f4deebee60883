"""What a start is doing, for as many pages as want to watch it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

BEAT_S = 10.0  # a page that was closed is noticed at the next event sent to it
LEFT_AFTER_S = 45.0  # a page may be loaded again, a network may hang for a moment


class Progress:
    """Events so far, a way to wait for the next, and who is watching.

    Args:
        left_after_s: Seconds after the last page was closed until the start is left.
    """

    def __init__(self, left_after_s: float = LEFT_AFTER_S) -> None:
        self._left_after_s = left_after_s
        self._beat_s = min(BEAT_S, left_after_s / 4)
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._n_watching = 0
        self._left_at: float | None = None

    def say(self, percent: int, message: str, html: str = "") -> None:
        """Add an event; it replaces an equal one right before it."""
        event: dict[str, Any] = {"progress": percent, "message": message}
        if html:
            event["html_message"] = html
        if self._events[-1:] != [event]:
            self._events.append(event)
            news, self._news = self._news, asyncio.Event()
            news.set()

    @property
    def is_left(self) -> bool:
        """Whether pages watched this start and all were closed `left_after_s` ago.

        A start that no page ever watched (one by the REST API) is not left.
        """
        left_at = self._left_at
        return left_at is not None and time.monotonic() - left_at > self._left_after_s

    async def follow(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield every event from the first on; JupyterHub ends the iteration.

        In between a beat without a message is sent, which a page does not show.
        """
        n = 0
        self._n_watching, self._left_at = self._n_watching + 1, None
        try:
            while True:
                news = self._news
                while n < len(self._events):
                    yield self._events[n]
                    n += 1
                try:
                    async with asyncio.timeout(self._beat_s):
                        await news.wait()
                except TimeoutError:
                    last = self._events[-1:] or [{"progress": 0}]
                    yield {"progress": last[0]["progress"]}
        finally:
            self._n_watching -= 1
            if not self._n_watching:
                self._left_at = time.monotonic()
