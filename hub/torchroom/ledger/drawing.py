"""Whose tokens are taken, in which order, and where what is left goes back to."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from torchroom.ledger.model import Account, Kind, Payer, Posting

LAST = datetime.max.replace(tzinfo=UTC)
"""Behind every expiry, for sorting."""

Part = Posting
"""What an account gives or gets: the amount is positive."""


class Share(NamedTuple):
    """A student's part in a course's wallet."""

    course: str
    user: str


def rank(account: Account, payer: Payer) -> tuple[int, datetime] | None:
    """Return where an account stands in the payer's order; None: it may not be used.

    First the payer's tokens for this course, then the course's, then the payer's for
    anything; among equals those that expire soonest.
    """
    expires_at = account.expires_at or LAST
    if account.kind is Kind.COURSE:
        is_theirs = payer.course and account.name == payer.course
        return (1, expires_at) if is_theirs else None
    if account.kind is not Kind.USER or account.name != payer.user:
        return None
    if not account.course:
        return (2, expires_at)
    return (0, expires_at) if account.course == payer.course else None


class Wallets:
    """What accounts hold while a plan is made: what is planned is taken at once.

    Args:
        balances: Account -> microtokens available, >= 0.
        room: What a student may still draw from a course's wallet. A share that is not
            there has no cap.

    Attributes:
        drawn: What the plan changes in the sum that a student drew from a course.
    """

    def __init__(
        self, balances: Mapping[Account, int], room: Mapping[Share, int]
    ) -> None:
        self._balances = dict(balances)
        self._room = dict(room)
        self._by_name: dict[tuple[Kind, str], list[Account]] = {}
        self._orders: dict[tuple[str, str], list[Account]] = {}
        for account in balances:
            self._by_name.setdefault((account.kind, account.name), []).append(account)
        self.drawn: Counter[Share] = Counter()

    def available(self, payer: Payer, at: datetime) -> int:
        """Return what the payer can spend at a moment, in microtokens."""
        return sum(part.amount for part in self.offers(payer, at))

    def offers(self, payer: Payer, at: datetime) -> list[Part]:
        """Return what each account can give, in the order in which they are drawn."""
        parts = []
        for account in self._order(payer):
            if account.expires_at is not None and account.expires_at <= at:
                continue
            amount = self._balances[account]
            if account.kind is Kind.COURSE:
                share = Share(account.name, payer.user)
                amount = min(amount, self._room.get(share, amount))
            if amount > 0:
                parts.append(Part(account, amount))
        return parts

    def is_capped(self, share: Share) -> bool:
        """Tell whether a student may draw less than the course's wallet has."""
        whole = sum(
            self._balances[account]
            for account in self._by_name.get((Kind.COURSE, share.course), ())
        )
        return self._room.get(share, whole) < whole

    def draw(self, payer: Payer, amount: int, at: datetime) -> tuple[Part, ...]:
        """Take an amount, or all there is if that is less; return who gives what."""
        parts = []
        for offer in self.offers(payer, at):
            if amount <= 0:
                break
            part = Part(offer.account, min(offer.amount, amount))
            parts.append(part)
            amount -= part.amount
        self._move(payer, parts, -1)
        return tuple(parts)

    def put_back(self, payer: Payer, parts: Iterable[Part]) -> None:
        """Give parts back to where they came from."""
        self._move(payer, parts, 1)

    def _order(self, payer: Payer) -> list[Account]:
        key = (payer.user, payer.course)
        if key not in self._orders:
            ranked = []
            for name in ((Kind.USER, payer.user), (Kind.COURSE, payer.course)):
                for account in self._by_name.get(name, ()):
                    place = rank(account, payer)
                    if place is not None:
                        ranked.append((place, account))
            ranked.sort(key=lambda entry: entry[0])
            self._orders[key] = [account for _, account in ranked]
        return self._orders[key]

    def _move(self, payer: Payer, parts: Iterable[Part], sign: int) -> None:
        for part in parts:
            account, amount = part.account, part.amount
            if account not in self._balances:  # not read: nothing of it can be drawn
                self._by_name.setdefault((account.kind, account.name), []).append(
                    account
                )
                self._orders.clear()
            balance = self._balances.get(account, 0)
            self._balances[account] = balance + sign * amount
            if account.kind is Kind.COURSE:
                share = Share(account.name, payer.user)
                self.drawn[share] -= sign * amount
                if share in self._room:
                    self._room[share] += sign * amount


def consume(
    parts: Sequence[Part], amount: int
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Return what an amount uses of parts, the first drawn first, and the rest.

    Raises:
        ValueError: The amount is negative or more than the parts.
    """
    used, rest = [], []
    for part in parts:
        taken = min(part.amount, max(amount, 0))
        amount -= taken
        if taken:
            used.append(Part(part.account, taken))
        if part.amount > taken:
            rest.append(Part(part.account, part.amount - taken))
    if amount:
        raise ValueError(f"the parts do not come up with {amount} microtokens")
    return tuple(used), tuple(rest)


def newest_first(parts: Sequence[Part], amount: int) -> tuple[Part, ...]:
    """Return who gets an amount back out of what was paid, the last payment first.

    Args:
        parts: What was paid, in the order in which it was.
        amount: At most what they sum to.

    Raises:
        ValueError: The amount is negative or more than was paid.
    """
    return consume(parts[::-1], amount)[0]


def summed(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return each account once with its sum, in the order of first appearance."""
    sums: dict[Account, int] = {}
    for part in parts:
        sums[part.account] = sums.get(part.account, 0) + part.amount
    return tuple(Part(account, amount) for account, amount in sums.items() if amount)
