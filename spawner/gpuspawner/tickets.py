"""The nouns of the queue. Values only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gpuspawner.durations import Durations
from gpuspawner.model import Owner, SlotRequest

MAX_OVERTAKEN = 16  # two rounds of a machine with 8 devices

Fits = Callable[[SlotRequest, frozenset[str]], frozenset[str] | None]
"""The slots that would be granted out of the free ones; None if they do not suffice.

What fits must also fit when more is free.
"""

Reach = Callable[[SlotRequest], frozenset[str]]
"""Every slot that may serve the request once it is free; not those that are broken."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A server's place in the queue.

    Attributes:
        id: Identity.
        owner: Whose server; each has at most one ticket.
        request: What it waits for, at least one slot.
        asked_at: Aware UTC.
        course: The course it is for, "" if none.
    """

    id: str
    owner: Owner
    request: SlotRequest
    asked_at: datetime
    course: str = ""


@dataclass(frozen=True, slots=True)
class Priority:
    """A course goes before others from `starts_at` until just before `ends_at`."""

    course: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Running:
    """Slots that are not free.

    Attributes:
        owner: Whose they are.
        slots: Ids.
        ends_at: When they are expected to be free; None if nobody can say, as for a
            container that is not ours.
    """

    owner: Owner
    slots: frozenset[str]
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket stands.

    Attributes:
        n_ahead: Tickets ahead that compete with it.
        wait_s: Seconds until it starts, by estimate; None if nobody can say.
        is_possible: The machine as it is now could serve it, were all slots free.
    """

    n_ahead: int
    wait_s: float | None
    is_possible: bool = True

    @property
    def position(self) -> int:
        """1 is the next."""
        return self.n_ahead + 1


@dataclass(frozen=True, slots=True)
class Wait:
    """A ticket in the queue.

    Attributes:
        ticket: See Ticket.
        n_overtaken: How often a later one got slots that this one could have had.
        absent_until: When it must leave, if its owner has not come back after a restart
            of the hub; None for a present owner.
    """

    ticket: Ticket
    n_overtaken: int = 0
    absent_until: datetime | None = None

    @property
    def is_present(self) -> bool:
        """Whether somebody waits for it."""
        return self.absent_until is None

    @property
    def is_aged(self) -> bool:
        """Whether it must not be overtaken again."""
        return self.n_overtaken >= MAX_OVERTAKEN

    @property
    def must_be_next(self) -> bool:
        """Whether nobody behind may have what it could have, not even by backfill.

        Estimates may err without end, so the bound cannot rest on them. While nobody is
        there to be overtaken, the estimate suffices.
        """
        return self.is_aged and self.is_present

    def is_gone(self, now: datetime) -> bool:
        """Whether its owner did not come back in time."""
        return self.absent_until is not None and now >= self.absent_until


@dataclass(frozen=True, slots=True)
class Moment:
    """What the queue decides upon.

    Attributes:
        now: Aware UTC.
        free: Ids of slots that can be leased now.
        running: What holds the others.
        fits: See Fits.
        reach: See Reach.
        durations: How long leases last.
        priorities: Courses that go first, each in its window.
    """

    now: datetime
    free: frozenset[str]
    running: Sequence[Running]
    fits: Fits
    reach: Reach
    durations: Durations = field(default_factory=Durations)
    priorities: Sequence[Priority] = ()


def age(wait: Wait) -> tuple[datetime, str]:
    """Order by who asked first."""
    return wait.ticket.asked_at, wait.ticket.id
