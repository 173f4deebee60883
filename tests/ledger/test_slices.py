"""When a lease is settled and how much is held next (I4), in any rhythm."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger.pricing import PRICE_MAX, charge
from torchroom.ledger.slices import Tab, seconds_between

HOLD_S = 600
RATE = 3600  # a microtoken per second
START = datetime(2026, 3, 2, 9, tzinfo=UTC)

rates = st.one_of(st.integers(1, 5000), st.integers(1, PRICE_MAX))


def step(tab: Tab, used_s: int, purse: int) -> tuple[Tab, int]:
    """Settle once, as `leases` does; return the lease and what is left to draw."""
    if not tab.is_due(used_s, purse, HOLD_S):
        return tab, purse
    to = tab.settle_to(used_s)
    purse += tab.held - tab.cost_until(to)
    after = Tab(tab.per_hour, to, 0)
    held = after.next_hold(used_s, purse, HOLD_S)
    return Tab(tab.per_hour, to, held), purse - held


@given(rates, st.lists(st.integers(0, 5000), min_size=1), st.integers(0, 10**12))
def test_settling_in_any_rhythm_conserves_and_never_overdraws(
    per_hour: int, pauses: list[int], purse: int
) -> None:
    """Settled is a charge of whole seconds that were used; nothing goes below zero."""
    whole = purse
    tab, used_s = Tab(per_hour, 0, 0), 0
    for pause in pauses:
        used_s += pause
        for _ in range(4):
            tab, purse = step(tab, used_s, purse)
            assert tab.settled_s <= used_s
            assert purse >= 0
            assert tab.held >= 0
            assert charge(per_hour, tab.settled_s) + tab.held + purse == whole
        assert not tab.is_due(used_s, purse, HOLD_S)


@given(rates, st.integers(0, 10**6))
def test_with_enough_tokens_all_is_covered_after_settling(
    per_hour: int, used_s: int
) -> None:
    """The next half hold is reserved, so that the next round comes in time."""
    tab, purse = Tab(per_hour, 0, 0), 10**15
    for _ in range(4):
        tab, purse = step(tab, used_s, purse)
    assert tab.covered_s - used_s >= HOLD_S // 2
    assert used_s - tab.settled_s < HOLD_S or not tab.cost_until(used_s)


@given(rates, st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**9))
def test_a_clock_that_went_back_changes_nothing(
    per_hour: int, settled_s: int, back_s: int, held: int
) -> None:
    """An old message is not a reason to do anything."""
    tab = Tab(per_hour, settled_s, held)
    assert not tab.is_due(settled_s - back_s, 10**15, HOLD_S)


def test_a_free_lease_is_never_due() -> None:
    """Its meter runs, and moves nothing."""
    assert not Tab(0, 0, 0).is_due(10**6, 10**12, HOLD_S)


def test_a_lease_is_settled_when_half_its_hold_is_used() -> None:
    """Not at every round, so a minute's rounds are cheap."""
    tab = Tab(RATE, 0, 600)
    assert not tab.is_due(300, 10**6, HOLD_S)
    assert tab.is_due(301, 10**6, HOLD_S)
    assert step(tab, 301, 10**6)[0] == Tab(RATE, 301, 600)


def test_without_tokens_a_lease_waits_until_its_hold_is_used() -> None:
    """Settling early would gain nothing; the last second is then settled whole."""
    tab = Tab(RATE, 0, 600)
    assert not tab.is_due(599, 0, HOLD_S)
    assert step(tab, 700, 0) == (Tab(RATE, 600, 0), 0)
    assert not Tab(RATE, 600, 0).is_due(800, 0, HOLD_S)


def test_a_lease_that_nobody_looked_at_for_hours_is_settled_whole() -> None:
    """After the hub was down: first what was held, then the time since."""
    tab, purse = Tab(RATE, 0, 600), 10**6
    for _ in range(2):
        tab, purse = step(tab, 18_000, purse)
    assert tab == Tab(RATE, 18_000, 600)


def test_the_last_tokens_are_held_to_the_second() -> None:
    """What does not pay for a whole second stays where it is."""
    tab, left = step(Tab(RATE * 10, 60, 600), 119, 55)
    assert tab == Tab(RATE * 10, 119, 60)
    assert left == 5


def test_seconds_are_whole_and_begin_at_ready() -> None:
    """A second counts when it is over; time before ready does not count."""
    almost = timedelta(seconds=5) - timedelta(microseconds=1)
    assert seconds_between(START, START + almost) == 4
    assert seconds_between(START, START + timedelta(seconds=5)) == 5
    assert seconds_between(START, START - timedelta(hours=1)) == 0
