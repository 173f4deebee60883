"""When a course may use its servers: weekly hours in a time zone. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
AROUND = timedelta(days=8)
"""How far before and after a moment hours are looked at: more than a week."""


@dataclass(frozen=True, slots=True)
class Window:
    """The same hours on some days of every week.

    In the night that clocks are changed they are as long as they can be meant.

    Attributes:
        days: 0 is Monday; the day on which the hours begin.
        start: Local time.
        end: Local time, on the next day if it is not after `start`.
        zone: Whose local time.
    """

    days: frozenset[int]
    start: time
    end: time
    zone: ZoneInfo


Span = tuple[datetime, datetime]


def closes_at(windows: Iterable[Window], at: datetime) -> datetime | None:
    """Return when the hours around a moment end, or when the last ones ended.

    Hours that touch are one. The answer is later than `at` if and only if the hours
    are open then.

    Args:
        windows: At least one.
        at: Aware.

    Returns:
        In UTC; None if they do not end, or none ended, within a week.
    """
    found = None
    for start, end in _merged(windows, at):
        if start > at:
            break
        found = end
    if found is None or found > at + AROUND - timedelta(days=1):
        return None
    return found


def _merged(windows: Iterable[Window], at: datetime) -> Iterator[Span]:
    spans = sorted(span for window in windows for span in _spans(window, at))
    current: Span | None = None
    for start, end in spans:
        if current and start <= current[1]:
            current = current[0], max(current[1], end)
        else:
            if current:
                yield current
            current = start, end
    if current:
        yield current


def _spans(window: Window, at: datetime) -> Iterator[Span]:
    first, last = ((at + sign * AROUND).astimezone(window.zone).date()
                   for sign in (-1, 1))  # fmt: skip
    day = first
    while day <= last:
        if day.weekday() in window.days:
            later = timedelta(days=window.end <= window.start)
            start, _ = _utc(day, window.start, window.zone)
            _, end = _utc(day + later, window.end, window.zone)
            yield start, end
        day += timedelta(days=1)


def _utc(day: date, at: time, zone: ZoneInfo) -> Span:
    """Return the first and the last moment that a local time can mean.

    They differ in the night that clocks are changed: it comes twice, or not at all.
    """
    local = datetime.combine(day, at, tzinfo=zone)
    first, last = sorted(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, last
