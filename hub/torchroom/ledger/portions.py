"""Who gets a portion of an allowance, and how much. Pure; see allowances.py."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from torchroom.ledger.periods import Every


class Mode(StrEnum):
    """REFILL: as much as is missing up to the amount. ADD: the amount."""

    REFILL = "refill"
    ADD = "add"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What each member of a course gets from its wallet, every period.

    Attributes:
        id: Its row.
        course: Whose wallet pays, and whose servers the tokens are for.
        every: How long a period is.
        mode: See Mode.
        amount: Microtokens.
        time_zone: IANA name; periods begin at its midnight.
        valid_from: Since when.
        ended_at: Until when, None if it goes on.
        actor: Who defined it.
    """

    id: int
    course: str
    every: Every
    mode: Mode
    amount: int
    time_zone: str
    valid_from: datetime
    ended_at: datetime | None
    actor: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user has when a portion is decided, in microtokens.

    Attributes:
        user: Who.
        has: Of the course's tokens, with what is held for running servers.
        room: What may still be drawn from the course's wallet; None: no cap.
    """

    user: str
    has: int
    room: int | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying allowances did.

    Attributes:
        n_given: Portions of more than nothing.
        microtokens: Given in all.
        n_short: Portions that the budget or the cap per student does not allow now.
    """

    n_given: int = 0
    microtokens: int = 0
    n_short: int = 0

    def __add__(self, other: "Applied") -> "Applied":
        """Return both together."""
        return Applied(
            self.n_given + other.n_given,
            self.microtokens + other.microtokens,
            self.n_short + other.n_short,
        )


def plan(
    allowance: Allowance, standings: Sequence[Standing], budget: int
) -> dict[str, int]:
    """Return what each user gets, 0 for who is full already.

    Who is not in it gets nothing yet: a portion is given whole, and the budget or the
    user's room does not allow it.

    Args:
        allowance: Which.
        standings: Who has no portion of this period yet; the first is served first.
        budget: What is in the course's wallet.
    """
    given: dict[str, int] = {}
    for standing in standings:
        portion = allowance.amount
        if allowance.mode is Mode.REFILL:
            portion = max(0, allowance.amount - standing.has)
        room = budget if standing.room is None else min(budget, standing.room)
        if portion <= room:
            given[standing.user] = portion
            budget -= portion
    return given


def in_fair_order(users: Collection[str], period: str) -> list[str]:
    """Return users in an order that is another one each period, and always the same.

    With a budget that does not suffice for all, it is not the same ones who go without
    every time because of their names.
    """

    def place(user: str) -> tuple[bytes, str]:
        lot = f"{period}:{user}".encode(errors="surrogatepass")
        return (hashlib.sha256(lot).digest(), user)

    return sorted(users, key=place)
