"""Which postings each kind of transaction has. Every result here is checked.

Amounts given to these functions are positive; the signs are made here. `parts` are what
each wallet gives or gets: postings with a positive amount, each wallet once.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Required, TypedDict, Unpack

from torchroom.ledger.amounts import check_amount
from torchroom.ledger.errors import BadInput, Corrupt
from torchroom.ledger.model import (
    AMOUNT_MAX,
    HOLDS,
    ISSUED,
    REVENUE,
    Account,
    Code,
    Kind,
    Posting,
    Transaction,
)
from torchroom.ledger.names import check_actor, check_key, check_name, check_note

_USER = frozenset({Kind.USER})
_COURSE = frozenset({Kind.COURSE})
_WALLETS = _USER | _COURSE
_ISSUED = frozenset({Kind.ISSUED})
_REVENUE = frozenset({Kind.REVENUE})
_HOLDS = frozenset({Kind.HOLDS})

SHAPES = {  # from which kinds of account, to which
    Code.GRANT: (_ISSUED, _USER),
    Code.WELCOME: (_ISSUED, _USER),
    Code.IMPORT: (_ISSUED, _WALLETS),
    Code.VOUCHER: (_ISSUED, _USER),
    Code.TOPUP: (_ISSUED, _USER),
    Code.BUDGET: (_ISSUED, _COURSE),
    Code.HAND_OUT: (_COURSE, _USER),
    Code.ALLOWANCE: (_COURSE, _USER),
    Code.TAKE_BACK: (_WALLETS, _ISSUED),
    Code.RETURN: (_USER, _COURSE),
    Code.LAPSE: (_WALLETS, _ISSUED),
    Code.HOLD: (_WALLETS, _HOLDS),
    Code.SETTLE: (_HOLDS, _WALLETS | _REVENUE),
    Code.VOID: (_HOLDS, _WALLETS),
    Code.EXPIRE: (_HOLDS, _WALLETS),
    Code.REFUND: (_REVENUE, _WALLETS),
    Code.FEE: (_WALLETS, _REVENUE),
    Code.FEE_BACK: (_REVENUE, _WALLETS),
    Code.WAIVE: (_ISSUED, _REVENUE),
}
_WITHIN_A_COURSE = {Code.HAND_OUT, Code.ALLOWANCE, Code.RETURN}


class Order(TypedDict, total=False):
    """What a transaction has beside its postings; see Transaction."""

    key: Required[str]
    at: Required[datetime]
    request: Required[str]
    lease_id: str
    actor: str
    note: str


def wallet_of_user(
    user: str, *, course: str = "", expires_at: datetime | None = None
) -> Account:
    """Return a user's account.

    Raises:
        BadInput: Not a name.
    """
    if course:
        check_name(course, "A course's name")
    name = check_name(user, "A user's name")
    return Account(Kind.USER, name, course, expires_at)


def wallet_of_course(course: str) -> Account:
    """Return a course's account.

    Raises:
        BadInput: Not a name.
    """
    return Account(Kind.COURSE, check_name(course, "A course's name"))


def digest_of(code: Code, request: str) -> str:
    """Return what two requests under one key are compared by."""
    told = f"{code}\n{request}".encode(errors="surrogatepass")
    return hashlib.sha256(told).hexdigest()


def transfer(
    code: Code,
    amount: int,
    *,
    source: Account,
    target: Account,
    **order: Unpack[Order],
) -> Transaction:
    """Return a move from one account to one other.

    Raises:
        BadInput: An amount, a name, a key or a note cannot be used.
        Corrupt: Tokens do not move so for this code.
    """
    check_amount(amount)
    legs = (Posting(source, -amount), Posting(target, amount))
    return check(Transaction(code=code, postings=legs, **order))


def gather(
    code: Code, parts: Sequence[Posting], *, target: Account, **order: Unpack[Order]
) -> Transaction:
    """Return a move of parts: wallets -> one account. Raises as `transfer`."""
    given = tuple(Posting(part.account, -part.amount) for part in _checked(parts))
    legs = (*given, Posting(target, _sum(parts)))
    return check(Transaction(code=code, postings=legs, **order))


def spread(
    code: Code, parts: Sequence[Posting], *, source: Account, **order: Unpack[Order]
) -> Transaction:
    """Return a move of parts: one account -> wallets. Raises as `transfer`."""
    legs = (Posting(source, -_sum(parts)), *_checked(parts))
    return check(Transaction(code=code, postings=legs, **order))


def hold(parts: Sequence[Posting], **order: Unpack[Order]) -> Transaction:
    """Return the reservation of parts: wallets -> HOLDS."""
    return gather(Code.HOLD, parts, target=HOLDS, **order)


def settle(used: int, rest: Sequence[Posting], **order: Unpack[Order]) -> Transaction:
    """Return the end of a hold that was used: `used` -> REVENUE, `rest` -> back.

    Both together are the hold's amount; either may be nothing.
    """
    legs = [Posting(HOLDS, -(used + _sum(rest)))]
    if used:
        legs.append(Posting(REVENUE, check_amount(used)))
    legs += _checked(rest)
    return check(Transaction(code=Code.SETTLE, postings=tuple(legs), **order))


def release(
    code: Code, parts: Sequence[Posting], **order: Unpack[Order]
) -> Transaction:
    """Return the end of a hold of which nothing was used: VOID or EXPIRE."""
    return spread(code, parts, source=HOLDS, **order)


def refund(parts: Sequence[Posting], **order: Unpack[Order]) -> Transaction:
    """Return what gives charged tokens back: REVENUE -> wallets."""
    return spread(Code.REFUND, parts, source=REVENUE, **order)


def fee(parts: Sequence[Posting], **order: Unpack[Order]) -> Transaction:
    """Return what is paid at once, for no lease: wallets -> REVENUE."""
    return gather(Code.FEE, parts, target=REVENUE, **order)


def fee_back(parts: Sequence[Posting], **order: Unpack[Order]) -> Transaction:
    """Return what gives a fee back: REVENUE -> wallets."""
    return spread(Code.FEE_BACK, parts, source=REVENUE, **order)


def waive(amount: int, **order: Unpack[Order]) -> Transaction:
    """Return what the site pays for a user: ISSUED -> REVENUE."""
    return transfer(Code.WAIVE, amount, source=ISSUED, target=REVENUE, **order)


def check(transaction: Transaction) -> Transaction:
    """Return the transaction, which may be recorded as far as it can say itself.

    Raises:
        BadInput: A key, an actor, a note or an account's name cannot be used.
        Corrupt: It is not balanced, or not of its code's shape: a mistake in the code.
    """
    check_key(transaction.key)
    check_note(transaction.note)
    check_actor(transaction.actor)
    check_balanced(transaction.postings)
    sources, targets = SHAPES[transaction.code]
    for posting in transaction.postings:
        kinds = sources if posting.amount < 0 else targets
        if posting.account.kind not in kinds:
            way = "from" if posting.amount < 0 else "to"
            raise Corrupt(
                f"A {transaction.code} does not move tokens {way} "
                f"{posting.account.kind}. Nothing was changed."
            )
        _check_account(posting.account)
    if transaction.code in _WITHIN_A_COURSE:
        _check_within_course(transaction)
    return transaction


def check_balanced(postings: Sequence[Posting]) -> None:
    """Guarantee I3 for one transaction: at least two postings, which sum to zero.

    Raises:
        BadInput: An amount is beyond what one posting moves.
        Corrupt: They do not, one of them is nothing, or an account is there twice.
    """
    amounts = [posting.amount for posting in postings]
    if len(postings) < 2 or sum(amounts) != 0 or not all(amounts):  # noqa: PLR2004
        raise Corrupt("The postings do not sum to zero. Nothing was changed.")
    if len({posting.account for posting in postings}) < len(postings):
        raise Corrupt("An account is posted to twice. Nothing was changed.")
    if max(amounts) > AMOUNT_MAX or min(amounts) < -AMOUNT_MAX:
        raise BadInput("That is more than one transaction can move.")


def _check_account(account: Account) -> None:
    """Raise unless the account can exist."""
    if account.kind is Kind.USER:
        wallet_of_user(account.name, course=account.course)
    elif account.kind is Kind.COURSE:
        wallet_of_course(account.name)
        if account.course:
            raise Corrupt("A course's wallet has no earmark. Nothing was changed.")
    elif account not in {ISSUED, REVENUE, HOLDS}:
        raise Corrupt(f"There is one {account.kind} account. Nothing was changed.")


def _check_within_course(transaction: Transaction) -> None:
    """Raise unless the tokens stay within one course.

    A course's tokens that leave its wallet are still for its servers only.
    """
    courses = {
        leg.account.name if leg.account.kind is Kind.COURSE else leg.account.course
        for leg in transaction.postings
    }
    if len(courses) != 1:
        raise Corrupt(
            f"A {transaction.code} stays within one course. Nothing was changed."
        )


def _checked(parts: Sequence[Posting]) -> Sequence[Posting]:
    for part in parts:
        check_amount(part.amount)
    return parts


def _sum(parts: Sequence[Posting]) -> int:
    return sum(part.amount for part in parts)
