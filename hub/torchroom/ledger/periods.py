"""Weeks and months as a course counts them: in its own time zone.

A week begins on Monday at 00:00, a month on the 1st at 00:00, local time. Where clocks
jump over that midnight, it begins at the jump; where midnight comes twice, with the
first. So every moment lies in exactly one period, and periods only ever advance.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import assert_never

WEEK_DAYS = 7
DECEMBER = 12


class Every(StrEnum):
    """How long a period lasts."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Period:
    """One week or month: the moments from `starts_at` up to, not including, `ends_at`.

    Attributes:
        key: Its name, like 2026-W47 (ISO 8601) or 2026-11.
    """

    key: str
    starts_at: datetime
    ends_at: datetime


def period_of(every: Every, zone: tzinfo, at: datetime) -> Period:
    """Return the period in which a moment lies.

    Args:
        every: How long periods last.
        zone: Where its midnights are.
        at: Aware, in any time zone.
    """
    first = _first_day(every, at.astimezone(zone).date())
    # Clocks set back over midnight read the day before once more. The period goes on.
    if at >= _midnight(_next_first_day(every, first), zone):
        first = _next_first_day(every, first)
    return Period(
        key=_key(every, first),
        starts_at=_midnight(first, zone),
        ends_at=_midnight(_next_first_day(every, first), zone),
    )


def _midnight(day: date, zone: tzinfo) -> datetime:
    # fold=0: the first of two midnights; the jump itself where there is none (PEP 495).
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _first_day(every: Every, day: date) -> date:
    match every:
        case Every.WEEKLY:
            return day - timedelta(days=day.weekday())
        case Every.MONTHLY:
            return day.replace(day=1)
        case _:
            assert_never(every)


def _next_first_day(every: Every, first: date) -> date:
    match every:
        case Every.WEEKLY:
            return first + timedelta(days=WEEK_DAYS)
        case Every.MONTHLY if first.month == DECEMBER:
            return date(first.year + 1, 1, 1)
        case Every.MONTHLY:
            return date(first.year, first.month + 1, 1)
        case _:
            assert_never(every)


def _key(every: Every, first: date) -> str:
    match every:
        case Every.WEEKLY:
            year, week, _ = first.isocalendar()
            return f"{year}-W{week:02d}"
        case Every.MONTHLY:
            return f"{first.year}-{first.month:02d}"
        case _:
            assert_never(every)
