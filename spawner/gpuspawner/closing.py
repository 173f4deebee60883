"""Closes leases with the meter: it learns of each end, and of its exact time.

Whatever is killed when:

- Before a lease's container is removed, its end is with the meter, or, if the meter
  does not answer, in a file. Until then the stopped container itself says when it
  ended: the next hub finds it.
- A container that is gone without us: the engine remembers for a while when it ended;
  if it forgot, it ended when it was last seen running.
- Why a lease must end is kept in the same file from the moment that it is decided. If
  the hub is killed sooner, it is decided again: what was wrong still is. If it is
  killed later and the server goes on all the same, the reason is dropped: see
  `reconsider`.
- What the meter was told twice counts once, so that a call whose answer was lost is
  simply made again.
"""

import asyncio
import logging
from collections.abc import Mapping, Set
from datetime import datetime
from pathlib import Path

from gpuspawner import container as c
from gpuspawner import exits
from gpuspawner.asking import Asking
from gpuspawner.clock import Clock
from gpuspawner.endings import Endings
from gpuspawner.errors import EngineRefused, EngineUnknown, GPUSpawnerError
from gpuspawner.exits import Exit
from gpuspawner.keeping import Keeper
from gpuspawner.model import Container, LeaseEnd
from gpuspawner.ports import Engine, Meter

END_WAIT_S = 10.0  # for the meter to take an end while a stop is held up
N_LOST = 4  # leases that are ended at once when their containers are gone
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Closing:
    """Why leases end, when, and which ends the meter has not taken yet.

    Args:
        hub_id: Containers with this label are ours.
        meter: See Meter.
        asking: How it is asked.
        clock: What leases are dated by.
        engine: Tells when a container ended that is gone.
        path: Where reasons are kept, and ends that the meter has not taken.
        log: The hub's.

    Attributes:
        log: The hub's.
    """

    def __init__(
        self,
        hub_id: str,
        meter: Meter,
        asking: Asking,
        clock: Clock,
        *,
        engine: Engine,
        path: Path,
        log: Log,
    ) -> None:
        self._hub_id, self._meter, self._asking = hub_id, meter, asking
        self._clock, self._engine, self.log = clock, engine, log
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

    def _to_json(self) -> Mapping[str, object]:
        return self._endings.to_json()

    # -- why -----------------------------------------------------------------------

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

    # -- when ----------------------------------------------------------------------

    def saw_running(self, at: Mapping[str, datetime]) -> None:
        """Note when leases were last seen running."""
        self._seen.update(at)

    def recall(self, charged_until: Mapping[str, datetime | None]) -> None:
        """Note until when the meter charged leases, of those never seen running."""
        for lease_id, until in charged_until.items():
            if until is not None:
                self._seen.setdefault(lease_id, until)

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
            is_open = await self._asking.answer_of(
                self._meter.open_leases(), END_WAIT_S
            )
            return is_open.get(lease_id)
        except GPUSpawnerError as error:
            self.log.warning("use so far unknown lease_id=%s: %s", lease_id, error)
        except Exception:  # a bug in a meter must not keep a GPU from the next user
            self.log.exception("use so far unknown lease_id=%s", lease_id)
        return None

    # -- telling the meter ---------------------------------------------------------

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

    async def hand_in(self) -> None:
        """Tell the meter of the ends that it has not taken, until it hangs."""
        for lease_id in list(self._endings.ends):
            await self._hand_in(lease_id)
            if lease_id in self._sending:
                break

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
            end = self._meter.end(lease_id, self._endings.ends[lease_id])
            await self._asking.answer_of(end)
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

    @property
    def owed(self) -> Set[str]:
        """Leases whose ends the meter has not taken yet."""
        return self._endings.ends.keys()

    @property
    def under_way(self) -> Set[str]:
        """Leases that are lost, and of which it is still asked when they ended."""
        return self._under_way.keys()

    def keep(self, lease_ids: Set[str]) -> None:
        """Forget what nobody will ask for: reasons and times of all other leases."""
        self._endings.keep(lease_ids)
        self._seen = {key: at for key, at in self._seen.items() if key in lease_ids}
