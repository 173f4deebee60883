"""How long tokens last, whom to warn about it, and the sentences for that."""

from collections.abc import Iterable, Sequence

from torchroom.ledger.amounts import text_of
from torchroom.ledger.policy import Policy
from torchroom.ledger.pricing import HOUR_S

MINUTE_S = 60
SHORT_S = 2 * MINUTE_S  # below this people read seconds
LONG_S = 48 * HOUR_S  # from here on days

WAYS_OUT = (
    "Ask your instructor for tokens, redeem a voucher, or start a CPU server, which is "
    "free."
)
USED_UP = (
    "your tokens are used up. Your files are safe: a CPU server is free, and opens "
    "them. To go on here, ask your instructor for tokens or redeem a voucher"
)
"""A reason, as a page shows it after a colon."""


def seconds_left(covered_s: int, pots: Iterable[tuple[int, int]]) -> int:
    """Return for how many more seconds a lease can be paid, if nothing else changes.

    Args:
        covered_s: Seconds that are held for and not used yet.
        pots: Microtokens that can be drawn, and what all leases that draw on them burn
            per hour together, > 0.
    """
    return max(0, covered_s) + sum(
        amount * HOUR_S // per_hour for amount, per_hour in pots
    )


def warned(left_s: int, warned_s: int, policy: Policy) -> tuple[int, bool]:
    """Return which warning was the last, and whether it is to be given now.

    Every warning comes once, and again only after what is left rose by a whole hold
    above it: two servers of one user take turns to hold, and so their shares sway.

    Args:
        left_s: See `seconds_left`.
        warned_s: The threshold of the last warning, 0 if there was none.
        policy: Whose `warn_s` are the thresholds.
    """
    reached = _least(policy.warn_s, left_s)
    if reached and (not warned_s or reached < warned_s):
        return reached, True
    if not warned_s:
        return 0, False
    still = _least(policy.warn_s, left_s - policy.hold_s)
    return (max(still, warned_s) if still else 0), False


def next_look_s(left_s: int, covered_s: int, policy: Policy) -> int:
    """Return in how many seconds a lease may need something; at least 1.

    Args:
        left_s: See `seconds_left`.
        covered_s: Seconds that are held for and not used yet. It is settled when less
            than half a hold is left of them, or when all are used.
        policy: See Policy.
    """
    to_half = covered_s - policy.hold_s // 2 + 1
    marks = [left_s - mark for mark in (*policy.warn_s, policy.stop_lead_s)]
    looks = [to_half if to_half > 0 else covered_s, *(m for m in marks if m > 0)]
    return max(1, min(looks))


def duration_text(seconds: int) -> str:
    """Return a duration as people say it, rounded down: "9 minutes", "3 h 12 m"."""
    if seconds < SHORT_S:
        return _count(seconds, "second")
    if seconds < HOUR_S:
        return _count(seconds // MINUTE_S, "minute")
    if seconds < LONG_S:
        return f"{seconds // HOUR_S} h {seconds % HOUR_S // MINUTE_S} m"
    return _count(seconds // (24 * HOUR_S), "day")


def low_text(left_s: int, per_hour: int) -> str:
    """Return the warning for a user whose servers burn so much together."""
    return (
        f"Your tokens last for {duration_text(left_s).replace(' ', ' more ', 1)} at "
        f"this rate ({text_of(per_hour)} per hour). Save your work; when they are used "
        "up this server is stopped. To go on, ask your instructor for tokens or redeem "
        "a voucher."
        if left_s < HOUR_S
        else f"Your tokens last for {duration_text(left_s)} more at this rate "
        f"({text_of(per_hour)} per hour)."
    )


def refusal_text(
    *, needed: int, available: int, per_hour: int, hold_s: int, course: str, cap: str
) -> str:
    """Return why a server cannot be started, and what its user can do.

    Args:
        needed: Microtokens that must be reserved for it.
        available: What its user can spend on it.
        per_hour: What it costs.
        hold_s: For how many seconds tokens are reserved.
        course: For which it would be started, "" for none.
        cap: What the user may draw from the course in all, "" if that is not why.
    """
    whose = f" for {course}" if course else ""
    limit = f" You have drawn your part of its tokens ({cap})." if cap else ""
    return (
        f"This server costs {text_of(per_hour)} per hour. For its first "
        f"{duration_text(hold_s)} it needs {text_of(needed)}, and you have "
        f"{text_of(available)}{whose}.{limit} {WAYS_OUT}"
    )


def rate_text(per_hour: int) -> str:
    """Return the sentence beside a balance: what one server burns."""
    if per_hour == 0:
        return "This server is free."
    return f"This server burns {text_of(per_hour)} per hour."


def _least(thresholds: Sequence[int], left_s: int) -> int:
    """Return the least threshold that is not below, 0 if all are."""
    return min((mark for mark in thresholds if left_s <= mark), default=0)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
