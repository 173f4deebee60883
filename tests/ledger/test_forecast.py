"""How long tokens last, when a user hears of it, and in which words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger import forecast
from torchroom.ledger.errors import BadInput
from torchroom.ledger.policy import Policy

POLICY = Policy(warn_s=(1800, 600, 120))


def heard(lefts: list[int]) -> list[int]:
    """Return at which of these a user is warned."""
    warned_s, warnings = 0, []
    for left_s in lefts:
        warned_s, is_now = forecast.warned(left_s, warned_s, POLICY)
        if is_now:
            warnings.append(left_s)
    return warnings


def test_each_warning_comes_once() -> None:
    """However often it is asked."""
    lefts = [4000, 1801, 1800, 1799, 900, 601, 599, 599, 121, 120, 60, 31, 0]
    assert heard(lefts) == [1800, 599, 120]


def test_a_server_that_starts_with_little_is_warned_once() -> None:
    """Not once for every threshold that it is below already."""
    assert heard([500, 499, 400]) == [500]


def test_shares_that_sway_do_not_repeat_a_warning() -> None:
    """Two servers of a user hold in turn; only a clear rise counts."""
    assert heard([1790, 2050, 1790, 2390, 1700]) == [1790]
    assert heard([1790, 2500, 1790]) == [1790, 1790]


def test_new_tokens_make_a_warning_possible_again() -> None:
    """But not one that is still far away."""
    assert heard([100, 1300, 590, 110]) == [100, 590, 110]


@given(st.lists(st.integers(0, 5000)))
def test_warnings_that_go_down_never_repeat(lefts: list[int]) -> None:
    """Going down, a user hears at most one per threshold."""
    warnings = heard(sorted(lefts, reverse=True))
    assert len(warnings) <= len(POLICY.warn_s)


@given(st.integers(0, 10**6), st.integers(0, 10**4))
def test_the_next_look_is_never_now(left_s: int, covered_s: int) -> None:
    """At least a second ahead, and before all that is held is used."""
    ahead_s = forecast.next_look_s(left_s, covered_s, POLICY)
    assert 1 <= ahead_s <= max(1, covered_s)


def test_the_next_look_is_at_the_next_mark() -> None:
    """A warning, or the stop, must not wait for the next settlement."""
    assert forecast.next_look_s(10_000, 600, POLICY) == 301
    assert forecast.next_look_s(1900, 600, POLICY) == 100
    assert forecast.next_look_s(130, 130, POLICY) == 10
    assert forecast.next_look_s(50, 50, POLICY) == 20


def test_what_lasts_is_what_is_held_and_the_share_of_the_rest() -> None:
    """Two servers at the same wallet empty it twice as fast."""
    assert forecast.seconds_left(100, [(7200, 3600 * 2)]) == 100 + 3600
    assert forecast.seconds_left(-5, []) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (599, "9 minutes"),
        (3599, "59 minutes"),
        (3600, "1 h 0 m"),
        (3 * 3600 + 12 * 60 + 59, "3 h 12 m"),
        (3 * 24 * 3600, "3 days"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: int, text: str) -> None:
    """Rounded down: nobody is promised a minute that is not there."""
    assert forecast.duration_text(seconds) == text


def test_a_warning_says_how_long_at_what_rate_and_what_to_do() -> None:
    """One breath: time, rate, save, tokens."""
    assert forecast.low_text(560, 12_500_000) == (
        "Your tokens last for 9 more minutes at this rate (12.5 tokens per hour). Save "
        "your work; when they are used up this server is stopped. To go on, ask your "
        "instructor for tokens or redeem a voucher."
    )
    assert forecast.low_text(11_520, 1_000_000) == (
        "Your tokens last for 3 h 12 m more at this rate (1 token per hour)."
    )


def test_a_refusal_says_what_is_needed_what_is_there_and_what_to_do() -> None:
    """And names the course whose tokens were counted, and the cap if that is why."""
    said = forecast.refusal_text(
        needed=2_000_000,
        available=500_000,
        per_hour=12_000_000,
        hold_s=600,
        course="physics",
        cap="10 tokens",
    )
    assert said == (
        "This server costs 12 tokens per hour. For its first 10 minutes it needs 2 "
        "tokens, and you have 0.5 tokens for physics. You have drawn your part of its "
        "tokens (10 tokens). Ask your instructor for tokens, redeem a voucher, or "
        "start a CPU server, which is free."
    )


def test_a_balance_is_shown_with_what_the_server_burns() -> None:
    """Or that it burns nothing."""
    assert forecast.rate_text(12_500_000) == "This server burns 12.5 tokens per hour."
    assert forecast.rate_text(0) == "This server is free."


@pytest.mark.parametrize(
    "wrong",
    [
        {"hold_s": 59},
        {"stop_lead_s": -1},
        {"stop_lead_s": 300},
        {"warn_s": (600, 1800)},
        {"warn_s": (600, 600)},
        {"warn_s": (600, 30)},
        {"hold_expires_s": 599},
        {"welcome": -1},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(
    wrong: dict[str, Any],
) -> None:
    """When it is made, not when the first student runs out of tokens."""
    with pytest.raises(BadInput):
        Policy(**wrong)
