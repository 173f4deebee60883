"""What time costs (I4): exact, however a lease is cut into slices."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger.errors import BadInput, UnknownPrice
from torchroom.ledger.model import AMOUNT_MAX, ANY, CPU, MICRO
from torchroom.ledger.pricing import (
    HOUR_S,
    PRICE_MAX,
    charge,
    check_price,
    per_hour_of,
    seconds_for,
)

prices = st.integers(0, PRICE_MAX)
seconds = st.integers(0, 366 * 24 * HOUR_S)


@given(prices, st.lists(seconds, min_size=1).map(sorted))
def test_a_lease_costs_the_same_however_it_is_cut(
    per_hour: int, cuts: list[int]
) -> None:
    """One run over [a, c] equals runs over [a, b] and [b, c]; so for many cuts."""
    ends = [0, *cuts]
    slices = [
        charge(per_hour, end) - charge(per_hour, start) for start, end in pairwise(ends)
    ]
    assert sum(slices) == charge(per_hour, cuts[-1])
    assert all(cost >= 0 for cost in slices)


@given(prices, seconds)
def test_a_charge_is_the_price_times_the_time(per_hour: int, used_s: int) -> None:
    """Never more than the exact product, and never a whole microtoken less."""
    exact = per_hour * used_s
    assert charge(per_hour, used_s) * HOUR_S <= exact
    assert exact < (charge(per_hour, used_s) + 1) * HOUR_S


def test_an_hour_costs_its_price() -> None:
    """The unit of prices is microtokens per hour."""
    assert charge(12_500_000, HOUR_S) == 12_500_000
    assert charge(12_500_000, 1) == 3472


@given(prices.filter(bool), st.integers(0, AMOUNT_MAX))
def test_an_amount_lasts_to_the_last_second(per_hour: int, amount: int) -> None:
    """`seconds_for` is affordable, and one second more is not."""
    last = seconds_for(per_hour, amount)
    assert charge(per_hour, last) <= amount < charge(per_hour, last + 1)


def test_time_that_runs_backwards_has_no_price() -> None:
    """A negative argument is a mistake in the code, never a credit."""
    for arguments in [(-1, 1), (1, -1)]:
        with pytest.raises(ValueError, match="not a charge"):
            charge(*arguments)
    for arguments in [(0, 1), (-5, 1), (1, -1)]:
        with pytest.raises(ValueError, match="do not end"):
            seconds_for(*arguments)


def test_slots_are_priced_together() -> None:
    """Each slot by its own type, several of a type each."""
    list_ = {"A100": 7, "A100 1/2": 3, CPU: 0}
    assert per_hour_of(("A100",), list_) == 7
    assert per_hour_of(("A100", "A100", "A100 1/2"), list_) == 17
    assert per_hour_of((CPU,), list_) == 0


def test_an_unknown_gpu_is_refused_and_never_free() -> None:
    """Without a default; a price list can name one for all other GPUs."""
    with pytest.raises(UnknownPrice, match="'H200' has no price on this hub"):
        per_hour_of(("A100", "H200"), {"A100": 7})
    assert per_hour_of(("A100", "H200"), {"A100": 7, ANY: 100}) == 107


def test_a_price_that_was_withdrawn_does_not_fall_back_to_the_default() -> None:
    """Such slots are refused: that is what withdrawing a price is for."""
    with pytest.raises(UnknownPrice):
        per_hour_of(("A100",), {"A100": None, ANY: 100})


def test_a_cpu_server_does_not_cost_what_any_gpu_costs() -> None:
    """The default is for slots only."""
    with pytest.raises(UnknownPrice, match="A CPU server has no price"):
        per_hour_of((CPU,), {ANY: 100})


def test_a_lease_without_slot_types_is_a_mistake() -> None:
    """Else it would cost nothing."""
    with pytest.raises(ValueError, match="priced as"):
        per_hour_of((), {})


def test_prices_have_a_most() -> None:
    """A price beyond it could make a charge that no posting can move."""
    assert check_price(PRICE_MAX) == PRICE_MAX
    for wrong in (-1, PRICE_MAX + 1, True, 10**30):
        with pytest.raises(BadInput):
            check_price(wrong)
    with pytest.raises(BadInput, match="100,000 tokens"):
        per_hour_of(("A100", "A100"), {"A100": PRICE_MAX})
    assert MICRO * 100_000 == PRICE_MAX
