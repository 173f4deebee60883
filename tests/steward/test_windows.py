"""Hours of courses: touching ones, nights, and days when clocks are changed."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from torchroom.steward.windows import Window, closes_at

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def window(start: int, end: int, *days: int, zone: ZoneInfo = BERLIN) -> Window:
    return Window(frozenset(days or range(7)), time(start), time(end), zone)


def half_past(start: int, end: int) -> Window:
    return Window(frozenset(range(7)), time(start, 30), time(end, 30), BERLIN)


def test_hours_end_in_local_time() -> None:
    found = closes_at([window(14, 16, 0)], MONDAY.replace(hour=13))
    assert found == MONDAY.replace(hour=14)  # 16:00 in Berlin's summer


def test_hours_that_touch_are_one() -> None:
    hours = [window(8, 10), window(10, 12), window(9, 11)]
    assert closes_at(hours, MONDAY.replace(hour=7)) == MONDAY.replace(hour=10)


def test_between_hours_the_last_ones_are_over() -> None:
    found = closes_at([window(14, 16, 0)], MONDAY + timedelta(days=3))
    assert found == MONDAY.replace(hour=14)


def test_a_night_belongs_to_the_day_it_begins() -> None:
    hours = [window(22, 2, 0)]
    assert closes_at(hours, MONDAY.replace(hour=23)) == MONDAY.replace(day=2, hour=0)
    late = MONDAY.replace(day=1, hour=1)
    assert closes_at(hours, late) == MONDAY - timedelta(days=7) + timedelta(days=1)


def test_hours_without_end_do_not_end() -> None:
    assert closes_at([window(0, 0)], MONDAY) is None


def test_the_night_clocks_are_put_forward() -> None:
    """2026-03-29 has no 02:00 to 03:00 in Berlin."""
    at = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert closes_at([window(1, 4)], at) == datetime(2026, 3, 29, 2, tzinfo=UTC)
    assert closes_at([half_past(1, 2)], at) == at + timedelta(hours=1)  # at 03:30


def test_the_night_clocks_are_put_back() -> None:
    """2026-10-25 has 02:00 to 03:00 twice in Berlin: hours last until the second."""
    at = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)  # 01:30
    assert closes_at([half_past(1, 2)], at) == at + timedelta(hours=2)
    assert closes_at([half_past(0, 2), half_past(2, 3)], at) == at + timedelta(hours=3)


@given(
    st.lists(
        st.builds(
            Window,
            st.frozensets(st.integers(0, 6), min_size=1),
            st.times(),
            st.times(),
            st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001 - below
)
def test_it_is_open_exactly_if_the_end_is_ahead(
    hours: list[Window], naive: datetime
) -> None:
    at = naive.replace(tzinfo=UTC)

    def both(local: datetime) -> list[datetime]:
        return [local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]

    def is_open(one: Window) -> bool:
        local = at.astimezone(one.zone)
        for back in (0, 1):
            day = local.date() - timedelta(days=back)
            later = timedelta(days=one.end <= one.start)
            start = datetime.combine(day, one.start, tzinfo=one.zone)
            end = datetime.combine(day + later, one.end, tzinfo=one.zone)
            starts = min(both(start))
            if day.weekday() in one.days and starts <= at < max(both(end)):
                return True
        return False

    found = closes_at(hours, at)
    if found is None:
        assert any(map(is_open, hours))
    else:
        assert any(map(is_open, hours)) == (found > at)
