"""Work that a hub repeats until it ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpuspawner.errors import GPUSpawnerError

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Loops:
    """One task for each name. What fails is logged and tried again.

    Attributes:
        tasks: Name -> its task.
        log: The hub's.
    """

    def __init__(self, log: Log) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.log = log

    @property
    def are_ending(self) -> bool:
        """Whether the hub is ending: it has begun to cancel them."""
        return any(task.cancelling() for task in self.tasks.values())

    def start(
        self,
        name: str,
        wake: asyncio.Event,
        every_s: float,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        """Do work from now on; nothing if it is being done. Needs a running loop.

        Args:
            name: Of the work.
            wake: Set to have it done sooner; one that is set meanwhile counts.
            every_s: Seconds between two times, from the end of the one on.
            work: Called again and again, never twice at once.
        """
        running = self.tasks.get(name)
        if running is None or running.done():
            loop = asyncio.get_running_loop()
            self.tasks[name] = loop.create_task(self._repeat(wake, every_s, work))

    async def _repeat(
        self, wake: asyncio.Event, every_s: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            wake.clear()
            try:
                await work()
            except GPUSpawnerError as error:
                self.log.warning("will try again: %s", error)
            except Exception:  # a bug here must not end the loop that keeps leases true
                self.log.exception("a round failed, will try again")
            try:
                async with asyncio.timeout(every_s):  # wait_for can lose a cancellation
                    await wake.wait()
            except TimeoutError:
                continue
