"""UTC that does not step: one moment by two clocks, and what follows from it.

The machine's wall clock may be set, also backwards. Seconds since the machine came up
only count. Who knows what both said at one moment can tell UTC from the second alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

SAME = timedelta(milliseconds=100)  # two readings of one clock may be so far apart


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine's clocks say now.

    Attributes:
        boot_id: Another one after each start of the machine; "" if unknown.
        since_boot: Since the machine came up, the time it slept included.
        wall: The clock that can be set; aware UTC.
    """

    boot_id: str
    since_boot: timedelta
    wall: datetime


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment by both clocks.

    Attributes:
        boot_id: See Reading; the anchor holds until the machine starts again.
        since_boot: See Reading.
        at: UTC, as the wall clock said then.
    """

    boot_id: str
    since_boot: timedelta
    at: datetime

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """Return the moment of a reading."""
        return cls(reading.boot_id, reading.since_boot, reading.wall)

    @property
    def booted_at(self) -> datetime:
        """When the machine came up."""
        return self.at - self.since_boot

    def holds(self, reading: Reading) -> bool:
        """Return whether this reading's seconds are counted from the same start."""
        return (
            self.boot_id != ""
            and self.boot_id == reading.boot_id
            and self.since_boot <= reading.since_boot
        )

    def now(self, reading: Reading) -> datetime:
        """Return UTC at a reading for which this holds; its wall clock is not used."""
        return self.at + (reading.since_boot - self.since_boot)

    def is_off(self, reading: Reading) -> bool:
        """Return whether the wall clock was set since."""
        return abs(self.now(reading) - reading.wall) > SAME

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "boot_id": self.boot_id,
            "since_boot_us": self.since_boot // timedelta(microseconds=1),
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` described.

        Raises:
            ValueError: The value is not from there.
        """
        try:
            since_boot = timedelta(microseconds=int(data["since_boot_us"]))
            at = datetime.fromisoformat(data["at"]).astimezone(UTC)
            return cls(str(data["boot_id"]), since_boot, at)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"this is no anchor: {error!r}") from error


def of_wall(
    said: datetime, anchor: Anchor, reading: Reading, *, least: datetime | None = None
) -> datetime:
    """Return when something was that the wall clock dates, in UTC that does not step.

    Exact if the wall clock was not set between that moment and the reading. If it was,
    the limits hold: not before `least`, never after the reading.

    Args:
        said: What the wall clock said then.
        anchor: Holds for the reading.
        reading: Of now.
        least: A moment at which it had certainly not been yet.
    """
    now = anchor.now(reading)
    at = min(said + (now - reading.wall), now)
    return at if least is None else max(at, min(least, now))


def end_of(
    started: datetime | None,
    finished: datetime,
    anchor: Anchor,
    reading: Reading,
    *,
    seen_running_at: datetime | None = None,
) -> datetime | None:
    """Return when a container ended, None if nobody knows.

    An engine that comes up after the machine went down dates the end of the containers
    that were running at its own start: that says nothing about their end.

    Args:
        started: By the wall clock, None if unknown.
        finished: By the wall clock.
        anchor: Holds for the reading.
        reading: Of now.
        seen_running_at: When it was last seen running; does not step.
    """
    booted_at = anchor.booted_at
    if started is not None and started < booted_at <= finished:
        return None
    return of_wall(finished, anchor, reading, least=seen_running_at)
