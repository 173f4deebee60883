"""Takes news from the store's outbox to its receivers, until they have it.

A receiver that is slow or away holds up nobody but its own messages. A message is sent
again with the same id until it is taken, refused for good, or of no use any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from torchroom.steward.file import StoreError
from torchroom.steward.model import Message
from torchroom.steward.store import Store

log = logging.getLogger("torchroom.steward")

FIRST_PAUSE = timedelta(seconds=15)
LONGEST_PAUSE = timedelta(hours=1)
TRIES_MAX = 16
LOOKS_EVERY_S = 60.0
AT_MOST_EVERY_S = 1.0
AT_ONCE = 50


class Undelivered(Exception):
    """A message was not taken; a sentence without secrets.

    Args:
        why: The sentence.
        is_final: Whether trying again cannot help.
    """

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


class Receiver(Protocol):
    """One way to reach people."""

    def reaches(self, user: str) -> bool:
        """Return whether a user's news go there."""
        ...

    async def send(self, message: Message) -> None:
        """Hand a message over.

        Raises:
            Undelivered: See there.
        """
        ...


def reached(receivers: Mapping[str, Receiver], user: str) -> Sequence[str]:
    """Return the names of the receivers of a user's news."""
    return [name for name, receiver in receivers.items() if receiver.reaches(user)]


def pause_after(n_tries: int) -> timedelta:
    """Return how long to wait after so many failed tries."""
    doubled = 1 << max(0, min(n_tries - 1, TRIES_MAX))
    return min(LONGEST_PAUSE, FIRST_PAUSE * doubled)


def is_stale(message: Message, now: datetime) -> bool:
    """Return whether a warning comes after what it warns of."""
    return message.stops_at is not None and message.stops_at <= now


class Outbox:
    """Sends what the store has to send.

    Args:
        store: Where messages wait.
        receivers: Hook -> who takes its messages.
        now: The present, aware UTC.
    """

    def __init__(
        self,
        store: Store,
        receivers: Mapping[str, Receiver],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._receivers = receivers
        self._now = now
        self._news = {hook: asyncio.Event() for hook in receivers}

    def wake(self) -> None:
        """Look into the outbox soon; there may be something new."""
        for news in self._news.values():
            news.set()

    async def run(self) -> None:
        """Send until cancelled, the hooks side by side."""
        try:
            await asyncio.to_thread(self._store.keep_posts_of, self._receivers)
        except StoreError as error:
            log.error("messages for nobody are left: %s", error)
        await asyncio.gather(*map(self._serve, self._receivers))

    async def _serve(self, hook: str) -> None:
        """Send what one hook has to, until cancelled."""
        news = self._news[hook]
        while True:
            pause = LOOKS_EVERY_S
            news.clear()
            try:
                await self.once(hook)
                pause = await self._pause(hook)
            except StoreError as error:
                log.error("nothing is sent to %s: %s", hook, error)
            except Exception:  # the supervising loop: it must go on
                log.exception("sending to %s failed", hook)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), pause)

    async def once(self, hook: str) -> None:
        """Try every message of a hook that is due, one after the other."""
        due = await asyncio.to_thread(self._store.due, hook, self._now(), AT_ONCE)
        for message in due:
            await self._one(message)

    async def _pause(self, hook: str) -> float:
        first = await asyncio.to_thread(self._store.next_post, hook)
        if first is None:
            return LOOKS_EVERY_S
        ahead = (first - self._now()).total_seconds()
        return min(LOOKS_EVERY_S, max(AT_MOST_EVERY_S, ahead))

    async def _one(self, message: Message) -> None:
        if is_stale(message, self._now()):
            await asyncio.to_thread(self._store.posted, message.id)
            return
        try:
            await self._receivers[message.hook].send(message)
        except Undelivered as error:
            await self._failed(message, str(error), is_final=error.is_final)
        except Exception as error:  # one message must not hold up all others
            log.exception("sending %s to %s", message.id, message.hook)
            await self._failed(message, type(error).__name__, is_final=False)
        else:
            await asyncio.to_thread(self._store.posted, message.id)

    async def _failed(self, message: Message, why: str, *, is_final: bool) -> None:
        n_tries = message.n_tries + 1
        is_over = is_final or n_tries >= TRIES_MAX
        log.warning(
            "%s did not take %s (try %d%s): %s",
            *(message.hook, message.id, n_tries),
            *(", the last" if is_over else "", why),
        )
        if is_over:
            await asyncio.to_thread(self._store.posted, message.id)
            return
        next_at = self._now() + pause_after(n_tries)
        await asyncio.to_thread(self._store.try_again, message.id, next_at)
