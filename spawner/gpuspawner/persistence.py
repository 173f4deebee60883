"""What outlives the hub, each owner's state in a file of its own."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from gpuspawner.durations import Durations
from gpuspawner.health import HealthBook
from gpuspawner.idleness import read_idle_w
from gpuspawner.keeping import Keeper
from gpuspawner.notices import Notices
from gpuspawner.pool import Pool
from gpuspawner.waiting import Queue

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Persistence:
    """Loads what the hub before kept; its keepers are told when it changed.

    Loading blocks. What cannot be read is logged, and the hub starts without it.

    Args:
        folder: Where the files are.
        pool: Gets its queue and durations back.
        idle_w: Tells what GPUs draw unused, as learnt so far.
        log: The hub's.

    Attributes:
        queue: Keeps the pool's queue and durations.
        health: Keeps the book.
        news: Keeps the notices.
        power: Keeps what GPUs draw unused.
        book: The health of every device.
        notices: What users are still to be told.
        idle_w: What GPUs drew unused when the hub before ended.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        idle_w: Callable[[], Mapping[str, float]],
        log: Log,
    ) -> None:
        self._pool, self._log = pool, log
        self._learnt_w = idle_w

        def keeper(name: str, read: Callable[[], Mapping[str, object]]) -> Keeper:
            return Keeper(folder / f"gpuspawner-{name}.json", read, log)

        self.queue = keeper("queue", self._queue_state)
        self.health = keeper("health", self._health_state)
        self.news = keeper("notices", self._notices_state)
        self.power = keeper("idle-power", self._power_state)
        self.notices = self._load_notices()
        self._load_queue()
        self.book = HealthBook.from_json(self.health.load())
        self.idle_w = self._load_power()

    def _queue_state(self) -> Mapping[str, object]:
        return {
            "queue": self._pool.queue.to_json(),
            "durations": self._pool.durations.to_json(),
        }

    def _health_state(self) -> Mapping[str, object]:
        return self.book.to_json()

    def _notices_state(self) -> Mapping[str, object]:
        return self.notices.to_json()

    def _power_state(self) -> Mapping[str, object]:
        return {"idle_w": dict(self._learnt_w())}

    def _load_queue(self) -> None:
        kept, now = self.queue.load(), datetime.now(UTC)
        try:
            self._pool.queue = Queue.from_json(kept.get("queue", {"tickets": []}), now)
            self._pool.durations = Durations.from_json(kept.get("durations", {}))
        except ValueError as error:
            self._log.error("starting with an empty queue: %s", error)

    def _load_notices(self) -> Notices:
        try:
            return Notices.from_json(self.news.load())
        except ValueError as error:
            self._log.error("starting without notices: %s", error)
            return Notices()

    def _load_power(self) -> Mapping[str, float]:
        try:
            return read_idle_w(self.power.load())
        except ValueError as error:
            self._log.error("starting without what GPUs draw unused: %s", error)
            return {}
