"""Looks again and again, tells users what is coming, and stops what is due.

Every step is kept before the next one is taken, so a steward that is killed anywhere
goes on where it was: a stop is first claimed (from then on it cannot be extended), then
the plugin is told why, then the hub is asked; it is noted as done in the same
transaction that ends the claim. What the hub does not say is unknown, and of unknown
servers none is stopped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from torchroom.hub_api import HubSilent
from torchroom.steward import looking, records, rounds
from torchroom.steward.file import StoreError
from torchroom.steward.hub import CalledOff, Hub, Stop
from torchroom.steward.model import FAILED, KEPT, STOPPED, WARNED, Claim, Look
from torchroom.steward.records import Hooks
from torchroom.steward.rounds import Known, Round
from torchroom.steward.rules import Policy
from torchroom.steward.store import Store

log = logging.getLogger("torchroom.steward")

EVERY = timedelta(seconds=30)
AT_MOST_EVERY = timedelta(seconds=0.5)
N_STOPS = 10
RECENT = 1000  # events in which a warning's last repetition is looked for
ENDS_WITHIN_S = 4.0  # JupyterHub kills a service that takes longer than five seconds


class Steward:
    """One policy on one hub.

    Args:
        hub: Where the servers are.
        store: What is kept.
        policy: The site's.
        hooks: Whom events are sent to.
        now: The present, aware UTC.
        every: How long it waits between two looks, unless something is due sooner.
        n_stops: How many servers it stops at a time.
        on_news: Called when the store has something to send.
    """

    def __init__(
        self,
        hub: Hub,
        store: Store,
        policy: Policy,
        *,
        hooks: Hooks,
        now: Callable[[], datetime],
        every: timedelta = EVERY,
        n_stops: int = N_STOPS,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._store = store
        self._policy = policy
        self._hooks = hooks
        self._now = now
        self._every = every
        self._at_a_time = asyncio.Semaphore(n_stops)
        self._on_news = on_news
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._is_ended = False
        self._wake = asyncio.Event()
        self._trouble = ""

    async def run(self) -> None:
        """Look until `end` is called, then finish what is being done."""
        while not self._is_ended:
            due = None
            self._wake.clear()
            try:
                due = await self.once()
            except StoreError as error:
                log.critical("nothing is stopped: %s", error)
            except Exception:  # the supervising loop: it must go on
                log.exception("a look failed; nothing is stopped")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause(due))
        if self._stops:
            await asyncio.wait(self._stops.values(), timeout=ENDS_WITHIN_S)

    def end(self) -> None:
        """Let `run` return soon."""
        self._is_ended = True
        self._wake.set()

    async def settled(self) -> None:
        """Wait until no stop is being done."""
        while self._stops:
            await asyncio.wait(self._stops.values())

    async def once(self) -> datetime | None:
        """Look, keep what follows, and begin the stops that are due.

        Returns:
            When the next thing is due; None: nothing is in sight.

        Raises:
            StoreError: It cannot be kept; then nothing is done.
        """
        now = self._now()
        stopping = frozenset(self._stops)  # before the hub is asked
        try:
            gpus, users = await asyncio.gather(self._hub.gpus(), self._hub.users())
            found = looking.found(gpus, users, now)
        except (HubSilent, looking.Odd) as error:
            await self._blind(now, str(error))
            return None
        known = await asyncio.to_thread(self._known, found.active, stopping, now)
        made = rounds.decide(found, self._policy, known, now, self._hooks)
        await asyncio.to_thread(self._keep, made, now)
        self._tell_log(made)
        self._on_news()
        for claim, n_extensions in made.stops:
            task = asyncio.create_task(self._stop(claim, n_extensions))
            self._stops[claim.lease] = task
        return made.next_at

    def _pause(self, due: datetime | None) -> float:
        """Return how many seconds to wait before the next look."""
        pause = self._every
        if due is not None:
            pause = min(pause, max(AT_MOST_EVERY, due - self._now()))
        return pause.total_seconds()

    async def _blind(self, now: datetime, why: str) -> None:
        if why != self._trouble:
            log.warning("nothing is known, so nothing is stopped: %s", why)
        self._trouble = why
        await asyncio.to_thread(self._store.keep_trouble, now, why)

    def _known(
        self, active: frozenset[str], stopping: frozenset[str], now: datetime
    ) -> Known:
        last = self._store.look()
        return Known(
            extensions=self._store.extensions(active),
            told=self._store.told(),
            notices={notice.lease: notice for notice in self._store.notices()},
            warned={
                (event.lease, event.reason): event.at
                for event in reversed(self._store.events(RECENT))
                if event.action == WARNED and records.SENT_BY in event.evidence
            },
            claims=self._store.claims(),
            stopping=stopping,
            was_blind=last is not None and not last.is_fresh(now),
        )

    def _keep(self, made: Round, now: datetime) -> None:
        # First: what ends a claim ends its warning, and there may be a new one.
        for claim in made.gone:
            self._finish(claim) if claim.is_sent else self._store.unclaim(claim.lease)
        for claim, why in made.called_off:
            self._call_off(claim, why)
        self._store.keep(
            Look(
                at=now,
                complete_at=now,
                n_servers=len(made.seen),
                is_dry_run=self._policy.is_dry_run,
            ),
            notices=made.notices,
            told=made.told,
            seen=made.seen,
            noted=made.noted,
        )

    def _tell_log(self, made: Round) -> None:
        if self._trouble:
            log.warning("the hub answers again")
            self._trouble = ""
        for event, _ in made.noted:
            log.info(
                "%s%s lease=%s user=%s reason=%s",
                "dry run: " if event.is_dry_run else "",
                *(event.action, event.lease, event.user, event.reason),
            )

    # -- stops -----------------------------------------------------------------------

    async def _stop(self, claim: Claim, n_extensions: int) -> None:
        async with self._at_a_time:
            try:
                await self._try_stop(claim, n_extensions)
            except StoreError as error:
                log.critical("stopping lease=%s: %s", claim.lease, error)
            except Exception:  # a task of its own: nobody else would hear of it
                log.exception("stopping lease=%s", claim.lease)
            finally:
                del self._stops[claim.lease]

    async def _try_stop(self, claim: Claim, n_extensions: int) -> None:
        if not await asyncio.to_thread(self._store.claim, claim, n_extensions):
            return  # it was extended meanwhile; the next look knows
        # Before: the stop names the user's server, not the lease, so nothing must come
        # between the plugin's word that this lease still runs and the request.
        await asyncio.to_thread(self._store.mark, claim.lease, is_sent=True)
        try:
            if not await self._hub.say_why(claim):
                if not claim.is_sent:  # it has ended by itself
                    await asyncio.to_thread(self._store.unclaim, claim.lease)
                return
            match await self._hub.stop(claim.user, claim.server):
                case Stop.STOPPED:
                    await asyncio.to_thread(self._finish, claim)
                    self._on_news()
                    self._wake.set()  # so that what users are told is true soon
                case Stop.NOT_THERE:
                    log.warning("no server to stop lease=%s", claim.lease)
        except CalledOff as error:
            await asyncio.to_thread(self._call_off, claim, str(error))
        except HubSilent as error:
            log.error("cannot stop lease=%s: %s", claim.lease, error)
            event = records.of_stop(claim, FAILED, str(error), self._now())
            await asyncio.to_thread(self._store.mark, claim.lease, failed=event)

    def _finish(self, claim: Claim) -> None:
        event = records.of_stop(claim, STOPPED, claim.sentence, self._now())
        sent = records.posts(event, claim.at, None, self._hooks)
        self._store.unclaim(claim.lease, (event, sent))
        log.info("stopped lease=%s user=%s reason=%s", claim.lease, claim.user,
                 claim.reason.value)  # fmt: skip

    def _call_off(self, claim: Claim, why: str) -> None:
        event = records.of_stop(claim, KEPT, why, self._now())
        self._store.unclaim(claim.lease, (event, ()))
        log.info("kept lease=%s user=%s: %s", claim.lease, claim.user, why)
