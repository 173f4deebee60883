"""Weeks and months of a course begin when its own clocks say so, all year round."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger.periods import Every, period_of

BERLIN = ZoneInfo("Europe/Berlin")
HAVANA = ZoneInfo("America/Havana")
ZONES = sorted(available_timezones())
SECOND = timedelta(seconds=1)

zones = st.sampled_from(ZONES).map(ZoneInfo)
every = st.sampled_from(Every)
moments = st.integers(86_400, 7_258_118_400).map(  # 1970 to 2200
    lambda second: datetime.fromtimestamp(second, UTC)
)


def test_a_week_begins_on_monday_at_midnight_of_the_course() -> None:
    """22 November 2026 is a Sunday; in Berlin its week ends an hour before UTC's."""
    week = period_of(Every.WEEKLY, BERLIN, datetime(2026, 11, 22, 9, tzinfo=UTC))

    assert week.key == "2026-W47"
    assert week.starts_at == datetime(2026, 11, 15, 23, tzinfo=UTC)
    assert week.ends_at == datetime(2026, 11, 22, 23, tzinfo=UTC)


def test_a_month_begins_on_the_first_at_midnight_of_the_course() -> None:
    """In Berlin, December begins at 23:00 UTC on 30 November."""
    last = datetime(2026, 11, 30, 22, 59, 59, tzinfo=UTC)
    december = period_of(Every.MONTHLY, BERLIN, last + SECOND)

    assert period_of(Every.MONTHLY, BERLIN, last).key == "2026-11"
    assert december.key == "2026-12"
    assert december.ends_at == datetime(2026, 12, 31, 23, tzinfo=UTC)


def test_the_first_days_of_january_may_be_a_week_of_the_year_before() -> None:
    """ISO 8601: 1 January 2027 is a Friday, so it is in week 53 of 2026."""
    at = datetime(2027, 1, 1, 12, tzinfo=UTC)
    assert period_of(Every.WEEKLY, UTC, at).key == "2026-W53"


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-25", 7 * 24 - 1), ("2026-10-21", 7 * 24 + 1)]
)
def test_a_week_in_which_clocks_change_is_an_hour_shorter_or_longer(
    day: str, hours: int
) -> None:
    """It still begins and ends at a local midnight."""
    week = period_of(Every.WEEKLY, BERLIN, datetime.fromisoformat(f"{day}T12:00+00:00"))

    assert week.ends_at - week.starts_at == timedelta(hours=hours)
    assert week.ends_at.astimezone(BERLIN).hour == 0


def test_where_clocks_jump_over_midnight_the_period_begins_at_the_jump() -> None:
    """Havana went from 00:00 to 01:00 on 1 April 2001."""
    month = period_of(Every.MONTHLY, HAVANA, datetime(2001, 4, 15, tzinfo=UTC))

    assert month.starts_at == datetime(2001, 4, 1, 5, tzinfo=UTC)
    assert month.starts_at.astimezone(HAVANA).hour == 1


def test_where_midnight_comes_twice_the_period_begins_with_the_first() -> None:
    """Havana sets its clocks back from 01:00 to 00:00 on 1 November 2026."""
    month = period_of(Every.MONTHLY, HAVANA, datetime(2026, 11, 15, tzinfo=UTC))

    assert month.starts_at == datetime(2026, 11, 1, 4, tzinfo=UTC)
    again = datetime(2026, 11, 1, 5, tzinfo=UTC)
    assert again.astimezone(HAVANA).hour == 0
    assert period_of(Every.MONTHLY, HAVANA, again).key == "2026-11"


def test_clocks_set_back_into_the_day_before_do_not_bring_the_old_month_back() -> None:
    """St John's went from 00:01 on 1 November 2009 back to 23:01 on 31 October."""
    st_johns = ZoneInfo("America/St_Johns")
    first = datetime(2009, 11, 1, 2, 30, tzinfo=UTC)
    later = first + timedelta(minutes=30)

    assert later.astimezone(st_johns).month == 10
    assert period_of(Every.MONTHLY, st_johns, first).key == "2009-11"
    assert period_of(Every.MONTHLY, st_johns, later).key == "2009-11"


@given(every=every, zone=zones, at=moments)
def test_every_moment_is_in_its_period(
    every: Every, zone: ZoneInfo, at: datetime
) -> None:
    """Its start is not after it, its end is after it."""
    period = period_of(every, zone, at)
    assert period.starts_at <= at < period.ends_at


@given(every=every, zone=zones, at=moments)
def test_periods_follow_each_other_without_gap_or_overlap(
    every: Every, zone: ZoneInfo, at: datetime
) -> None:
    """The end of one is the start of the next, which has another, later name."""
    this = period_of(every, zone, at)
    following = period_of(every, zone, this.ends_at)

    assert following.starts_at == this.ends_at
    assert following.key > this.key
    assert period_of(every, zone, this.ends_at - SECOND) == this
    assert period_of(every, zone, this.starts_at) == this


@given(every=every, zone=zones, at=moments, other=zones)
def test_the_zone_in_which_a_moment_is_written_does_not_matter(
    every: Every, zone: ZoneInfo, at: datetime, other: ZoneInfo
) -> None:
    """Only the course's zone does."""
    assert period_of(every, zone, at.astimezone(other)) == period_of(every, zone, at)
