"""Tells the meter about leases: that they begin, run and end. Nobody else does.

- A lease is held before its container is made, and charged from when its server answers
  to its end. When that was is found and told by `closing`.
- A lease that the meter knows and nobody else does is ended by the next pass. That is
  what a hub leaves behind that was killed between a hold and its container.
- Charges are cumulative: a pass that failed costs nobody anything, the next one charges
  for all the time.
- Nothing waits for a meter that hangs: after a while it counts as one that failed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from gpuspawner import container as c
from gpuspawner import exits, quoting
from gpuspawner.asking import Asking
from gpuspawner.clock import Clock
from gpuspawner.closing import Closing
from gpuspawner.errors import InvalidSelection, MeterFailed, NotPayable
from gpuspawner.exits import Exit
from gpuspawner.model import (
    Lease,
    LeaseState,
    Owner,
    Payer,
    Settlement,
    SlotRequest,
    Statement,
)
from gpuspawner.pool import Pool
from gpuspawner.ports import Engine, Meter

READY_TRIES_S = 5.0  # for tries to let the meter run; then the start fails
READY_PAUSE_S = 2.0  # between two of them
BETWEEN_S = 1.0  # two passes at least
FIRST_LOOK_S = 10.0  # after a start: what is held may last for seconds only
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Metering:
    """Keeps the meter and the leases in agreement.

    Args:
        hub_id: Containers with this label are ours.
        meter: See Meter.
        clock: What leases are dated by.
        engine: Tells which containers run and when one ended.
        pool: Knows the leases.
        path: See Closing.
        evict: Ends a lease's server for a reason that its user reads.
        tell: Leaves a message for a lease's user.
        every_s: Seconds between two passes.
        log: The hub's.

    Attributes:
        closing: Ends leases with the meter.
        wake: Set when a pass should be made soon.
        tokens_end: Lease id -> when its tokens run out, as the meter last said.
        log: The hub's.
    """

    def __init__(
        self,
        hub_id: str,
        meter: Meter,
        clock: Clock,
        *,
        engine: Engine,
        pool: Pool,
        path: Path,
        evict: Callable[[str, Exit], None],
        tell: Callable[[str, str], None],
        every_s: float,
        log: Log,
    ) -> None:
        self.wake = asyncio.Event()
        self.tokens_end: Mapping[str, datetime] = {}
        self._hub_id, self._meter, self._clock = hub_id, meter, clock
        self._engine, self._pool, self.log = engine, pool, log
        self._evict, self._tell, self._every_s = evict, tell, every_s
        self._asking = Asking()
        self._ask = self._asking.answer_of
        self.closing = Closing(
            hub_id, meter, self._asking, clock, engine=engine, path=path, log=log
        )
        self._alarm: asyncio.TimerHandle | None = None

    # -- before a lease ------------------------------------------------------------

    async def courses(self, groups: Sequence[str]) -> Mapping[str, str]:
        """Return which of a user's groups servers can be started for: name -> title.

        Raises:
            MeterFailed: The meter does not answer.
        """
        return await self._ask(self._meter.courses(groups))

    async def payer(self, owner: Owner, groups: Sequence[str], course: str) -> Payer:
        """Return who pays for a server that is started for this course, "" for none.

        Raises:
            InvalidSelection: The user is not in such a course.
            MeterFailed: The meter does not answer.
        """
        if course:
            known = await self.courses(groups)
            if course not in known or course not in groups:
                mine = ", ".join(name for name in known if name in groups)
                which = f"Choose one of: {mine}." if mine else "Leave it out."
                raise InvalidSelection(
                    "You are not in a course of this name that pays for servers. "
                    f"{which} Nothing was started."
                )
        return Payer(owner, tuple(groups), course)

    async def quote(
        self, payers: Sequence[Payer], requests: Sequence[SlotRequest]
    ) -> Sequence[quoting.Tag]:
        """Return the price of each request, on the slots that this machine has.

        Args:
            payers: Who may pay, the preferred one first.
            requests: What is asked for.

        Raises:
            MeterFailed: The meter does not answer.
        """
        slots = tuple(self._pool.slots.values())
        asked = [quoting.choices(request, slots) for request in requests]
        every = [choice for row in asked for choice in row]
        now, answers = self._clock.now(), []
        if every:
            answers = [
                await self._ask(self._meter.quote(payer, every, now))
                for payer in payers
            ]
        tags, at = [], 0
        for row in asked:
            tags.append(quoting.tag([found[at : at + len(row)] for found in answers]))
            at += len(row)
        return tags

    async def check(self, payer: Payer, request: SlotRequest) -> None:
        """Return if a server could be paid for now; nothing is reserved.

        Raises:
            NotPayable: None that this request can become.
            MeterFailed: The meter does not answer.
        """
        (tag,) = await self.quote([payer], [request])
        if tag.refusal:
            raise NotPayable(tag.refusal)

    # -- a lease -------------------------------------------------------------------

    async def hold(self, lease: Lease, payer: Payer) -> None:
        """Reserve what a lease costs at first. However it fails, the lease must end.

        Raises:
            Refusal: It cannot be paid for.
            MeterFailed: Whether it is reserved is not known.
        """
        await self._ask(self._meter.hold(lease, payer, self._clock.now()))

    async def statement(self, lease: Lease, payer: Payer) -> Statement:
        """Return the owner's balance and what this lease burns.

        Raises:
            MeterFailed: The meter does not answer.
        """
        return await self._ask(self._meter.statement(lease, payer, self._clock.now()))

    async def ready(self, lease_id: str) -> None:
        """Let the meter run from now on: the server answers.

        A meter that fails is asked again for a few seconds, for the same time.

        Raises:
            MeterFailed: Whether it runs is not known.
        """
        at = self._clock.now()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + READY_TRIES_S
        while True:
            try:
                await self._ask(self._meter.ready(lease_id, at))
                break
            except MeterFailed as error:
                if loop.time() + READY_PAUSE_S > give_up_at:
                    raise
                self.log.warning("will try again lease_id=%s: %s", lease_id, error)
            await asyncio.sleep(READY_PAUSE_S)
        self.closing.saw_running({lease_id: at})
        self._look_in(FIRST_LOOK_S)

    def decide(self, lease_id: str, why: Exit) -> Exit:
        """Note why a lease must end; see `Closing.decide`."""
        return self.closing.decide(lease_id, why)

    # -- all leases ----------------------------------------------------------------

    async def once(self) -> None:
        """Make one pass: charge what runs, warn and end, and end what is over.

        Raises:
            MeterFailed: Nothing is lost; the next pass charges for all the time.
            EngineUnknown: Likewise: what may have stopped is not charged as running.
        """
        if self._alarm is not None:
            self._alarm.cancel()  # this is the pass that it was set for
            self._alarm = None
        await self.closing.hand_in()
        is_open = await self._ask(self._meter.open_leases())
        if not self._pool.is_ready:
            self._look_in(BETWEEN_S)  # the hub has just started
            return
        self.closing.recall(is_open)
        if is_open:
            await self._settle(is_open)
        known = is_open.keys() | self._pool.leases.keys()
        self.closing.keep(known)
        if not (known or self.closing.owed):
            await self._clock.renew()

    async def _settle(self, is_open: Mapping[str, datetime | None]) -> None:
        now = self._clock.now()  # before the engine is asked: what it saw ran until now
        here = {
            found.labels[c.LEASE]: found
            for found in await self._engine.list()
            if c.is_ours(self._hub_id, found) and c.LEASE in found.labels
        }
        leases = self._pool.leases
        running = {
            lease_id: now
            for lease_id, found in here.items()
            if found.is_running
            and lease_id in leases
            and leases[lease_id].state is LeaseState.ACTIVE
        }
        known = here.keys() | leases.keys()
        lost = is_open.keys() - known - self.closing.under_way - self.closing.owed
        if running:
            settlement = await self._ask(self._meter.settle(running))
            self.closing.saw_running(running)
            self._act(settlement)
        for lease_id in sorted(lost):
            if is_open[lease_id] is None:
                self.decide(lease_id, exits.NOT_STARTED)
            self.closing.lost(lease_id)

    def _act(self, settlement: Settlement) -> None:
        """Do what follows from settling."""
        self.tokens_end = settlement.ends
        for verdict in settlement.verdicts:
            if verdict.must_end:
                at = self._clock.now().isoformat()
                self._evict(verdict.lease_id, exits.out_of_tokens(verdict.text, at))
            else:
                self._tell(verdict.lease_id, verdict.text)
        if settlement.next_at is not None:
            due_s = (settlement.next_at - self._clock.now()).total_seconds()
            self._look_in(max(BETWEEN_S, due_s))

    def _look_in(self, seconds: float) -> None:
        """Make a pass after so many seconds, if none comes sooner anyway."""
        if seconds >= self._every_s:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._alarm is not None:
            if loop.time() < self._alarm.when() <= due:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(seconds, self.wake.set)
