"""Keeps on disk what must outlive the hub, without holding up its event loop."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpuspawner.errors import StoreFailed
from gpuspawner.store import JsonStore

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Keeper:
    """Writes one owner's state to one file, in a thread, soon after each change.

    Args:
        path: See JsonStore.
        read: Returns the state as plain JSON types.
        log: Told what could not be written; the hub goes on.
    """

    def __init__(
        self, path: Path, read: Callable[[], Mapping[str, Any]], log: Log
    ) -> None:
        self._store = JsonStore(path)
        self._read = read
        self._log = log
        self._is_stale = False
        self._writing: asyncio.Task[None] | None = None

    def load(self) -> dict[str, Any]:
        """Return what was kept, {} if nothing was or it cannot be read. Blocks."""
        try:
            return self._store.load() or {}
        except StoreFailed as error:
            self._log.error("starting without what was kept: %s", error)
            return {}

    def changed(self) -> None:
        """Write the state soon. Needs a running event loop."""
        self._is_stale = True
        if self._writing is None or self._writing.done():
            loop = asyncio.get_running_loop()
            self._writing = loop.create_task(self._write())

    async def written(self) -> None:
        """Write the state; it is on the disk when this returns, or the log says why."""
        self.changed()
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write(self) -> None:
        while self._is_stale:
            self._is_stale = False
            try:
                await asyncio.to_thread(self._store.save, self._read())
            except StoreFailed as error:
                self._log.error("state is not kept, it would not survive: %s", error)
