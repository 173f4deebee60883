"""Where servers wait until the machine has room for one more boot."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from gpuspawner.admission import Admission, Turn

LOOK_EVERY_S = 1.0
Tell = Callable[[Turn], None]


class BootTimedOut(Exception):
    """Raise it inside `Doorway.boot` for a boot that took too long."""


class Doorway:
    """Lets as many servers boot at once as `Admission` says.

    Attributes:
        admission: See Admission; None until the machine's cores are known.
    """

    def __init__(self) -> None:
        self.admission: Admission | None = None
        self._news = asyncio.Event()

    @asynccontextmanager
    async def boot(self, boot_id: str, n_cpus: int, tell: Tell) -> AsyncIterator[None]:
        """Wait for a turn; the server boots inside the block.

        Args:
            boot_id: Whose boot.
            n_cpus: The machine's cores; the first call's count.
            tell: Told where it stands while it waits.
        """
        admission = self.admission = self.admission or Admission(n_cpus)
        end = admission.left
        try:
            admission.ask(boot_id, datetime.now(UTC))
            while not admission.may_boot(boot_id):
                turn = admission.turn(boot_id, datetime.now(UTC))
                if turn:
                    tell(turn)
                await self._wait()
            try:
                yield
            except BootTimedOut:
                end = admission.failed
                raise
            end = admission.booted
        finally:
            end(boot_id, datetime.now(UTC))
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            # Not wait_for: of news and a cancellation at once it loses the latter.
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._news.wait()
