"""A pace is kept exactly, and what it costs is bounded."""

from datetime import UTC, datetime

import pytest
from gpuspawner.errors import TooOften
from gpuspawner.pacing import NO_LIMIT, Limiter, Pace, Starts
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 2, 14, 0, 30, tzinfo=UTC)


def test_after_so_many_one_waits_until_the_first_is_old_enough() -> None:
    """The window slides: not all are forgotten at once."""
    limiter = Limiter(Pace(2, 60))
    for now in (0.0, 10.0):
        assert limiter.wait_s("ann", now) == 0.0
        limiter.note("ann", now)
    assert limiter.wait_s("ann", 20.0) == 40.0
    assert limiter.wait_s("bob", 20.0) == 0.0
    assert limiter.wait_s("ann", 60.0) == 0.0
    limiter.note("ann", 60.0)
    assert limiter.wait_s("ann", 61.0) == 9.0


def test_without_a_pace_nothing_is_refused_or_remembered() -> None:
    """0 is no limit."""
    limiter = Limiter(Pace(0, 60))
    for now in range(1000):
        limiter.note("ann", now)
    assert limiter.wait_s("ann", 1000.0) == 0.0
    assert not len(limiter)


def test_what_is_taken_back_did_not_happen() -> None:
    """Once; what is forgotten is no error."""
    limiter = Limiter(Pace(1, 60))
    limiter.note("ann", 1.0)
    limiter.take_back("ann", 1.0)
    limiter.take_back("ann", 1.0)
    limiter.take_back("bob", 1.0)
    assert limiter.wait_s("ann", 2.0) == 0.0
    assert not len(limiter)


def test_memory_is_bounded_and_the_quiet_are_forgotten_first() -> None:
    """However many names somebody makes up."""
    limiter = Limiter(Pace(3, 1e9), n_max=100)
    for n in range(10_000):
        limiter.note(f"made up {n}", n)
        limiter.note("busy", n)
        assert len(limiter) <= 100
    assert limiter.wait_s("busy", 10_000.0) > 0
    assert limiter.wait_s("made up 0", 10_000.0) == 0.0


def test_what_is_old_is_not_kept() -> None:
    """Names that never come again cost nothing after their window."""
    limiter = Limiter(Pace(3, 60))
    for n in range(100):
        limiter.note(f"user {n}", 0.0)
    limiter.wait_s("somebody", 61.0)
    assert not len(limiter)


EVENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(0, 40), st.booleans()), max_size=60
)


@given(EVENTS, st.integers(1, 4), st.floats(0.5, 60))
def test_never_more_than_so_many_in_any_window(
    events: list[tuple[str, float, bool]], most: int, within_s: float
) -> None:
    """Against a list of all that was let in; the promised wait is exact."""
    limiter, now = Limiter(Pace(most, within_s)), 0.0
    let_in: dict[str, list[float]] = {"a": [], "b": []}
    for key, gap, takes_back in events:
        now += gap
        mine = let_in[key]
        n_recent = sum(at + within_s > now for at in mine)
        wait_s = limiter.wait_s(key, now)
        assert (wait_s == 0.0) == (n_recent < most)
        if wait_s:
            oldest = sorted(mine)[-most]
            assert wait_s == oldest + within_s - now
            continue
        limiter.note(key, now)
        if takes_back:
            limiter.take_back(key, now)
        else:
            mine.append(now)


def test_a_user_who_starts_too_often_is_told_when() -> None:
    """Rounded up, so that nobody is sent away twice."""
    starts = Starts(Pace(2, 600), NO_LIMIT)
    starts.begin("ann", 0.0, NOW)
    starts.begin("ann", 30.0, NOW)
    with pytest.raises(TooOften) as told:
        starts.begin("ann", 60.0, NOW)
    assert str(told.value) == (
        "You started servers 2 times within 10 minutes. The next start is possible at "
        "14:10 UTC (in 9 minutes); your files are safe."
    )
    starts.begin("ann", 600.0, NOW)


def test_a_server_that_answered_is_not_held_against_its_user() -> None:
    """Only those that did not."""
    starts = Starts(NO_LIMIT, Pace(1, 1800))
    starts.boots("ann", 1.0)
    with pytest.raises(TooOften, match=r"1 of your servers .* within 30 minutes"):
        starts.check_gpu("ann", 2.0, NOW)
    starts.answered("ann", 1.0)
    starts.check_gpu("ann", 3.0, NOW)
