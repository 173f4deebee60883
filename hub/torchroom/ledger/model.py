"""The nouns of the ledger. Values only; amounts are integers of microtokens.

Times are aware UTC. 1 token = 1,000,000 microtokens.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

Microtokens = NewType("Microtokens", int)
MICRO = 1_000_000
AMOUNT_MAX = Microtokens(10**15)
"""A thousand million tokens: the most that one posting moves or one hour costs."""

CPU = "cpu"
"""Price key of a server without a slot."""
ANY = "*"
"""Price key of every slot that has no price of its own; never of a CPU server."""


class Kind(StrEnum):
    """Whose account. Only ISSUED may be negative: it is what was ever given out."""

    USER = "user"
    COURSE = "course"
    ISSUED = "issued"
    REVENUE = "revenue"
    HOLDS = "holds"


@dataclass(frozen=True, slots=True)
class Account:
    """A place for tokens; its balance is the sum of its postings.

    Attributes:
        kind: See Kind.
        name: User or course; "" for the ledger's own accounts.
        course: A user's tokens for servers of this course only; "" for any server.
        expires_at: From then on its tokens are not available; None: they do not expire.
    """

    kind: Kind
    name: str = ""
    course: str = ""
    expires_at: datetime | None = None


ISSUED = Account(Kind.ISSUED)
REVENUE = Account(Kind.REVENUE)
HOLDS = Account(Kind.HOLDS)


class Code(StrEnum):
    """Why tokens moved."""

    GRANT = "grant"  # issued -> user, by an admin
    WELCOME = "welcome"  # issued -> user, once for everybody
    IMPORT = "import"  # issued -> user or course, from another system
    VOUCHER = "voucher"  # issued -> user
    TOPUP = "topup"  # issued -> user, paid elsewhere
    BUDGET = "budget"  # issued -> course
    HAND_OUT = "hand_out"  # course -> user's account of that course, by an instructor
    ALLOWANCE = "allowance"  # course -> user's account of that course, every period
    TAKE_BACK = "take_back"  # user or course -> issued, by an admin
    RETURN = "return"  # user's account of a course -> that course, by an instructor
    LAPSE = "lapse"  # expired account -> issued
    HOLD = "hold"  # user, course -> holds
    SETTLE = "settle"  # holds -> revenue, the rest of the hold back
    VOID = "void"  # holds -> back: nothing was used
    EXPIRE = "expire"  # holds -> back: nobody resolved it in time
    REFUND = "refund"  # revenue -> back: the platform broke
    FEE = "fee"  # user, course -> revenue: for something else than a server's seconds
    FEE_BACK = "fee_back"  # revenue -> back: what the fee was for did not happen
    WAIVE = "waive"  # issued -> revenue: used beyond what was held, the site pays


@dataclass(frozen=True, slots=True)
class Posting:
    """A change of one account; `amount` is not 0."""

    account: Account
    amount: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """Postings that sum to zero; recorded whole, once, and never changed.

    Attributes:
        key: Idempotency key: recording the same key again changes nothing.
        code: Why.
        at: When it happened in the world.
        postings: At least two.
        request: What was asked for, in one line. The same key with another request is
            refused; what a retry may differ in (the time) is not part of it.
        lease_id: "" if no lease is concerned.
        actor: Who asked: a user's name, "service NAME", or "torchroom".
        note: One sentence for people.
    """

    key: str
    code: Code
    at: datetime
    postings: tuple[Posting, ...]
    request: str
    lease_id: str = ""
    actor: str = "torchroom"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Payer:
    """Who starts a server, and for which course; decides whose tokens are spent.

    Attributes:
        user: The server's owner.
        server: The server's name, "" for the default one.
        course: A course the user is a member of (the caller has checked); "" for none.
    """

    user: str
    server: str = ""
    course: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """What one slot costs from a time on, until a later price of the same key.

    Attributes:
        key: A `Slot.type` of the plugin, CPU, or ANY.
        per_hour: Microtokens per hour, 0 to AMOUNT_MAX. None: no price any more, such
            slots are refused.
        valid_from: See above.
        actor: Who set it.
    """

    key: str
    per_hour: int | None
    valid_from: datetime
    actor: str = "torchroom"


class Ending(StrEnum):
    """How a lease's charge is closed.

    USED: ready until its end. FAILED: it never came up, nothing is charged. BROKE: the
    platform broke; what is after the break is not charged.
    """

    USED = "used"
    FAILED = "failed"
    BROKE = "broke"


@dataclass(frozen=True, slots=True)
class MeteredLease:
    """A lease as the ledger knows it. All but the last four is fixed at the hold.

    Attributes:
        id: The plugin's lease id.
        payer: See Payer.
        slot_types: Price keys of its slots; (CPU,) for a server without one.
        per_hour: What it costs, for all slots together, as long as it lives.
        held_at: When the hold was placed.
        ready_at: When the meter began to run, None if it has not.
        settled_s: Whole seconds after `ready_at` that are settled.
        ended_at: Until when it was charged, None if it is open.
        reason: Why it ended, "" if it is open.
    """

    id: str
    payer: Payer
    slot_types: tuple[str, ...]
    per_hour: int
    held_at: datetime
    ready_at: datetime | None = None
    settled_s: int = 0
    ended_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """A JupyterHub group that has tokens of its own.

    Attributes:
        name: The group's name.
        title: For people.
        student_cap: The most that one student draws from the course's wallet in all,
            spent or handed out; None: no cap.
    """

    name: str
    title: str
    student_cap: int | None = None
