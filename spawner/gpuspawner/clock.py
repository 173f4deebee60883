"""The clock that leases are metered by: it goes on evenly when the time is set."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gpuspawner.anchor import Anchor, Reading, end_of, of_wall
from gpuspawner.errors import StoreFailed
from gpuspawner.processes import boot_id
from gpuspawner.store import JsonStore

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


def read_clocks() -> Reading:
    """Return what the machine's clocks say."""
    since_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    since_boot = timedelta(microseconds=since_boot_ns // 1000)
    return Reading(boot_id(), since_boot, datetime.now(UTC))


class Clock:
    """Tells UTC that never steps while a lease is metered, over hub restarts too.

    It may be off by as much as the machine's clock was when the first lease began;
    see `renew`. What ended while the machine's clock was set is dated within limits.

    Args:
        path: Where the anchor is kept. Blocks on it once.
        log: The hub's.
        read: Reads the machine's clocks.
    """

    def __init__(
        self, path: Path, log: Log, read: Callable[[], Reading] = read_clocks
    ) -> None:
        self._store = JsonStore(path)
        self._log = log
        self._read = read
        reading = read()
        kept = self._load()
        if kept and kept.holds(reading):
            self._anchor = kept
            return
        self._anchor = Anchor.of(reading)
        self._save()  # before anything is dated by it

    def now(self) -> datetime:
        """Return UTC now; never less than before, but for `renew`."""
        return self._anchor.now(self._read())

    def of_engine(self, said: datetime) -> datetime:
        """Return when something was that the engine dates; see `anchor.of_wall`."""
        return of_wall(said, self._anchor, self._read())

    def end_of(
        self,
        started: datetime | None,
        finished: datetime,
        *,
        seen_running_at: datetime | None = None,
    ) -> datetime | None:
        """Return when a container ended, None if nobody knows; see `anchor.end_of`."""
        return end_of(
            started,
            finished,
            self._anchor,
            self._read(),
            seen_running_at=seen_running_at,
        )

    async def renew(self) -> None:
        """Follow the machine's clock if it was set. Only while no lease is metered."""
        reading = self._read()
        if not self._anchor.is_off(reading):
            return
        self._log.warning("the clock was set, leases follow it from now on")
        self._anchor = Anchor.of(reading)
        await asyncio.to_thread(self._save)

    def _load(self) -> Anchor | None:
        try:
            found = self._store.load()
            return Anchor.from_json(found) if found is not None else None
        except (StoreFailed, ValueError) as error:
            self._log.error("starting with the machine's clock: %s", error)
            return None

    def _save(self) -> None:
        try:
            self._store.save(self._anchor.to_json())
        except StoreFailed as error:
            self._log.error("the clock is not kept over a restart: %s", error)
