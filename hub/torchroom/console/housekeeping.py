"""What must happen to tokens without anybody asking: once a minute, one step at a time.

Every step is safe to repeat and safe beside another console's: a step that fails is
logged and done again a minute later, and the others go on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from torchroom.console.guards import Console
from torchroom.ledger.errors import LedgerError

log = logging.getLogger("torchroom.console")

EVERY_S = 60.0
AUDIT_EVERY = timedelta(days=1)
ENDS_WITHIN_S = 10.0

Step = Callable[[datetime], Awaitable[None]]


class Housekeeping:
    """Lapses, expired holds, allowances, fees left over, and the daily audit."""

    def __init__(self, console: Console, *, every_s: float = EVERY_S) -> None:
        self.console = console
        self._every_s = every_s
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failed: dict[str, str] = {}
        """Step -> why it failed the last time; steps that went well are not in it."""

    @property
    def steps(self) -> dict[str, Step]:
        """What is done, in this order."""
        return {
            "lapse": self._lapse,
            "expire": self._expire,
            "allowances": self._allowances,
            "extensions": self._extensions,
            "audit": self._audit,
        }

    def start(self) -> None:
        """Begin; the first round is at once."""
        self._task = asyncio.create_task(self._rounds(), name="housekeeping")

    async def end(self) -> None:
        """Stop after the step that is being done; drop it if it takes too long."""
        self._stop.set()
        if self._task is None:
            return
        _, late = await asyncio.wait({self._task}, timeout=ENDS_WITHIN_S)
        if late:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def once(self) -> None:
        """Do every step once; none keeps the others from being done."""
        for name, step in self.steps.items():
            if self._stop.is_set():
                return
            try:
                await step(self.console.now())
            except LedgerError as error:
                self.failed[name] = str(error)
                log.error("housekeeping failed step=%s why=%s", name, error)
            except Exception as error:  # the supervising loop: it must go on
                self.failed[name] = type(error).__name__
                log.exception("housekeeping failed step=%s", name)
            else:
                self.failed.pop(name, None)

    async def _rounds(self) -> None:
        while not self._stop.is_set():
            await self.once()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._every_s)

    async def _lapse(self, now: datetime) -> None:
        await self.console.ledger.grants.lapse(now)

    async def _expire(self, now: datetime) -> None:
        await self.console.ledger.expiry.expire_holds(now)

    async def _allowances(self, now: datetime) -> None:
        groups = await self.console.hub.groups()
        await self.console.ledger.allowances.apply(groups, now)

    async def _extensions(self, now: datetime) -> None:
        if n := await self.console.extending.give_back_left_overs(now):
            log.warning("gave back fees of extensions that were not taken n=%d", n)

    async def _audit(self, now: datetime) -> None:
        last = await self.console.ledger.last_audit()
        if last is not None and now - last.at < AUDIT_EVERY:
            return
        found = await self.console.ledger.audit(now)
        for problem in found.problems:
            log.critical("ledger is not right: %s", problem)
        if not found.problems:
            log.info("ledger audited n_postings=%s", found.n_postings)
