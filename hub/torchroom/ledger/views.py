"""What statements show: values only, made by statements.py. Amounts are microtokens."""

from dataclasses import dataclass
from datetime import datetime

from torchroom.ledger.model import Account, Code, MeteredLease


@dataclass(frozen=True, slots=True)
class Purse:
    """Tokens of a user that are spent in the same way.

    Attributes:
        course: Only servers of this course may use them, "" any server.
        expires_at: When they lapse, None: never.
        microtokens: What is there, more than 0.
    """

    course: str
    expires_at: datetime | None
    microtokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a user may still draw from the wallet of a course."""

    course: str
    title: str
    microtokens: int


@dataclass(frozen=True, slots=True)
class OpenLease:
    """A lease that goes on.

    Attributes:
        lease: Which.
        held: Reserved for it now.
        accrued: What it used since it was last settled.
    """

    lease: MeteredLease
    held: int
    accrued: int


@dataclass(frozen=True, slots=True)
class BalanceView:
    """A user's tokens at one moment; it does not depend on when leases are settled.

    Attributes:
        user: Whose.
        at: The moment.
        purses: The user's own tokens that are not held, soonest expiring first.
        shares: What courses let this user draw.
        leases: Those that go on.
        available: Sum of the purses.
        held: Sum of what is held for the leases.
        accrued: Sum of what they used since they were last settled.
        spendable: All that this user's servers can still use: available, shares and
            held, less accrued; at least 0.
        per_hour: What all running leases burn together.
        seconds_left: How long that goes on; None: nothing burns.
        next_expiry: When tokens of a purse lapse next, None: never.
    """

    user: str
    at: datetime
    purses: tuple[Purse, ...]
    shares: tuple[Share, ...]
    leases: tuple[OpenLease, ...]
    available: int
    held: int
    accrued: int
    spendable: int
    per_hour: int
    seconds_left: int | None
    next_expiry: datetime | None


@dataclass(frozen=True, slots=True)
class Line:
    """One posting of a transaction, for auditors."""

    account: Account
    amount: int
    balance_after: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a history: a transaction, or all charges of one lease.

    Attributes:
        id: The transaction's number or the lease's id.
        at: When it happened; of a lease when it was held.
        code: Why; SETTLE is what a lease was charged in all, less refunds.
        amount: What the owner's accounts gained or, below 0, paid.
        note: One sentence, or "".
        actor: Who asked for it.
        course: The earmark of the tokens, or the course of the lease; "" for none.
        expires_at: Of the tokens, None: never.
        lease: The lease of a charge, else None.
        paid_by_course: What of a lease the course's wallet paid.
        waived: What of a lease nobody paid, because the tokens were used up.
        key: Idempotency key; only in full histories, as is what follows.
        recorded_at: When the ledger wrote it.
        lease_id: The lease that it is part of, or "".
        ended_by: Of a hold how and by which transaction it ended, like "settle 17";
            that one is not in this list if it used all of the hold. Else "".
        lines: All its postings, the other side too.
    """

    id: str
    at: datetime
    code: Code
    amount: int
    note: str = ""
    actor: str = ""
    course: str = ""
    expires_at: datetime | None = None
    lease: MeteredLease | None = None
    paid_by_course: int = 0
    waived: int = 0
    key: str = ""
    recorded_at: datetime | None = None
    lease_id: str = ""
    ended_by: str = ""
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, newest first, and where to go on; None: these were the last."""

    items: tuple[Entry, ...]
    next: str | None
