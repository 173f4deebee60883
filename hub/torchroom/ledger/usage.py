"""How much was used when, by whom and of what. Pure; see statements.py for the reading.

What a lease used between two moments is the difference of two cumulative figures, as
its charge is: so days add up to the lease, to the second and to the microtoken.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from torchroom.ledger.model import CPU, MeteredLease
from torchroom.ledger.pricing import charge

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
FEE = "fee"
"""The type under which fees are summed."""


class By(StrEnum):
    """What usage is summed by."""

    DAY = "day"  # of UTC, like 2026-03-31
    COURSE = "course"  # "" is none
    TYPE = "type"  # of the slots; see `type_of`
    USER = "user"


@dataclass(frozen=True, slots=True)
class Used:
    """What the leases under one key used.

    Attributes:
        key: A day, a course, a type or a user; see By.
        seconds: Of servers.
        slot_seconds: The same times the slots of each; a server of CPU only counts 1.
        microtokens: What they were charged.
    """

    key: str
    seconds: int = 0
    slot_seconds: int = 0
    microtokens: int = 0

    def __add__(self, other: "Used") -> "Used":
        """Return both under this key."""
        return Used(
            self.key,
            self.seconds + other.seconds,
            self.slot_seconds + other.slot_seconds,
            self.microtokens + other.microtokens,
        )


def type_of(slot_types: Iterable[str]) -> str:
    """Return one word for the slots of a lease: "NVIDIA T4", or "A + B" if they differ.

    A price cannot be told apart between slots of one lease, so types are not either.
    """
    return " + ".join(sorted(set(slot_types))) or CPU


def fee_of(by: By, user: str, course: str, amount: int, at: datetime) -> Used:
    """Return a fee as usage: tokens without seconds, on its day; below 0 given back."""
    key = {
        By.DAY: f"{at:%Y-%m-%d}",
        By.COURSE: course,
        By.TYPE: FEE,
        By.USER: user,
    }[by]
    return Used(key, microtokens=amount)


def used_by(lease: MeteredLease, moment: datetime) -> int:
    """Return the settled whole seconds of a lease until a moment."""
    if lease.ready_at is None:
        return 0
    return min(max((moment - lease.ready_at) // SECOND, 0), lease.settled_s)


def used_between(lease: MeteredLease, start: datetime, end: datetime, key: str) -> Used:
    """Return what a lease used from `start` on and before `end`.

    Adjoining spans add up exactly: charges are differences of cumulative charges.
    """
    before_s, after_s = used_by(lease, start), used_by(lease, end)
    seconds = max(after_s - before_s, 0)
    return Used(
        key,
        seconds,
        seconds * max(len(lease.slot_types), 1),
        charge(lease.per_hour, before_s + seconds) - charge(lease.per_hour, before_s),
    )


def pieces(
    lease: MeteredLease, by: By, start: datetime, end: datetime
) -> Iterator[Used]:
    """Yield what a lease used within a span of time, under the key of each piece."""
    match by:
        case By.DAY:
            yield from _days(lease, start, end)
        case By.COURSE:
            yield used_between(lease, start, end, lease.payer.course)
        case By.TYPE:
            yield used_between(lease, start, end, type_of(lease.slot_types))
        case By.USER:
            yield used_between(lease, start, end, lease.payer.user)


def _days(lease: MeteredLease, start: datetime, end: datetime) -> Iterator[Used]:
    """Yield the days (UTC) of a lease; only those on which it ran."""
    if lease.ready_at is None or lease.settled_s == 0:
        return
    moment = max(start, lease.ready_at)
    end = min(end, lease.ready_at + lease.settled_s * SECOND)
    while moment < end:
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        following = min(midnight + DAY, end)
        yield used_between(lease, moment, following, f"{moment:%Y-%m-%d}")
        moment = following


class Sums:
    """Adds up pieces by key; its memory is one figure per key, however many leases."""

    def __init__(self) -> None:
        self._sums: dict[str, Used] = {}

    def add(self, piece: Used) -> None:
        """Count a piece; one of nothing leaves no row."""
        if piece.seconds or piece.microtokens:
            self._sums[piece.key] = self._sums.get(piece.key, Used(piece.key)) + piece

    def rows(self) -> tuple[Used, ...]:
        """Return one row per key, sorted by key."""
        return tuple(self._sums[key] for key in sorted(self._sums))
