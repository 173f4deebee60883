"""Where starts wait for slots: each of the queue's tickets with its start."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from gpuspawner.errors import NoCapacity
from gpuspawner.model import Lease, Owner
from gpuspawner.pool import Pool
from gpuspawner.tickets import Place, Ticket

LOOK_EVERY_S = 2.0  # for pages that were closed, and for new estimates
Tell = Callable[[Place], None]


class WaitingRoom:
    """Hands leases to the starts whose turn it is.

    Args:
        pool: Whose queue this is.
        limit_s: Longest wait; 0 refuses at once what cannot be granted at once.
        changed: Called whenever a ticket came or went.
    """

    def __init__(self, pool: Pool, limit_s: float, changed: Callable[[], None]) -> None:
        self._pool = pool
        self._limit_s = limit_s
        self._changed = changed
        self._waiters: dict[str, asyncio.Future[Lease]] = {}
        self._places: Mapping[str, Place] = {}
        self._places_at = 0.0

    async def lease(
        self, ticket: Ticket, tell: Tell, is_left: Callable[[], bool]
    ) -> Lease:
        """Return a lease as soon as it is this ticket's turn.

        Cancelling leaves the queue; a lease granted in the same moment goes back.

        Args:
            ticket: Its id becomes the lease's, unless its owner waits already.
            tell: Told where it stands, again and again.
            is_left: Whether everybody who watched has gone.

        Raises:
            NotReady: See `Pool.check`.
            NoCapacity: It can never be granted, or the wait is over without it.
        """
        now = datetime.now(UTC)
        if not self._limit_s:
            return self._pool.acquire(ticket.id, ticket.owner, ticket.request, now)
        ticket = self._pool.join(ticket)
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[ticket.id] = waiter
        self._note_change()
        try:
            self.serve()
            while not waiter.done():
                self._check(ticket, is_left)
                place = self.places.get(ticket.id)
                if place:
                    tell(place)
                await asyncio.wait({waiter}, timeout=LOOK_EVERY_S)
            return waiter.result()
        except BaseException:
            del self._waiters[ticket.id]
            self._pool.queue.leave(ticket.id)
            self._give_back(ticket.id)
            self.serve()  # it may have stood before others
            self._note_change()
            raise
        finally:
            self._waiters.pop(ticket.id, None)

    def forget(self, owner: Owner) -> None:
        """Give up a place that was kept over a restart: its owner starts without it."""
        kept = [t.id for t in self._pool.queue.tickets if t.owner == owner]
        for ticket_id in kept:
            self._pool.queue.leave(ticket_id)
        if kept:
            self.serve()
            self._note_change()

    def serve(self) -> None:
        """Grant what can be granted now. Call it whenever something came free."""
        now = datetime.now(UTC)
        gone = [
            ticket.id
            for ticket in self._pool.queue.expired(now, self._limit_s)
            if ticket.id not in self._waiters
        ]
        for ticket_id in gone:
            self._pool.queue.leave(ticket_id)
        granted = self._pool.grant(now)
        for lease in granted:
            waiter = self._waiters.get(lease.id)
            if waiter and not waiter.done():
                waiter.set_result(lease)
            else:
                self._give_back(lease.id)
        if granted or gone:
            self._note_change()

    @property
    def places(self) -> Mapping[str, Place]:
        """Ticket id -> where it stands, at most LOOK_EVERY_S old."""
        if time.monotonic() - self._places_at > LOOK_EVERY_S / 2:
            self._places = self._pool.places(datetime.now(UTC))
            self._places_at = time.monotonic()
        return self._places

    def _give_back(self, lease_id: str) -> None:
        """End a lease that no container had yet: its slots are as clean as before."""
        lease = self._pool.leases.get(lease_id)
        if lease:
            self._pool.release(lease_id, datetime.now(UTC))
            self._pool.cleaned(slot.id for slot in lease.slots)

    def _check(self, ticket: Ticket, is_left: Callable[[], bool]) -> None:
        if is_left():
            raise NoCapacity(
                "You left the queue because the page was closed. Start again to wait."
            )
        waited_s = (datetime.now(UTC) - ticket.asked_at).total_seconds()
        if waited_s > self._limit_s:
            raise NoCapacity(
                f"Nothing came free within {_span(self._limit_s)}, so you left the "
                "queue. Start again to wait longer, or choose a smaller server or CPU "
                "only, your files are the same."
            )

    def _note_change(self) -> None:
        self._places_at = 0.0
        self._changed()


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes > 1 else f"{seconds:.0f} seconds"
