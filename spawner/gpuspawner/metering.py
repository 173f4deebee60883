"""The only place that tells the meter about leases: that they begin, run and end.

The meter must learn of each end and of its exact time, whatever is killed when:

- Before a lease's container is removed, its end is with the meter, or, if the meter
  does not answer, in a file. Until then the stopped container itself says when it
  ended: the next hub finds it.
- A container that is gone without us: the engine remembers for a while when it ended;
  if it forgot, it ended when it was last seen running.
- A lease that the meter knows and nobody else does is ended by the next pass. That is
  what a hub leaves behind that was killed between a hold and its container.
- Why a lease must end is kept in the same file from the moment that it is decided. If
  the hub is killed sooner, it is decided again: what was wrong still is. If it is
  killed later and the server goes on all the same, the reason is dropped: see
  `reconsider`.
- Whatever the meter was told twice counts once, and charges are cumulative, so that a
  call whose answer was lost is simply made again.
- Nothing waits for a meter that hangs: after a while it counts as one that failed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from gpuspawner import container as c
from gpuspawner import exits, quoting
from gpuspawner.clock import Clock
from gpuspawner.endings import Endings
from gpuspawner.errors import (
    EngineRefused,
    EngineUnknown,
    GPUSpawnerError,
    InvalidSelection,
    MeterFailed,
    NotPayable,
)
from gpuspawner.exits import Exit
from gpuspawner.keeping import Keeper
from gpuspawner.model import (
    Container,
    Lease,
    LeaseEnd,
    LeaseState,
    Owner,
    Payer,
    Settlement,
    SlotRequest,
    Statement,
)
from gpuspawner.pool import Pool
from gpuspawner.ports import Engine, Meter

METER_WAIT_S = 30.0  # for any answer of the meter
END_WAIT_S = 10.0  # for the meter to take an end while a stop is held up
READY_TRIES_S = 5.0  # for tries to let the meter run; then the start fails
READY_PAUSE_S = 2.0  # between two of them
N_LOST = 4  # leases that are ended at once when their containers are gone
BETWEEN_S = 1.0  # two passes at least
FIRST_LOOK_S = 10.0  # after a start: what is held may last for seconds only
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Answer = TypeVar("Answer")


class Metering:
    """Keeps the meter and the leases in agreement.

    Args:
        hub_id: Containers with this label are ours.
        meter: See Meter.
        clock: What leases are dated by.
        engine: Tells which containers run and when one ended.
        pool: Knows the leases.
        path: Where ends are kept that the meter has not taken.
        evict: Ends a lease's server for a reason that its user reads.
        tell: Leaves a message for a lease's user.
        every_s: Seconds between two passes.
        log: The hub's.

    Attributes:
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
        self._endings = Endings()
        self._file = Keeper(path, self._to_json, log)
        try:
            self._endings = Endings.from_json(self._file.load())
        except ValueError as error:
            log.error("starting without the ends of leases: %s", error)
        self._seen: dict[str, datetime] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._lost_at_once = asyncio.Semaphore(N_LOST)
        self._sending: dict[str, asyncio.Task[bool]] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def _to_json(self) -> Mapping[str, object]:
        return self._endings.to_json()

    async def _ask(
        self, call: Coroutine[Any, Any, Answer], wait_s: float | None = None
    ) -> Answer:
        """Return what the meter answers.

        A call that takes too long is cancelled, but not waited for: a driver that waits
        for a database may do so even then.

        Raises:
            Refusal: It answers that.
            MeterFailed: Or nothing within `wait_s` seconds, METER_WAIT_S by default.
        """
        limit_s = METER_WAIT_S if wait_s is None else wait_s
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._forget_call)
        try:
            await asyncio.wait({task}, timeout=limit_s)
        finally:
            is_over = task.done()
            task.cancel()
        if not is_over:
            raise MeterFailed(f"The ledger did not answer within {limit_s:g} seconds.")
        return task.result()

    def _forget_call(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave up waiting for it does not read it

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
        self._seen[lease_id] = at
        self._look_in(FIRST_LOOK_S)

    def decide(self, lease_id: str, why: Exit) -> Exit:
        """Note why a lease must end, before its container is touched.

        The first reason stays, but for NOT_STARTED: whoever says that knows that its
        user never had the server. Returns the reason that counts.
        """
        if not lease_id:
            return why
        self._endings.decide(lease_id, why, overrules=why == exits.NOT_STARTED)
        self._file.changed()
        return self._endings.why[lease_id]

    def reconsider(self, lease_id: str) -> None:
        """Drop why a lease must end: its server goes on.

        A hub that is killed after it decided an end, and before the container stopped,
        leaves such a reason. It is not why the server ends hours later.
        """
        if self._endings.why.pop(lease_id, None):
            self.log.warning("its end is taken back lease_id=%s", lease_id)
            self._file.changed()

    def lost(self, lease_id: str) -> None:
        """Note that a lease's container is gone, by whomever; see `finished`.

        It is ended in the background: few at once, and none twice at once.
        """
        if lease_id not in self._under_way:
            task = asyncio.create_task(self._lost(lease_id))
            self._under_way[lease_id] = task

    async def _lost(self, lease_id: str) -> None:
        try:
            async with self._lost_at_once:
                await self.finished(lease_id)
        except Exception:  # nobody awaits this task
            self.log.exception("not ended, will try again lease_id=%s", lease_id)
        finally:
            del self._under_way[lease_id]

    async def finished(self, lease_id: str, container: Container | None = None) -> None:
        """Tell the meter that a lease is over. Never fails for the meter's sake.

        When this returns the container may be removed: the meter knows when it ended,
        or that is on the disk.

        Args:
            lease_id: Whose container has stopped.
            container: As it is now; None if it is gone.
        """
        if lease_id and lease_id not in self._endings.ends:
            end = await self._end(lease_id, container)
            if end is None:
                return  # the lease is open: the next pass asks again
            self._endings.ends.setdefault(lease_id, end)
        if not await self._hand_in(lease_id):
            await self._file.written()

    async def _end(self, lease_id: str, found: Container | None) -> LeaseEnd | None:
        """Return a lease's end; None if the engine cannot be asked now."""
        default = exits.REMOVED if found is None else exits.ON_REQUEST
        why = self._endings.why.get(lease_id, default)
        if why.never_came_up:
            return LeaseEnd(None, why.reason, is_failed_start=True)
        finished = found.finished_at if found else None
        if found is None:
            labels = {c.HUB: self._hub_id, c.LEASE: lease_id}
            try:
                finished = await self._engine.died_at(labels)
            except EngineUnknown as error:
                self.log.warning("end unknown lease_id=%s: %s", lease_id, error)
                return None
            except EngineRefused as error:
                self.log.warning("end not told lease_id=%s: %s", lease_id, error)
        broke_at = None
        if why.is_refundable and why.broke_at:
            broke_at = self._clock.of_engine(datetime.fromisoformat(why.broke_at))
        seen_at = await self._seen_running_at(lease_id)
        at = finished and self._clock.end_of(
            found.started_at if found else None, finished, seen_running_at=seen_at
        )
        return LeaseEnd(at or seen_at, why.reason, broke_at=broke_at)

    async def _seen_running_at(self, lease_id: str) -> datetime | None:
        """Return when a lease's container was last seen running, None if unknown."""
        if lease_id in self._seen:
            return self._seen[lease_id]
        try:  # the hub has just started
            is_open = await self._ask(self._meter.open_leases(), END_WAIT_S)
            return is_open.get(lease_id)
        except GPUSpawnerError as error:
            self.log.warning("use so far unknown lease_id=%s: %s", lease_id, error)
        except Exception:  # a bug in a meter must not keep a GPU from the next user
            self.log.exception("use so far unknown lease_id=%s", lease_id)
        return None

    async def _hand_in(self, lease_id: str) -> bool:
        """Return whether the meter has taken an end; it may still do so later.

        What was begun goes on: a stop does not wait for it as long as a pass does.
        """
        if lease_id not in self._endings.ends:
            return True
        task = self._sending.get(lease_id)
        if task is None:
            task = asyncio.create_task(self._send(lease_id))
            self._sending[lease_id] = task
        await asyncio.wait({task}, timeout=END_WAIT_S)
        return task.done() and not task.cancelled() and task.result()

    async def _send(self, lease_id: str) -> bool:
        try:
            await self._ask(self._meter.end(lease_id, self._endings.ends[lease_id]))
        except GPUSpawnerError as error:
            self.log.error("end not taken, kept lease_id=%s: %s", lease_id, error)
            return False
        except Exception:  # a bug in a meter must not keep a GPU from the next user
            self.log.exception("end not taken, kept lease_id=%s", lease_id)
            return False
        finally:
            del self._sending[lease_id]
        self._endings.forget(lease_id)
        self._seen.pop(lease_id, None)
        self._file.changed()
        return True

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
        for lease_id in list(self._endings.ends):
            await self._hand_in(lease_id)
            if lease_id in self._sending:
                break  # the meter hangs
        is_open = await self._ask(self._meter.open_leases())
        if not self._pool.is_ready:
            self._look_in(BETWEEN_S)  # the hub has just started
            return
        for lease_id, until in is_open.items():
            if until is not None:
                self._seen.setdefault(lease_id, until)
        if is_open:
            await self._settle(is_open)
        known = is_open.keys() | self._pool.leases.keys()
        self._endings.keep(known)
        self._seen = {key: at for key, at in self._seen.items() if key in known}
        if not (known or self._endings.ends):
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
        known = here.keys() | leases.keys() | self._under_way.keys()
        lost = is_open.keys() - known - self._endings.ends.keys()
        if running:
            settlement = await self._ask(self._meter.settle(running))
            self._seen.update(running)
            self._act(settlement)
        for lease_id in sorted(lost):
            if is_open[lease_id] is None:
                self.decide(lease_id, exits.NOT_STARTED)
            self.lost(lease_id)

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
