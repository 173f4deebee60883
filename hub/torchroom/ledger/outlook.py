"""All leases whose meter runs, at one moment: which are due, how long tokens last.

Plain numbers, for ten thousand leases at a time. What is decided to be due here is
decided again on locked rows before anything moves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torchroom.ledger import forecast
from torchroom.ledger.drawing import Share
from torchroom.ledger.policy import Policy
from torchroom.ledger.slices import Tab


@dataclass(frozen=True, slots=True)
class Running:
    """A lease that burns tokens.

    Attributes:
        id: Which.
        share: Its course, "" for none, and its user.
        tab: What is paid and held.
        used_s: Seconds since it was ready at which it certainly ran.
        until: When these were over.
        warned_s: The last warning, see `forecast.warned`.
    """

    id: str
    share: Share
    tab: Tab
    used_s: int
    until: datetime
    warned_s: int = 0


@dataclass(slots=True)
class Pots:
    """What can be drawn, in microtokens; nothing of it is expired or held.

    Attributes:
        own: User -> without an earmark.
        marked: Share -> the user's own for that course.
        course: Course -> its wallet.
        room: Share -> what the cap still allows; without an entry there is no cap.
    """

    own: Counter[str] = field(default_factory=Counter)
    marked: Counter[Share] = field(default_factory=Counter)
    course: Counter[str] = field(default_factory=Counter)
    room: dict[Share, int] = field(default_factory=dict)

    def of_course(self, share: Share) -> int:
        """Return what a user may draw from the course's wallet."""
        there = self.course[share.course]
        return min(there, self.room.get(share, there))


SOON = timedelta(days=30)
"""Beyond that nobody needs to know when tokens run out."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a lease's user must be told.

    Attributes:
        lease_id: Which.
        text: A sentence; a reason, as after a colon, if it must end.
        must_end: Its tokens are used up.
    """

    lease_id: str
    text: str
    must_end: bool = False


@dataclass(frozen=True, slots=True)
class Review:
    """What follows from an outlook.

    Attributes:
        notices: For users; the warnings among them only now.
        warned: Lease id -> the last warning, where it changed.
        next_at: When a lease may need something again; None if none runs.
        ends: Lease id -> when its tokens run out at this rate, if within SOON.
    """

    notices: tuple[Notice, ...]
    warned: Mapping[str, int]
    next_at: datetime | None
    ends: Mapping[str, datetime]


class Outlook:
    """What the leases and the pots say together."""

    def __init__(self, running: Iterable[Running], pots: Pots, policy: Policy) -> None:
        self.running = list(running)
        self._pots = pots
        self._policy = policy
        self._of_user: Counter[str] = Counter()
        self._of_share: Counter[Share] = Counter()
        self._of_course: Counter[str] = Counter()
        for lease in self.running:
            self._of_user[lease.share.user] += lease.tab.per_hour
            if lease.share.course:
                self._of_share[lease.share] += lease.tab.per_hour
                self._of_course[lease.share.course] += lease.tab.per_hour

    def due(self) -> list[Running]:
        """Return the leases for which settling moves something now."""
        hold_s = self._policy.hold_s
        return [
            lease
            for lease in self.running
            if lease.tab.is_due(lease.used_s, self._available(lease), hold_s)
        ]

    def review(self) -> "Review":
        """Return what to say now, and when to look again."""
        policy = self._policy
        notices, warned, ends, next_at = [], {}, {}, None
        for lease in self.running:
            left_s = self.seconds_left(lease)
            if left_s <= SOON.total_seconds():
                ends[lease.id] = lease.until + timedelta(seconds=left_s)
            if left_s <= policy.stop_lead_s:
                notices.append(Notice(lease.id, forecast.USED_UP, must_end=True))
                continue
            mark, is_now = forecast.warned(left_s, lease.warned_s, policy)
            if is_now:
                rate = self._of_user[lease.share.user]
                notices.append(Notice(lease.id, forecast.low_text(left_s, rate)))
            if mark != lease.warned_s:
                warned[lease.id] = mark
            ahead_s = forecast.next_look_s(left_s, self._covered_s(lease), policy)
            look_at = lease.until + timedelta(seconds=ahead_s)
            next_at = look_at if next_at is None else min(next_at, look_at)
        return Review(tuple(notices), warned, next_at, ends)

    def seconds_left(self, lease: Running) -> int:
        """Return how much longer this lease can be paid; see `forecast`."""
        share, pots = lease.share, self._pots
        shared = [(pots.own[share.user], self._of_user[share.user])]
        if share.course:
            rate = self._of_share[share]
            shared.append((pots.marked[share], rate))
            whole = pots.course[share.course]
            part = whole * rate // self._of_course[share.course]
            shared.append((min(part, pots.of_course(share)), rate))
        return forecast.seconds_left(self._covered_s(lease), shared)

    def _available(self, lease: Running) -> int:
        own = self._pots.own[lease.share.user]
        if not lease.share.course:
            return own
        return own + self._pots.marked[lease.share] + self._pots.of_course(lease.share)

    @staticmethod
    def _covered_s(lease: Running) -> int:
        return max(0, lease.tab.covered_s - lease.used_s)


def pots_of(
    wallets: Iterable[tuple[str, str, bool, int]], room: Mapping[Share, int]
) -> Pots:
    """Return pots of (name, earmark, whether it is a course's, microtokens)."""
    pots = Pots(room=dict(room))
    for name, course, is_course, amount in wallets:
        if is_course:
            pots.course[name] += amount
        elif course:
            pots.marked[Share(course, name)] += amount
        else:
            pots.own[name] += amount
    return pots
