"""What one write transaction moves for leases: decided here, recorded elsewhere.

A plan is made on wallets and leases that are locked, so it holds when it is recorded.
Its transactions go into the journal in their order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torchroom.ledger import posting
from torchroom.ledger.drawing import Wallets, consume, newest_first, summed
from torchroom.ledger.model import (
    REVENUE,
    Code,
    Ending,
    Kind,
    MeteredLease,
    Posting,
    Transaction,
)
from torchroom.ledger.policy import Policy
from torchroom.ledger.slices import Tab, seconds_between

WAIVED = "Used after the tokens were gone; the site pays."


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold that nothing has resolved.

    Attributes:
        id: Its row.
        parts: Who gave what, in the order in which it was drawn.
    """

    id: int
    parts: tuple[Posting, ...]

    @property
    def amount(self) -> int:
        """Microtokens held."""
        return sum(part.amount for part in self.parts)


@dataclass(frozen=True, slots=True)
class Standing:
    """A lease with its open hold.

    Attributes:
        lease: See MeteredLease.
        hold: None if nothing is held for it.
        from_course: What of its charge the course's wallet paid, in microtokens.
    """

    lease: MeteredLease
    hold: OpenHold | None = None
    from_course: int = 0

    @property
    def tab(self) -> Tab:
        """What is paid and held."""
        held = self.hold.amount if self.hold else 0
        return Tab(self.lease.per_hour, self.lease.settled_s, held)


@dataclass(frozen=True, slots=True)
class NewHold:
    """A hold to be recorded.

    Attributes:
        id: Its row.
        index: Of its transaction in the plan.
        lease_id: Whose.
        amount: Microtokens.
        expires_at: When it is given back if the meter never ran.
    """

    id: int
    index: int
    lease_id: str
    amount: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class HoldEnd:
    """What resolves a hold; `index` is its transaction's place in the plan."""

    hold_id: int
    index: int
    how: Code


@dataclass(frozen=True, slots=True)
class End:
    """How a lease ended, see Ending.

    Attributes:
        ending: See Ending.
        at: When its container ended; None: nobody knows, so what is settled stands.
        reason: For people, one line.
        broke_at: From then on the platform was broken; only if it BROKE.
    """

    ending: Ending
    at: datetime | None
    reason: str
    broke_at: datetime | None = None


class Plan:
    """Transactions for any number of leases, in the order in which they are added.

    Args:
        wallets: What can be drawn; the plan takes from it.
        hold_ids: Rows for new holds.
        policy: See Policy.

    Attributes:
        transactions: To be recorded.
        holds: New ones; some may end in the same plan.
        ends: Of holds, old or new.
    """

    def __init__(
        self, wallets: Wallets, hold_ids: Iterator[int], policy: Policy
    ) -> None:
        self.wallets = wallets
        self.transactions: list[Transaction] = []
        self.holds: list[NewHold] = []
        self.ends: list[HoldEnd] = []
        self._hold_ids = hold_ids
        self._policy = policy

    def advance(self, standing: Standing, used_s: int, at: datetime) -> Standing:
        """Settle what was used and hold for what comes, if that is due.

        Args:
            standing: A lease whose meter runs.
            used_s: Seconds since it was ready.
            at: When these were over; what expired by then is not drawn.
        """
        payer, hold_s = standing.lease.payer, self._policy.hold_s
        within_reach = self.wallets.available(payer, at) - _lost(standing, used_s, at)
        if not standing.tab.is_due(used_s, within_reach, hold_s):
            return standing
        after = self._resolve(standing, standing.tab.settle_to(used_s), at)
        available = self.wallets.available(payer, at)
        amount = after.tab.next_hold(used_s, available, hold_s)
        return self.hold(after, amount, at, previous=standing.hold)

    def hold(
        self,
        standing: Standing,
        amount: int,
        at: datetime,
        *,
        previous: OpenHold | None = None,
    ) -> Standing:
        """Reserve an amount that the wallets have; nothing if it is 0."""
        parts = self.wallets.draw(standing.lease.payer, amount, at)
        if not parts:
            return standing
        lease = standing.lease
        after = previous.id if previous else 0
        index = self._add(
            posting.hold(
                parts,
                key=f"hold:{lease.id}:{lease.settled_s}:{after}",
                at=at,
                request=f"hold from second {lease.settled_s} after hold {after}",
                lease_id=lease.id,
            )
        )
        hold = OpenHold(next(self._hold_ids), parts)
        expires_at = at + timedelta(seconds=self._policy.hold_expires_s)
        self.holds.append(NewHold(hold.id, index, lease.id, hold.amount, expires_at))
        return replace(standing, hold=hold)

    def close(
        self, standing: Standing, end: End, paid: Sequence[Posting] = ()
    ) -> Standing:
        """Bring a lease's charge to exactly what it used, and resolve its hold.

        Args:
            standing: A lease that has not ended.
            end: See End.
            paid: Who paid what is settled, in the order in which it was; needed if that
                is more than was used.
        """
        used_s, ended_at = self.usage(standing.lease, end)
        if used_s < standing.lease.settled_s:
            after = self._resolve(standing, standing.lease.settled_s, ended_at)
            back = summed(newest_first(paid, -after.tab.cost_until(used_s)))
            back = summed(_lasting(part, end.at or ended_at) for part in back)
            after = self._refund(after, back, ended_at, end.reason)
        elif standing.lease.per_hour:
            after = self._resolve(standing, standing.tab.settle_to(used_s), ended_at)
            after = self._overrun(after, used_s, ended_at, standing.hold)
        else:
            after = standing
        lease = replace(
            standing.lease, settled_s=used_s, ended_at=ended_at, reason=end.reason
        )
        return replace(after, lease=lease)

    @staticmethod
    def usage(lease: MeteredLease, end: End) -> tuple[int, datetime]:
        """Return the seconds to be charged, and the moment until which they go."""
        if lease.ready_at is None or end.ending is Ending.FAILED:
            return 0, end.at or lease.ready_at or lease.held_at
        settled_until = lease.ready_at + timedelta(seconds=lease.settled_s)
        ended_at = end.at or settled_until
        if end.ending is Ending.BROKE and end.broke_at is not None:
            ended_at = min(ended_at, end.broke_at)
        ended_at = max(ended_at, lease.ready_at)
        return seconds_between(lease.ready_at, ended_at), ended_at

    def _resolve(self, standing: Standing, to_s: int, at: datetime) -> Standing:
        """Settle up to a second that the open hold covers, and give its rest back."""
        lease, hold = standing.lease, standing.hold
        lease = replace(lease, settled_s=to_s)
        if hold is None:
            return replace(standing, lease=lease)
        cost = standing.tab.cost_until(to_s)
        used, rest = consume(hold.parts, cost)
        self.wallets.put_back(lease.payer, rest)
        how = Code.SETTLE if cost else Code.VOID
        key = f"{how}:{lease.id}:{hold.id}"
        request = f"resolve hold {hold.id} at second {to_s}"
        index = self._add(
            posting.settle(
                cost, rest, key=key, at=at, request=request, lease_id=lease.id
            )
            if cost
            else posting.release(
                how, rest, key=key, at=at, request=request, lease_id=lease.id
            )
        )
        self.ends.append(HoldEnd(hold.id, index, how))
        from_course = standing.from_course + _of_courses(used)
        return Standing(lease, None, from_course)

    def _overrun(
        self, standing: Standing, used_s: int, at: datetime, previous: OpenHold | None
    ) -> Standing:
        """Charge what was used beyond the hold: from the wallets, then the site."""
        lease = standing.lease
        gap = standing.tab.cost_until(used_s)
        after = self.hold(standing, gap, at, previous=previous)
        if after.hold is not None:
            gap -= after.hold.amount
            after = self._settle_all(after, after.hold, at)
        if gap > 0:
            self._add(
                posting.waive(
                    gap,
                    key=f"waive:{lease.id}",
                    at=at,
                    request=f"waive until second {used_s}",
                    lease_id=lease.id,
                    note=WAIVED,
                )
            )
        return after

    def _settle_all(self, standing: Standing, hold: OpenHold, at: datetime) -> Standing:
        """Settle a whole hold."""
        index = self._add(
            posting.settle(
                hold.amount,
                (),
                key=f"{Code.SETTLE}:{standing.lease.id}:{hold.id}",
                at=at,
                request=f"resolve hold {hold.id} whole",
                lease_id=standing.lease.id,
            )
        )
        self.ends.append(HoldEnd(hold.id, index, Code.SETTLE))
        from_course = standing.from_course + _of_courses(hold.parts)
        return Standing(standing.lease, None, from_course)

    def _refund(
        self, standing: Standing, back: Sequence[Posting], at: datetime, why: str
    ) -> Standing:
        """Give back what was settled beyond what is to be charged."""
        if not back:
            return standing
        lease = standing.lease
        self.wallets.put_back(lease.payer, back)
        self._add(
            posting.refund(
                back,
                key=f"refund:{lease.id}",
                at=at,
                request="refund what was not used",
                lease_id=lease.id,
                note=why,
            )
        )
        return replace(standing, from_course=standing.from_course - _of_courses(back))

    def _add(self, transaction: Transaction) -> int:
        self.transactions.append(transaction)
        return len(self.transactions) - 1


def _is_expired(part: Posting, at: datetime) -> bool:
    expires_at = part.account.expires_at
    return expires_at is not None and expires_at <= at


def _lost(standing: Standing, used_s: int, at: datetime) -> int:
    """Return what of the open hold nobody could hold again, were it given back now.

    It was drawn from tokens that have expired meanwhile; held, it can still be used.
    """
    hold = standing.hold
    if hold is None or not any(_is_expired(part, at) for part in hold.parts):
        return 0
    cost = standing.tab.cost_until(standing.tab.settle_to(used_s))
    _, rest = consume(hold.parts, cost)
    return sum(part.amount for part in rest if _is_expired(part, at))


def _lasting(part: Posting, at: datetime) -> Posting:
    """Return a refund that can be used: not to an account that expired meanwhile."""
    if not _is_expired(part, at):
        return part
    return Posting(replace(part.account, expires_at=None), part.amount)


def _of_courses(parts: Iterable[Posting]) -> int:
    """Return what of these parts is a course's."""
    return sum(part.amount for part in parts if part.account.kind is Kind.COURSE)


def paid(history: Iterable[tuple[Code, Sequence[Posting]]]) -> list[Posting]:
    """Return who paid a lease's charge, in the order in which it was paid.

    Args:
        history: Its transactions, oldest first. Nothing of it was waived: that is done
            only where a lease ends.
    """
    payments: list[Posting] = []
    drawn: list[Posting] = []
    for code, legs in history:
        if code is Code.HOLD:
            drawn = [
                Posting(leg.account, -leg.amount)
                for leg in legs
                if leg.account.kind in {Kind.USER, Kind.COURSE}
            ]
        to_revenue = sum(leg.amount for leg in legs if leg.account == REVENUE)
        if code is Code.SETTLE:
            payments += consume(drawn, to_revenue)[0]
    return payments
